import { randomBytes } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { CandidateEntrySchema, type LeaderLease } from "../gen/oplog/store/v1/store_pb.js";
import type { Claim, Turn } from "../leadership/claim.js";
import type { Leadership } from "../leadership/leadership.js";
import { type KvStore, StoreError } from "../oplog/kv-store.js";
import type { Log } from "../replication/log.js";
import type { LeaseKeeper } from "./lease-keeper.js";
import type { Candidate } from "./messages.js";

/** One candidate as the store knows it: its entry, its turn, its claims. */
export class Candidacy {
  private readonly nonce = randomBytes(16);
  /** Of the announcement that it has prepared for. */
  private warmForRevision = 0n;

  constructor(
    private readonly store: KvStore,
    private readonly log: Log,
    private readonly candidate: Candidate,
  ) {}

  /** So that others know of the candidate. False: the store did not take it. */
  async enter({ leaseId }: LeaseKeeper, preparedForRevision = 0n): Promise<boolean> {
    const { store, log, nonce } = this;
    const { id, endpoint } = this.candidate;
    const entry = create(CandidateEntrySchema, { id, endpoint, nonce, preparedForRevision });
    const value = toBinary(CandidateEntrySchema, entry);
    const put = { kind: "put" as const, key: log.keys.candidate(id), value, leaseId };
    return unlessStoreFails(() => store.txn({ compares: [], writes: [put] }).then(() => true), false);
  }

  /** If a hand-over to this candidate has been announced, reads what can be read beforehand, and says so. */
  async heed({ successor, successorRevision }: Leadership, keeper: LeaseKeeper): Promise<void> {
    const isForUs = successor?.id === this.candidate.id && successor.finalSequenceId === undefined;
    if (!isForUs || successorRevision === this.warmForRevision) return;
    const isWarm = await unlessStoreFails(() => this.log.primary.warmUp().then(() => true), false);
    if (isWarm && (await this.enter(keeper, successorRevision))) this.warmForRevision = successorRevision;
  }

  /** Undefined: it is not its turn. */
  turnIn({ leader, leaderRevision, successor, successorRevision }: Leadership): Turn | undefined {
    if (leader === undefined) return { leaderRevision: 0n, successorRevision: 0n };
    // A claim whose answer was lost.
    if (this.isOurs(leader)) return { leaderRevision, successorRevision: 0n };
    const isInvited = successor?.id === this.candidate.id && successor.finalSequenceId !== undefined;
    return isInvited ? { leaderRevision, successorRevision } : undefined;
  }

  isOurs(leader: LeaderLease): boolean {
    return Buffer.compare(leader.nonce, this.nonce) === 0;
  }

  /** Undefined: it was not its turn any more. Rejects with OplogError and StoreError. */
  claim({ leaseId }: LeaseKeeper, turn: Turn): Promise<Claim | undefined> {
    return this.log.primary.claimElected(this.candidate, { leaseId, nonce: this.nonce }, turn);
  }
}

export async function unlessStoreFails<T>(work: () => Promise<T>, otherwise: T): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof StoreError) return otherwise;
    throw error;
  }
}
