import type { Log } from "../log/log.js";
import type { Clock } from "../oplog/clock.js";
import { type KvStore, type StoreError, StoreRefusedError } from "../oplog/kv-store.js";
import { LeadershipByTokenError, NotPrimaryError } from "../oplog/leadership-errors.js";
import type { Logger } from "../oplog/logger.js";
import { chainOf } from "../oplog/record.js";
import { linkSignals } from "../oplog/timing.js";
import type { ObjectEviction } from "../standby/eviction.js";
import type { LogView } from "../standby/log-view.js";
import { isConfirmed, watchLeadership } from "../stored/leader-watch.js";
import type { Leadership } from "../stored/leadership.js";
import { primaryOf } from "../stored/primary.js";
import { requireNotLost } from "../stored/store-failures.js";
import type { Claim, Turn } from "../writing/claim.js";
import { Candidacy, unlessStoreFails } from "./candidacy.js";
import type { HandOverObserver } from "./hand-over-report.js";
import { HeldTerm } from "./held-term.js";
import type { Leader } from "./leader.js";
import { LeaseKeeper } from "./lease-keeper.js";
import type { CampaignMessage, Candidate, FinalEntry, Lost, PromotionTimes } from "./messages.js";
import { Preparation, type Prepared, type ReadyAnswer } from "./preparation.js";
import { Promises } from "./promises.js";
import { Silence } from "./silence.js";
import { Tenure, untilStoreAnswers, whyOver } from "./tenure.js";
import { Vacancy } from "./vacancy.js";

/** What campaigns tell about themselves; the sidecar turns it into metrics. */
export interface CampaignObserver extends HandOverObserver {
  promoted(log: string, times: PromotionTimes): void;
  lost(log: string, reason: Lost["reason"] | "refused"): void;
}

export interface CampaignParts {
  readonly store: KvStore;
  readonly log: Log;
  /** That this sidecar keeps of the log. */
  readonly view: LogView | undefined;
  /** Of that view. */
  readonly eviction: ObjectEviction | undefined;
  readonly clock: Clock;
  /** How long the store has not answered by now. */
  readonly storeUnreachableMs: () => number;
  readonly logger: Logger;
  readonly observer: CampaignObserver;
  readonly candidate: Candidate;
  /** False: the candidate does not take it now. */
  readonly send: (message: CampaignMessage) => boolean;
}

/** The place is left then before the lease has run out. */
const ON_PURPOSE: readonly Lost["reason"][] = ["resigned", "silent", "not ready"];

const NO_CHAIN = new Uint8Array();

/** A watch may have died without a sign; a vacant place must not stay so for longer. */
const REREAD_MS_MAX = 1000;

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
  private readonly candidacy: Candidacy;
  private readonly preparation: Preparation;
  private readonly promises: Promises;
  private readonly vacancy: Vacancy;
  private readonly resigning = new AbortController();
  private readonly silence: Silence;
  private tenure: Tenure | undefined;
  private newestHeld: HeldTerm | undefined;
  private isHolding = false;
  private isDone = false;
  /** What it was told last while it waits. */
  private toldWaiting: string | undefined;
  /** By the store, since the leadership was looked at last. */
  private isRefused = false;

  constructor(private readonly parts: CampaignParts) {
    const { store, log, candidate, clock, send } = parts;
    this.candidacy = new Candidacy(store, clock, log, candidate);
    this.preparation = new Preparation(parts);
    this.promises = new Promises(clock, send);
    this.vacancy = new Vacancy({ store, keys: log.keys, clock, logger: parts.logger, candidate: candidate.id });
    this.silence = new Silence(clock, candidate.aliveWithinMs);
  }

  get log(): string {
    return this.parts.log.name;
  }

  /** It has been told so, or is about to be; what it held may still have to be given up. */
  get isOver(): boolean {
    return this.isDone;
  }

  get id(): string {
    return this.parts.candidate.id;
  }

  /** The term that it leads at the moment. */
  get leading(): Leader | undefined {
    return this.tenure?.leader;
  }

  /** The term that it has claimed, and holds still. */
  get held(): HeldTerm | undefined {
    return this.isHolding ? this.newestHeld : undefined;
  }

  /** The same, also when it is over. */
  get lastHeld(): HeldTerm | undefined {
    return this.newestHeld;
  }

  /** The candidate lives. */
  alive(): void {
    this.silence.heard();
  }

  ready(readiness: ReadyAnswer): void {
    this.alive();
    this.preparation.note(readiness);
  }

  /** Gives up whatever has been reached; `run` ends. */
  resign(why: string): void {
    this.resigning.abort(why);
  }

  /** Returns how it ended, when the place is vacant again. Throws OplogError where the candidate cannot lead. */
  async run(): Promise<Lost> {
    const { log, candidate, logger, observer } = this.parts;
    const over = new AbortController();
    const listening = this.silence.listen(over.signal);
    const facts = { log: log.name, candidate: candidate.id };
    logger.info({ event: "campaign_entered", ...facts, ttlMs: candidate.ttlMs }, "a candidate has entered");
    try {
      const lost = await this.campaign();
      const level = isPlanned(lost) ? "info" : "warn";
      logger[level]({ event: "campaign_ended", ...facts, reason: lost.reason }, lost.message);
      observer.lost(log.name, lost.reason);
      return lost;
    } catch (error) {
      logger.warn({ event: "campaign_ended", ...facts, reason: "refused", err: error }, "the candidate cannot lead");
      observer.lost(log.name, "refused");
      throw error;
    } finally {
      over.abort();
      await listening;
    }
  }

  private async campaign(): Promise<Lost> {
    const { store, clock, candidate, log } = this.parts;
    const { signal: resigned } = this.resigning;
    const { signal: silent } = this.silence;
    for (;;) {
      const grant = () => LeaseKeeper.grant(store, clock, candidate.ttlMs);
      const keeper = await untilStoreAnswers(clock, grant, [resigned, silent], (error) => this.noteFailure(error));
      if (keeper === undefined) return await this.lose(whyOver(resigned, silent, undefined));
      const kept = keeper.run(() => this.renewed(keeper));
      // A defect; it counts as a lost lease, and is thrown below.
      kept.catch(() => undefined);
      const { signal, unlink } = linkSignals(resigned, silent, keeper.lost);
      try {
        const lost = await this.stand(keeper, signal);
        keeper.requireStore();
        if (lost !== undefined) return await this.lose(lost);
        if (resigned.aborted || silent.aborted) return await this.lose(whyOver(resigned, silent, undefined));
      } catch (error) {
        this.isDone = true;
        throw error;
      } finally {
        unlink();
        log.primary.coolDown();
        await keeper.close();
        await kept;
      }
    }
  }

  private renewed(keeper: LeaseKeeper): void {
    this.tenure?.renewed();
    // It leads by its lease, whatever becomes of its entry; one that waits sees to that itself.
    if (this.held !== undefined) this.candidacy.enter(keeper).catch(() => undefined);
  }

  /** Told before the lease is given up, which takes long while the store is away. */
  private async lose(lost: Lost): Promise<Lost> {
    this.isDone = true;
    this.parts.send({ kind: "lost", lost });
    const held = this.newestHeld;
    if (held !== undefined && ON_PURPOSE.includes(lost.reason)) {
      await unlessStoreFails(() => this.candidacy.leave(held, lost.message), false);
    }
    return lost;
  }

  /** Undefined: the signal has aborted before anything was won. */
  private async stand(keeper: LeaseKeeper, signal: AbortSignal): Promise<Lost | undefined> {
    const { log } = this.parts;
    let stands = false;
    const rereadMs = Math.min(REREAD_MS_MAX, keeper.ttlMs / 2);
    const onFailed = (error: StoreError) => this.noteFailure(error);
    for await (const leadership of log.watchLeadership(signal, rereadMs, onFailed)) {
      const { term } = leadership;
      this.isRefused = false;
      this.vacancy.note(leadership);
      if (term !== undefined && term.token !== 0n) throw new LeadershipByTokenError(log.name, term.token, term.owner);
      if (stands) await this.candidacy.heed(leadership);
      // One that has failed would win, be of no use, and win again.
      this.parts.view?.requireWorking();
      const turn = this.candidacy.turnIn(leadership);
      if (turn === undefined || !stands)
        stands = await this.unlessStoreFails(() => this.candidacy.enter(keeper), false);
      if (turn === undefined || !stands) {
        if (!this.isRefused) this.tellWaiting(leadership);
      } else {
        const lost = await this.take(turn, leadership, keeper, signal).finally(() => this.standBack());
        if (lost !== undefined) return lost;
        if (!this.isRefused) this.toldWaiting = undefined;
      }
    }
    return undefined;
  }

  private tellWaiting({ term, leader }: Leadership): void {
    const primary = primaryOf(term, leader !== undefined);
    const told = `${primary.term} ${primary.id}`;
    if (this.toldWaiting !== told && this.parts.send({ kind: "waiting", leader: primary })) this.toldWaiting = told;
  }

  /** What is lost is the end. A refusal lasts until somebody acts, and is told at once; a store that does not answer may soon do so. */
  private noteFailure(error: StoreError): void {
    const { log, candidate, logger, send } = this.parts;
    requireNotLost(error);
    if (!(error instanceof StoreRefusedError)) return;
    const refusal = error.message;
    this.isRefused = true;
    if (this.toldWaiting === refusal) return;
    const facts = { event: "campaign_refused", log: log.name, candidate: candidate.id, refusal };
    logger.warn(facts, "the store refuses what the candidacy needs; trying again until it does not");
    if (send({ kind: "waiting", leader: undefined, refusal })) this.toldWaiting = refusal;
  }

  private unlessStoreFails<T>(work: () => Promise<T>, otherwise: T): Promise<T> {
    return unlessStoreFails(work, otherwise, (error) => this.noteFailure(error));
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
      const invitedFor = { id: prepared, chain: chainOf(successor?.finalChain ?? NO_CHAIN) };
      const next = (term?.term ?? 0n) + 1n;
      const isStill = (seen: Leadership) =>
        seen.successorRevision === turn.successorRevision && seen.leaderRevision === turn.leaderRevision;
      const outcome = await this.prepare(next, invitedFor, true, isStill, signal);
      if (outcome.kind !== "ready") return undefined;
    }
    const preparedMs = clock.monotonicMs();
    let claim = await this.unlessStoreFails(() => this.candidacy.claim(keeper, turn), undefined);
    if (claim === undefined) return undefined;
    const claimedMs = clock.monotonicMs();
    const won = claim;
    this.newestHeld = new HeldTerm(won);
    this.isHolding = true;
    try {
      const { head, termRevision, leaderRevision } = won;
      const final = { id: head.lastSequenceId, chain: chainOf(head.recordNonce) };
      if (prepared !== final.id) {
        const isStill = (seen: Leadership) =>
          seen.termRevision === termRevision && seen.leaderRevision === leaderRevision;
        const outcome = await this.prepare(won.term, final, false, isStill, signal);
        if (outcome.kind === "late") return { reason: "not ready", message: outcome.missing };
        // That took its time: whether the term is still ours is asked of the store once more before it is told.
        const over = [this.resigning.signal, this.silence.signal, keeper.lost];
        claim =
          outcome.kind === "given up"
            ? undefined
            : await untilStoreAnswers(clock, () => log.primary.confirm(won), over);
        if (claim === undefined) return whyOver(this.resigning.signal, this.silence.signal, keeper);
      }
      // Whoever led here before may have sent the view back to following meanwhile.
      if (!(await this.holdsView(final.id, signal))) return whyOver(this.resigning.signal, this.silence.signal, keeper);
      const caughtUpMs = clock.monotonicMs();
      const objectLeases = eviction?.setUp();
      return await this.lead(claim, keeper, {
        fenceMs: Math.round(claimedMs - preparedMs),
        catchUpMs: Math.round(caughtUpMs - claimedMs + (preparedMs - startedMs)),
        objectLeasesMs: Math.round(objectLeases?.tookMs ?? 0),
      });
    } finally {
      this.isHolding = false;
      log.primary.stepDown(won, new NotPrimaryError("", "", won.term));
    }
  }

  /** False: the signal has aborted. Throws ViewFailedError: the view is not at exactly that entry. */
  private async holdsView(final: bigint, signal: AbortSignal): Promise<boolean> {
    try {
      await this.parts.view?.promote(final, signal);
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      throw error;
    }
  }

  private async lead(claim: Claim, keeper: LeaseKeeper, times: PromotionTimes): Promise<Lost> {
    const { candidacy, promises, vacancy } = this;
    const [resigning, silent] = [this.resigning.signal, this.silence.signal];
    const onHeld = (held: HeldTerm) => {
      this.newestHeld = held;
    };
    this.tenure = new Tenure({ ...this.parts, keeper, candidacy, promises, vacancy, resigning, silent, onHeld });
    try {
      this.parts.observer.promoted(this.parts.log.name, times);
      return await this.tenure.run(claim, times);
    } finally {
      this.tenure = undefined;
    }
  }

  /** Another candidate at this sidecar may lead, or be about to: then the view is its concern. */
  private standBack(): void {
    const { view, log } = this.parts;
    const { writer, preparing, isClaiming } = log.primary;
    log.primary.coolDown();
    if (writer !== undefined) view?.promoted();
    else if (preparing === undefined && !isClaiming) view?.demoted();
  }

  /** Gives up when the store shows that what it is for does not hold any more. */
  private async prepare(
    term: bigint,
    final: FinalEntry,
    isHandOver: boolean,
    isStill: (seen: Leadership) => boolean,
    signal: AbortSignal,
  ): Promise<Prepared> {
    const { store, log, clock, send, candidate, logger } = this.parts;
    const changed = new AbortController();
    const done = new AbortController();
    const watching = linkSignals(signal, done.signal);
    const unchanged = linkSignals(signal, changed.signal);
    let failure: unknown;
    const watch = (async () => {
      for await (const seen of watchLeadership({ store, keys: log.keys, clock }, REREAD_MS_MAX, watching.signal)) {
        if (!isStill(seen) && (await isConfirmed({ store, keys: log.keys, clock }, seen))) return changed.abort();
      }
    })();
    // What is damaged there, or lost, is told below.
    watch.catch((error: unknown) => {
      failure = error;
      changed.abort();
    });
    // Beside what takes time anyhow. If it fails, opening reads all of it, or fails the same way.
    const warming = unlessStoreFails(() => log.primary.warmUp(), undefined);
    warming.catch(() => changed.abort());
    try {
      this.preparation.reset();
      logger.info(
        {
          event: "campaign_preparing",
          log: log.name,
          candidate: candidate.id,
          term: String(term),
          finalSequenceId: String(final.id),
          isHandOver,
          readyTimeoutMs: candidate.readyTimeoutMs,
        },
        "the candidate is told to prepare itself",
      );
      send({ kind: "prepare", term, final, isHandOver });
      const outcome = await this.preparation.until(term, final, isHandOver, unchanged.signal);
      await warming;
      if (failure !== undefined) throw failure;
      return outcome;
    } finally {
      done.abort();
      watching.unlink();
      unchanged.unlink();
    }
  }
}

function isPlanned({ reason }: Lost): boolean {
  return reason === "resigned" || reason === "handed over";
}
