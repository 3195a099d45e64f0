import { randomBytes } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import {
  type CandidateEntry,
  CandidateEntrySchema,
  type LeaderLease,
  LeadershipEndSchema,
} from "../gen/oplog/store/v1/store_pb.js";
import type { Log } from "../log/log.js";
import type { Clock } from "../oplog/clock.js";
import type { KvStore } from "../oplog/kv-store.js";
import { CandidateExistsError } from "../oplog/leadership-errors.js";
import { LogDeletedError, LogReplacedError } from "../oplog/log-errors.js";
import { openCandidate } from "../stored/candidates.js";
import { deletedIn, hex, isSameLog, readLogId } from "../stored/deletion.js";
import type { Leadership } from "../stored/leadership.js";
import type { Claim, Turn } from "../writing/claim.js";
import type { HeldTerm } from "./held-term.js";
import type { LeaseKeeper } from "./lease-keeper.js";
import type { Candidate } from "./messages.js";
import { unlessStoreFails } from "./store-answers.js";

/** A store may count what is left of a lease in whole seconds. */
const COUNTING_MS = 1500;
/** One may come from the store itself: a new leader of etcd gives every lease its whole time. */
const RENEWALS_OF_THE_LIVING = 2;
/** A store that is away must not hold up the end; then the lease runs out. */
const LEAVE_MS = 1000;

/** One candidate as the store knows it: its entry, its turn, its claims. */
export class Candidacy {
  private readonly nonce = randomBytes(16);
  /** Of the announcement that it has prepared for. */
  private warmForRevision = 0n;
  private hasEntered = false;
  /** Of the log that it stands for. Undefined: there has been none, and it stands for whatever comes. */
  private logId: Uint8Array | undefined;
  /** Whose entry is in the way, when its lease ends at the latest unless it is renewed, and how often it was. */
  private namesake: { readonly nonce: Uint8Array; endsMs: number; renewals: number } | undefined;

  constructor(
    private readonly store: KvStore,
    private readonly clock: Clock,
    private readonly log: Log,
    private readonly candidate: Candidate,
  ) {}

  /**
   * Sees to it that others know of the candidate, and of what it has prepared for. An entry of the same endpoint is that
   * of its own earlier life, and is taken over; once taken over itself, it leaves the entry alone while that is there. An
   * entry of another endpoint is that of a namesake, which may have died or not. One that is damaged is replaced.
   *
   * False: it does not stand yet, for a namesake is in the way. Throws CandidateExistsError when that one is seen to live,
   * and StoreError.
   */
  async enter({ leaseId }: LeaseKeeper): Promise<boolean> {
    const { store, log, nonce, warmForRevision: preparedForRevision } = this;
    const { id, endpoint } = this.candidate;
    const key = log.keys.candidate(id);
    this.logId ??= await readLogId(store, log.keys);
    const { pair } = await store.get(key);
    const opened = pair && openCandidate(pair, log.keys.candidatesFrom);
    const current = opened !== undefined && "problem" in opened ? undefined : opened;
    if (current !== undefined && this.isOurs(current)) {
      this.hasEntered = true;
      if (pair?.leaseId === leaseId && current.preparedForRevision === preparedForRevision) return true;
    } else if (pair !== undefined && current !== undefined) {
      if (current.endpoint !== endpoint) {
        await this.suspect(current, pair.leaseId);
        return false;
      }
      if (this.hasEntered) return true;
    }
    const entry = create(CandidateEntrySchema, { id, endpoint, nonce, preparedForRevision });
    const { succeeded } = await store.txn({
      compares: [{ key, modRevision: pair?.modRevision ?? 0n }],
      writes: [{ kind: "put", key, value: toBinary(CandidateEntrySchema, entry), leaseId }],
    });
    this.hasEntered ||= succeeded;
    return succeeded;
  }

  /** If a hand-over to this candidate has been announced, reads what can be read beforehand; `enter` says so. */
  async heed({ successor, successorRevision }: Leadership): Promise<void> {
    const isForUs = successor?.id === this.candidate.id && successor.finalSequenceId === undefined;
    if (!isForUs || successorRevision === this.warmForRevision) return;
    const isWarm = await unlessStoreFails(() => this.log.primary.warmUp().then(() => true), false);
    if (isWarm) this.warmForRevision = successorRevision;
  }

  /** The candidate has the state of a log that is gone; to lead the next one of its name, it enters again. */
  requireNotDeleted({ term }: Leadership): void {
    const deleted = deletedIn(term);
    if (deleted === undefined || this.logId === undefined || !isSameLog(deleted, this.logId)) return;
    throw new LogDeletedError(this.log.name, hex(deleted), "was deleted");
  }

  /** The same where the deletion has not been seen, because the next log has come already. */
  requireSameLog({ head: { logId } }: Claim): void {
    if (this.logId === undefined || isSameLog(logId, this.logId)) return;
    throw new LogReplacedError(hex(this.logId), hex(logId));
  }

  /** Undefined: it is not its turn. */
  turnIn({ leader, leaderRevision, successor, successorRevision }: Leadership): Turn | undefined {
    if (leader === undefined) return { leaderRevision: 0n, successorRevision: 0n };
    // A claim whose answer was lost.
    if (this.isOurs(leader)) return { leaderRevision, successorRevision: 0n };
    const isInvited = successor?.id === this.candidate.id && successor.finalSequenceId !== undefined;
    return isInvited ? { leaderRevision, successorRevision } : undefined;
  }

  isOurs({ nonce }: LeaderLease | CandidateEntry): boolean {
    return Buffer.compare(nonce, this.nonce) === 0;
  }

  /** Undefined: it was not its turn any more. Rejects with OplogError and StoreError. */
  claim({ leaseId }: LeaseKeeper, turn: Turn): Promise<Claim | undefined> {
    return this.log.primary.claimElected(this.candidate, { leaseId, nonce: this.nonce }, turn);
  }

  /**
   * Leaves the place of the leader, which the end of the lease would do a moment later, and says why to whoever waits.
   * False: the place was not its own any more. Rejects with StoreError.
   */
  async leave({ term, leaderRevision = 0n }: HeldTerm, reason: string): Promise<boolean> {
    const { keys } = this.log;
    const end = create(LeadershipEndSchema, { term, id: this.candidate.id, reason });
    const { succeeded } = await this.store.txn(
      {
        compares: [{ key: keys.leader, modRevision: leaderRevision }],
        writes: [
          { kind: "delete", key: keys.leader },
          { kind: "put", key: keys.ended, value: toBinary(LeadershipEndSchema, end) },
        ],
      },
      { deadlineMs: LEAVE_MS },
    );
    return succeeded;
  }

  private async suspect({ nonce, endpoint }: CandidateEntry, leaseId: bigint): Promise<void> {
    const { store, clock, log, candidate } = this;
    const askedMs = clock.monotonicMs();
    const leftMs = (await store.leaseTimeLeft(leaseId)) ?? 0;
    const endsMs = clock.monotonicMs() + leftMs;
    if (this.namesake === undefined || Buffer.compare(this.namesake.nonce, nonce) !== 0) {
      this.namesake = { nonce, endsMs, renewals: 0 };
    }
    if (askedMs + leftMs <= this.namesake.endsMs + COUNTING_MS) return;
    this.namesake.endsMs = endsMs;
    this.namesake.renewals++;
    if (this.namesake.renewals >= RENEWALS_OF_THE_LIVING)
      throw new CandidateExistsError(log.name, candidate.id, endpoint);
  }
}
