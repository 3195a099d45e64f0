import type { Log } from "../log/log.js";
import type { Clock } from "../oplog/clock.js";
import type { KvStore, StoreError } from "../oplog/kv-store.js";
import { LeadershipByTokenError, NotPrimaryError } from "../oplog/leadership-errors.js";
import type { Logger } from "../oplog/logger.js";
import type { ObjectEviction } from "../standby/eviction.js";
import type { LogView } from "../standby/log-view.js";
import type { Leadership } from "../stored/leadership.js";
import type { Claim, Turn } from "../writing/claim.js";
import { CampaignLife } from "./campaign-life.js";
import { Candidacy } from "./candidacy.js";
import type { HandOverObserver } from "./hand-over-report.js";
import { Handshake } from "./handshake.js";
import { HeldTerm } from "./held-term.js";
import type { Leader } from "./leader.js";
import { LeaseKeeper } from "./lease-keeper.js";
import type { CampaignMessage, Candidate, Lost, PromotionTimes } from "./messages.js";
import type { ReadyAnswer } from "./preparation.js";
import { Promises } from "./promises.js";
import { Silence } from "./silence.js";
import { unlessStoreFails, untilStoreAnswers } from "./store-answers.js";
import { Tenure } from "./tenure.js";
import { Vacancy } from "./vacancy.js";
import { WaitingNotices } from "./waiting-notices.js";

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

/** A watch may have died without a sign; a vacant place must not stay so for longer. */
const REREAD_MS_MAX = 1000;

/**
 * One candidate of one log, from its entry to its end; campaign-state.ts decides what follows from what. Everything rests
 * on one lease of the store, kept on this machine's monotonic clock. A lease that is lost while waiting is replaced;
 * afterwards it is the end.
 */
export class Campaign {
  private readonly life = new CampaignLife();
  private readonly candidacy: Candidacy;
  private readonly handshake: Handshake;
  private readonly promises: Promises;
  private readonly vacancy: Vacancy;
  private readonly notices: WaitingNotices;
  private readonly silence: Silence;
  private tenure: Tenure | undefined;
  private newestHeld: HeldTerm | undefined;
  private isHolding = false;
  private isDone = false;

  constructor(private readonly parts: CampaignParts) {
    const { store, log, candidate, clock, send } = parts;
    this.candidacy = new Candidacy(store, clock, log, candidate);
    this.handshake = new Handshake(parts, this.life, REREAD_MS_MAX);
    this.promises = new Promises(clock, send);
    this.vacancy = new Vacancy({ store, keys: log.keys, clock, logger: parts.logger, candidate: candidate.id });
    this.notices = new WaitingNotices(parts);
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
    this.handshake.note(readiness);
  }

  /** Gives up whatever has been reached; `run` ends. */
  resign(why: string): void {
    this.life.take({ kind: "resigned", why });
  }

  /** Returns how it ended, when the place is vacant again. Throws OplogError where the candidate cannot lead. */
  async run(): Promise<Lost> {
    const { log, candidate, logger, observer } = this.parts;
    const over = new AbortController();
    const listening = this.silence.listen(over.signal, (why) => this.life.take({ kind: "silent", why }));
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
    const { life } = this;
    const grant = () => LeaseKeeper.grant(store, clock, candidate.ttlMs);
    for (;;) {
      const onFailed = (error: StoreError) => this.notices.failed(error);
      const keeper = await untilStoreAnswers(clock, grant, life.during("entering"), onFailed);
      if (keeper === undefined) return await this.lose();
      const lose = () => life.take({ kind: "lease lost", loss: keeper.lost.reason });
      keeper.lost.addEventListener("abort", lose, { once: true });
      const kept = keeper.run(() => this.renewed(keeper));
      // A defect; it counts as a lost lease, and is thrown below.
      kept.catch(() => undefined);
      try {
        life.take({ kind: "granted" });
        await this.stand(keeper);
        keeper.requireStore();
        if (life.kind === "over") return await this.lose();
      } catch (error) {
        life.take({ kind: "failed" });
        this.isDone = true;
        throw error;
      } finally {
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
  private async lose(): Promise<Lost> {
    const { lost } = this.life;
    if (lost === undefined) throw new Error("a campaign ended without a reason");
    this.isDone = true;
    this.parts.send({ kind: "lost", lost });
    const held = this.newestHeld;
    if (held !== undefined && ON_PURPOSE.includes(lost.reason)) {
      await unlessStoreFails(() => this.candidacy.leave(held, lost.message), false);
    }
    return lost;
  }

  /** Returns when it is over, or the lease was lost before anything was won. */
  private async stand(keeper: LeaseKeeper): Promise<void> {
    const { log } = this.parts;
    const { life, notices } = this;
    let stands = false;
    const rereadMs = Math.min(REREAD_MS_MAX, keeper.ttlMs / 2);
    const onFailed = (error: StoreError) => notices.failed(error);
    for await (const leadership of log.watchLeadership(life.during("waiting", "invited"), rereadMs, onFailed)) {
      const { term } = leadership;
      notices.looked();
      this.vacancy.note(leadership);
      if (term !== undefined && term.token !== 0n) throw new LeadershipByTokenError(log.name, term.token, term.owner);
      if (stands) await this.candidacy.heed(leadership);
      // One that has failed would win, be of no use, and win again.
      this.parts.view?.requireWorking();
      const turn = this.candidacy.turnIn(leadership);
      if (turn === undefined || !stands)
        stands = await unlessStoreFails(() => this.candidacy.enter(keeper), false, onFailed);
      if (turn === undefined || !stands) {
        notices.waits(leadership);
      } else {
        await this.take(turn, leadership, keeper).finally(() => this.standBack());
        if (life.kind === "over") return;
        notices.waitsAgain();
      }
    }
  }

  /** Returns when the term that was won is over, or when none was: it goes on waiting. */
  private async take(turn: Turn, leadership: Leadership, keeper: LeaseKeeper): Promise<void> {
    const { log, clock } = this.parts;
    const { life } = this;
    const startedMs = clock.monotonicMs();
    const prepared = turn.successorRevision === 0n ? undefined : leadership.successor?.finalSequenceId;
    if (prepared !== undefined && !(await this.handshake.invited(turn, leadership, prepared))) return;
    const preparedMs = clock.monotonicMs();
    const onFailed = (error: StoreError) => this.notices.failed(error);
    const won = await unlessStoreFails(() => this.candidacy.claim(keeper, turn), undefined, onFailed);
    if (won === undefined) return life.take({ kind: "not its turn" });
    const claimedMs = clock.monotonicMs();
    this.newestHeld = new HeldTerm(won);
    this.isHolding = true;
    life.take({ kind: "won" });
    try {
      const claim = await this.handshake.won(won, prepared);
      if (claim === undefined) return;
      const caughtUpMs = clock.monotonicMs();
      const objectLeases = this.parts.eviction?.setUp();
      await this.lead(claim, keeper, {
        fenceMs: Math.round(claimedMs - preparedMs),
        catchUpMs: Math.round(caughtUpMs - claimedMs + (preparedMs - startedMs)),
        objectLeasesMs: Math.round(objectLeases?.tookMs ?? 0),
      });
    } finally {
      this.isHolding = false;
      log.primary.stepDown(won, new NotPrimaryError("", "", won.term));
    }
  }

  private async lead(claim: Claim, keeper: LeaseKeeper, times: PromotionTimes): Promise<void> {
    const { life, candidacy, promises, vacancy } = this;
    const onHeld = (held: HeldTerm) => {
      this.newestHeld = held;
    };
    this.tenure = new Tenure({ ...this.parts, life, keeper, candidacy, promises, vacancy, onHeld }, claim);
    try {
      this.parts.observer.promoted(this.parts.log.name, times);
      await this.tenure.run(times);
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
}

function isPlanned({ reason }: Lost): boolean {
  return reason === "resigned" || reason === "handed over";
}
