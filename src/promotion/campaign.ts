import { randomBytes } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { CandidateEntrySchema } from "../gen/oplog/store/v1/store_pb.js";
import { type Claim, primaryOf, type Turn } from "../leadership/claim.js";
import { type Leadership, readLeadership } from "../leadership/leadership.js";
import type { Clock } from "../oplog/clock.js";
import { LeadershipByTokenError, NotPrimaryError } from "../oplog/errors.js";
import { type KvStore, StoreError } from "../oplog/kv-store.js";
import type { Logger } from "../oplog/logger.js";
import { watchLeadership } from "../replication/leader-watch.js";
import type { Log } from "../replication/log.js";
import type { LogPrimary } from "../replication/log-primary.js";
import type { LogWriter } from "../replication/log-writer.js";
import { Backoff, linkSignals, sleep } from "../replication/timing.js";
import type { ObjectEviction } from "../standby/eviction.js";
import type { View } from "../standby/view.js";
import { Leader, type TermEnd } from "./leader.js";
import { LeaseKeeper } from "./lease-keeper.js";
import type { CampaignMessage, Candidate, Lost, PromotionTimes } from "./messages.js";
import { Preparation, type Prepared, type Readiness } from "./preparation.js";

/** What campaigns tell about themselves; the sidecar turns it into metrics. */
export interface CampaignObserver {
  promoted(log: string, times: PromotionTimes): void;
  lost(log: string, reason: Lost["reason"]): void;
}

export interface CampaignParts {
  readonly store: KvStore;
  readonly log: Log;
  /** That this sidecar keeps of the log. */
  readonly view: View | undefined;
  /** Of that view. */
  readonly eviction: ObjectEviction | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly observer: CampaignObserver;
  readonly candidate: Candidate;
  /** False: the candidate does not take it now. */
  readonly send: (message: CampaignMessage) => boolean;
}

/** A watch may have died without a sign; a vacant place must not stay so for longer. */
const REREAD_MS_MAX = 1000;
const RETRY_FIRST_MS = 50;
const RETRY_MAX_MS = 1000;

/**
 * One candidate of one log, from its entry to its end.
 *
 *   waiting ──vacant──▶ claim ──▶ preparing ──ready──▶ leading ──▶ lost
 *      ▲  └──invited──▶ preparing ──ready──▶ claim ──────▲
 *      └─────────────────────┘ (the invitation was taken back)
 *
 * Everything rests on one lease of the store, kept on this machine's monotonic clock. A lease that is lost while waiting
 * is replaced; afterwards it is the end.
 */
export class Campaign {
  private readonly nonce = randomBytes(16);
  private readonly preparation: Preparation;
  private readonly resigning = new AbortController();
  private readonly silence = new AbortController();
  private leader: Leader | undefined;
  private toldLeader: string | undefined;
  private heardMs: number;
  private promisedUntilMs = 0;
  /** That it leads, while it does not take that: until then it is promised nothing. */
  private untold: CampaignMessage | undefined;
  /** Of the announcement that it has prepared for. */
  private warmForRevision = 0n;

  constructor(private readonly parts: CampaignParts) {
    this.preparation = new Preparation(parts);
    this.heardMs = parts.clock.monotonicMs();
  }

  get id(): string {
    return this.parts.candidate.id;
  }

  /** The term that it leads at the moment. */
  get leading(): Leader | undefined {
    return this.leader;
  }

  /** The candidate lives. */
  alive(): void {
    this.heardMs = this.parts.clock.monotonicMs();
  }

  ready(readiness: Readiness): void {
    this.alive();
    this.preparation.note(readiness);
  }

  /** Gives up whatever has been reached; `run` ends. */
  resign(why: string): void {
    this.resigning.abort(why);
  }

  /** Returns how it ended. Throws OplogError where the candidate cannot lead. */
  async run(): Promise<Lost> {
    const { log, candidate, logger, observer } = this.parts;
    const over = new AbortController();
    const listening = this.listen(over.signal);
    const facts = { log: log.name, candidate: candidate.id };
    logger.info({ event: "campaign_entered", ...facts, ttlMs: candidate.ttlMs }, "a candidate has entered");
    try {
      const lost = await this.campaign();
      logger.info({ event: "campaign_ended", ...facts, reason: lost.reason }, lost.message);
      observer.lost(log.name, lost.reason);
      return lost;
    } finally {
      over.abort();
      await listening;
    }
  }

  private async campaign(): Promise<Lost> {
    const { store, clock, candidate } = this.parts;
    for (;;) {
      const keeper = await this.untilStoreAnswers(undefined, () => LeaseKeeper.grant(store, clock, candidate.ttlMs));
      if (keeper === undefined) return this.ended();
      const kept = keeper.run(() => this.promise(keeper));
      const { signal, unlink } = linkSignals(this.resigning.signal, this.silence.signal, keeper.lost);
      try {
        const lost = await this.stand(keeper, signal);
        if (lost !== undefined) return lost;
        if (this.resigning.signal.aborted || this.silence.signal.aborted) return this.ended();
      } finally {
        unlink();
        this.parts.log.primary.coolDown();
        await keeper.close();
        await kept;
      }
    }
  }

  /** Undefined: the signal has aborted before anything was won. */
  private async stand(keeper: LeaseKeeper, signal: AbortSignal): Promise<Lost | undefined> {
    const { store, log } = this.parts;
    let isEntered = false;
    const rereadMs = Math.min(REREAD_MS_MAX, keeper.ttlMs / 2);
    for await (const leadership of watchLeadership(store, log.keys, rereadMs, signal)) {
      const { term } = leadership;
      if (term !== undefined && term.token !== 0n) throw new LeadershipByTokenError(log.name, term.token, term.owner);
      if (!isEntered) isEntered = await this.enter(keeper, 0n);
      if (this.isAnnouncedIn(leadership)) await this.warmUp(leadership.successorRevision, keeper);
      const turn = this.turnOf(leadership);
      if (turn === undefined) this.tellWaiting(leadership);
      else {
        const lost = await this.take(turn, leadership, keeper, signal).finally(() => this.restoreView());
        if (lost !== undefined) return lost;
        this.toldLeader = undefined;
      }
    }
    return undefined;
  }

  /** So that others know of the candidate. */
  private async enter({ leaseId }: LeaseKeeper, preparedForRevision: bigint): Promise<boolean> {
    const { store, log, candidate } = this.parts;
    const { id, endpoint } = candidate;
    const entry = create(CandidateEntrySchema, { id, endpoint, nonce: this.nonce, preparedForRevision });
    const value = toBinary(CandidateEntrySchema, entry);
    return this.unlessStoreFails(async () => {
      await store.txn({ compares: [], writes: [{ kind: "put", key: log.keys.candidate(id), value, leaseId }] });
      return true;
    }, false);
  }

  private isAnnouncedIn({ successor, successorRevision }: Leadership): boolean {
    const isForUs = successor?.id === this.id && successor.finalSequenceId === undefined;
    return isForUs && successorRevision !== this.warmForRevision;
  }

  /** A hand-over to this candidate is about to come. */
  private async warmUp(revision: bigint, keeper: LeaseKeeper): Promise<void> {
    const { log } = this.parts;
    const isWarm = await this.unlessStoreFails(() => log.primary.warmUp().then(() => true), false);
    if (isWarm && (await this.enter(keeper, revision))) this.warmForRevision = revision;
  }

  private turnOf({ leader, leaderRevision, successor, successorRevision }: Leadership): Turn | undefined {
    if (leader === undefined) return { leaderRevision: 0n, successorRevision: 0n };
    // A claim whose answer was lost.
    if (Buffer.compare(leader.nonce, this.nonce) === 0) return { leaderRevision, successorRevision: 0n };
    const isInvited = successor?.id === this.id && successor.finalSequenceId !== undefined;
    return isInvited ? { leaderRevision, successorRevision } : undefined;
  }

  private tellWaiting({ term, leader }: Leadership): void {
    const primary = primaryOf(term, leader !== undefined);
    const told = `${primary.term} ${primary.owner}`;
    if (this.toldLeader !== told && this.parts.send({ kind: "waiting", leader: primary })) this.toldLeader = told;
  }

  /** Undefined: it was not its turn any more, or that cannot be told yet; it goes on waiting. */
  private async take(
    turn: Turn,
    { term, successor }: Leadership,
    keeper: LeaseKeeper,
    signal: AbortSignal,
  ): Promise<Lost | undefined> {
    const { log, clock, eviction } = this.parts;
    const startedMs = clock.monotonicMs();
    const prepared = turn.successorRevision === 0n ? undefined : successor?.finalSequenceId;
    if (prepared !== undefined) {
      const next = (term?.term ?? 0n) + 1n;
      const outcome = await this.prepareWhileInvited(next, prepared, turn, signal);
      if (outcome.kind !== "ready") return undefined;
    }
    const preparedMs = clock.monotonicMs();
    const claim = await this.unlessStoreFails(() => this.claim(keeper, turn), undefined);
    if (claim === undefined) return undefined;
    const claimedMs = clock.monotonicMs();
    try {
      const final = claim.head.lastSequenceId;
      if (prepared !== final) {
        const outcome = await this.prepare(claim.term, final, false, signal);
        if (outcome.kind === "late") return { reason: "not ready", message: outcome.missing };
        if (outcome.kind === "given up") return this.lostBefore(keeper);
      }
      const caughtUpMs = clock.monotonicMs();
      const objectLeases = eviction?.setUp();
      const times = {
        fenceMs: Math.round(claimedMs - preparedMs),
        catchUpMs: Math.round(caughtUpMs - claimedMs + (preparedMs - startedMs)),
        objectLeasesMs: Math.round(objectLeases?.tookMs ?? 0),
      };
      return await this.lead(claim, keeper, times);
    } finally {
      log.primary.stepDown(claim, new NotPrimaryError("", "", claim.term));
    }
  }

  /** Another candidate at this sidecar may lead, or be about to. */
  private restoreView(): void {
    const { view, log } = this.parts;
    if (log.primary.writer !== undefined) view?.promoted();
    else if (!log.primary.isPreparing) view?.demoted();
  }

  private async prepare(
    term: bigint,
    finalSequenceId: bigint,
    isHandOver: boolean,
    signal: AbortSignal,
  ): Promise<Prepared> {
    this.preparation.reset();
    this.parts.send({ kind: "prepare", term, finalSequenceId, isHandOver });
    // Beside what takes time anyhow. If it fails, opening reads all of it, or fails the same way.
    const warming = this.unlessStoreFails(() => this.parts.log.primary.warmUp(), undefined);
    const outcome = await this.preparation.until(term, finalSequenceId, signal);
    await warming;
    return outcome;
  }

  /** Gives up when the invitation is taken back. */
  private async prepareWhileInvited(term: bigint, final: bigint, turn: Turn, signal: AbortSignal): Promise<Prepared> {
    const { store, log } = this.parts;
    const withdrawn = new AbortController();
    const done = new AbortController();
    const { signal: watching, unlink: unlinkWatching } = linkSignals(signal, done.signal);
    const { signal: invited, unlink: unlinkInvited } = linkSignals(signal, withdrawn.signal);
    const watch = (async () => {
      for await (const { successorRevision, leaderRevision } of watchLeadership(
        store,
        log.keys,
        REREAD_MS_MAX,
        watching,
      )) {
        if (successorRevision === turn.successorRevision && leaderRevision === turn.leaderRevision) continue;
        withdrawn.abort();
        return;
      }
    })();
    try {
      const outcome = await this.prepare(term, final, true, invited);
      return outcome;
    } finally {
      done.abort();
      await watch;
      unlinkWatching();
      unlinkInvited();
    }
  }

  /** Leads, under further terms if need be, until the leadership is lost. */
  private async lead(first: Claim, keeper: LeaseKeeper, times: PromotionTimes): Promise<Lost> {
    const { log, logger, observer, view, candidate } = this.parts;
    for (let claim = first; ; ) {
      const current = claim;
      try {
        const opened = await this.untilStoreAnswers(keeper, () => this.open(current));
        if (opened === undefined) return await this.lostOnceUnpromised(keeper);
        if ("reason" in opened) return opened;
        const leader = this.begin(current, keeper, opened);
        view?.promoted();
        this.tellLeading(current, keeper, times);
        if (current === first) observer.promoted(log.name, times);
        const facts = { log: log.name, candidate: candidate.id, term: String(current.term), ...times };
        logger.info({ event: "leading", ...facts, head: String(current.head.lastSequenceId) }, "the candidate leads");
        const end = await this.leadTerm(leader);
        if (end.kind === "lost") return end.lost;
      } finally {
        this.leader = undefined;
        log.primary.stepDown(current, new NotPrimaryError("", "", current.term));
      }
      // Its writer has stalled, and the leader key is still its own: the next term, on the same lease.
      const again = await this.untilStoreAnswers(keeper, () => this.claimAgain(keeper));
      if (again === undefined) return await this.lostOnceUnpromised(keeper);
      if ("reason" in again) return again;
      claim = again;
    }
  }

  private async open(claim: Claim): Promise<Lost | Awaited<ReturnType<LogPrimary["open"]>>> {
    try {
      return await this.parts.log.primary.open(claim);
    } catch (error) {
      if (error instanceof NotPrimaryError) return { reason: "fenced", message: error.message };
      throw error;
    }
  }

  /** An attempt whose answer was lost may have moved the leader key. */
  private async claimAgain(keeper: LeaseKeeper): Promise<Claim | Lost> {
    const { store, log } = this.parts;
    for (;;) {
      const { leader, leaderRevision } = await readLeadership(store, log.keys);
      if (leader === undefined) return { reason: "expired", message: "the store has dropped the lease" };
      if (Buffer.compare(leader.nonce, this.nonce) !== 0) {
        return { reason: "fenced", message: `"${leader.id}" leads term ${leader.term}` };
      }
      const claim = await this.claim(keeper, { leaderRevision, successorRevision: 0n });
      if (claim !== undefined) return claim;
    }
  }

  /** A silent candidate may live, and rely on what it was told of the term before. */
  private async lostOnceUnpromised(keeper: LeaseKeeper): Promise<Lost> {
    const { signal, unlink } = linkSignals(keeper.lost, this.resigning.signal);
    await sleep(Math.max(0, this.promisedUntilMs - this.parts.clock.monotonicMs()), signal);
    unlink();
    return this.lostBefore(keeper);
  }

  /** Objects whose leases run out are removed meanwhile. */
  private async leadTerm(leader: Leader): Promise<TermEnd> {
    const over = new AbortController();
    const evicting = this.parts.eviction?.run(over.signal, leader.writer);
    try {
      return await leader.run();
    } finally {
      over.abort();
      await evicting;
    }
  }

  private begin(
    claim: Claim,
    keeper: LeaseKeeper,
    { writer, ended }: { readonly writer: LogWriter; readonly ended: Promise<void> },
  ): Leader {
    const parts = {
      ...this.parts,
      keeper,
      resigning: this.resigning.signal,
      silent: this.silence.signal,
      promisedUntilMs: () => this.promisedUntilMs,
    };
    this.leader = new Leader(parts, claim, writer, ended);
    return this.leader;
  }

  private claim({ leaseId }: LeaseKeeper, turn: Turn): Promise<Claim | undefined> {
    const { log, candidate } = this.parts;
    return log.primary.claimElected(candidate, { leaseId, nonce: this.nonce }, turn);
  }

  /** Undefined: the leadership is over first. */
  private async untilStoreAnswers<T>(keeper: LeaseKeeper | undefined, work: () => Promise<T>): Promise<T | undefined> {
    const { signal, unlink } = linkSignals(
      this.resigning.signal,
      this.silence.signal,
      ...(keeper === undefined ? [] : [keeper.lost]),
    );
    const backoff = new Backoff(RETRY_FIRST_MS, RETRY_MAX_MS);
    try {
      while (!signal.aborted) {
        try {
          return await work();
        } catch (error) {
          if (!(error instanceof StoreError)) throw error;
          await sleep(backoff.delayMs(), signal);
        }
      }
      return undefined;
    } finally {
      unlink();
    }
  }

  private tellLeading(claim: Claim, keeper: LeaseKeeper, times: PromotionTimes): void {
    const { head, term } = claim;
    this.untold = { kind: "leading", term, nextSequenceId: head.lastSequenceId + 1n, logId: head.logId, times };
    this.promise(keeper);
  }

  /** Tells the candidate how long it may rely on its lease. */
  private promise({ validUntilMs }: LeaseKeeper): void {
    if (this.leader === undefined || this.leader.isOver || this.silence.signal.aborted) return;
    if (this.untold !== undefined && !this.parts.send(this.untold)) return;
    this.untold = undefined;
    const validForMs = Math.floor(validUntilMs - this.parts.clock.monotonicMs());
    if (validForMs <= 0) return;
    if (this.parts.send({ kind: "lease renewed", validForMs })) this.promisedUntilMs = validUntilMs;
  }

  /** Notices when the candidate has been silent for longer than it promised. */
  private async listen(signal: AbortSignal): Promise<void> {
    const { candidate, clock } = this.parts;
    const { aliveWithinMs } = candidate;
    while (aliveWithinMs !== undefined && !signal.aborted) {
      const leftMs = this.heardMs + aliveWithinMs - clock.monotonicMs();
      if (leftMs <= 0) return this.silence.abort(`nothing was heard of the candidate for ${aliveWithinMs} ms`);
      await sleep(leftMs, signal);
    }
  }

  private ended(): Lost {
    return this.silence.signal.aborted
      ? { reason: "silent", message: String(this.silence.signal.reason) }
      : { reason: "resigned", message: String(this.resigning.signal.reason) };
  }

  /** Won, and lost again before it could lead. */
  private lostBefore({ lost }: LeaseKeeper): Lost {
    if (this.resigning.signal.aborted || this.silence.signal.aborted) return this.ended();
    if (lost.aborted) return { reason: lost.reason, message: "the lease was lost before the candidate could lead" };
    return { reason: "fenced", message: "somebody else has claimed the log" };
  }

  private async unlessStoreFails<T>(work: () => Promise<T>, otherwise: T): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (error instanceof StoreError) return otherwise;
      throw error;
    }
  }
}
