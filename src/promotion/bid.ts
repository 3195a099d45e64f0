import type { Log } from "../log/log.js";
import type { Clock } from "../oplog/clock.js";
import type { KvStore, StoreError } from "../oplog/kv-store.js";
import { LeadershipByTokenError, NotPrimaryError } from "../oplog/leadership-errors.js";
import type { Logger } from "../oplog/logger.js";
import type { ObjectEviction } from "../standby/eviction.js";
import type { LogView } from "../standby/log-view.js";
import type { Leadership } from "../stored/leadership.js";
import type { Claim, Turn } from "../writing/claim.js";
import type { CampaignLife } from "./campaign-life.js";
import { Candidacy } from "./candidacy.js";
import type { HandOverObserver } from "./hand-over-report.js";
import { Handshake } from "./handshake.js";
import { HeldTerm } from "./held-term.js";
import type { Leader } from "./leader.js";
import type { LeaseKeeper } from "./lease-keeper.js";
import type { CampaignMessage, Candidate, Lost, PromotionTimes } from "./messages.js";
import type { ReadyAnswer } from "./preparation.js";
import { Promises } from "./promises.js";
import { unlessStoreFails } from "./store-answers.js";
import { Tenure } from "./tenure.js";
import { Vacancy } from "./vacancy.js";
import { WaitingNotices } from "./waiting-notices.js";

export interface PromotionObserver extends HandOverObserver {
  promoted(log: string, times: PromotionTimes): void;
}

export interface BidParts {
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
  readonly observer: PromotionObserver;
  readonly candidate: Candidate;
  /** False: the candidate does not take it now. */
  readonly send: (message: CampaignMessage) => boolean;
}

/** The place is left then before the lease has run out. */
const ON_PURPOSE: readonly Lost["reason"][] = ["resigned", "silent", "not ready"];

/** A watch may have died without a sign; a vacant place must not stay so for longer. */
const REREAD_MS_MAX = 1000;

/** What a candidate does while it has a lease: it waits for its turn, takes it, and leads. */
export class Bid {
  private readonly candidacy: Candidacy;
  private readonly handshake: Handshake;
  private readonly promises: Promises;
  private readonly vacancy: Vacancy;
  private readonly notices: WaitingNotices;
  private tenure: Tenure | undefined;
  private newestHeld: HeldTerm | undefined;
  private isHolding = false;

  constructor(
    private readonly parts: BidParts,
    private readonly life: CampaignLife,
  ) {
    const { store, log, candidate, clock, logger, send } = parts;
    this.candidacy = new Candidacy(store, clock, log, candidate);
    this.handshake = new Handshake(parts, life, REREAD_MS_MAX);
    this.promises = new Promises(clock, send);
    this.vacancy = new Vacancy({ store, keys: log.keys, clock, logger, candidate: candidate.id });
    this.notices = new WaitingNotices(parts);
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

  /** The candidate has answered. */
  note(readiness: ReadyAnswer): void {
    this.handshake.note(readiness);
  }

  /** To be called whenever the lease has been renewed. */
  renewed(keeper: LeaseKeeper): void {
    this.tenure?.renewed();
    // It leads by its lease, whatever becomes of its entry; one that waits sees to that itself.
    if (this.held !== undefined) this.candidacy.enter(keeper).catch(() => undefined);
  }

  /** To be called when the store has failed the candidate; it is told what lasts. Throws StoreLostError. */
  failed(error: StoreError): void {
    this.notices.failed(error);
  }

  /** Returns when it is over, or the lease was lost before anything was won. Rejects with OplogError. */
  async stand(keeper: LeaseKeeper): Promise<void> {
    const { log } = this.parts;
    const { life, notices } = this;
    let stands = false;
    const rereadMs = Math.min(REREAD_MS_MAX, keeper.ttlMs / 2);
    const onFailed = (error: StoreError) => notices.failed(error);
    for await (const leadership of log.watchLeadership(life.during("waiting", "invited"), rereadMs, onFailed)) {
      const { term } = leadership;
      notices.looked();
      this.vacancy.note(leadership);
      this.candidacy.requireNotDeleted(leadership);
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

  /** If it gives up on purpose, others need not wait for the end of its lease. */
  async leave({ reason, message }: Lost): Promise<void> {
    const held = this.newestHeld;
    if (held === undefined || !ON_PURPOSE.includes(reason)) return;
    await unlessStoreFails(() => this.candidacy.leave(held, message), false);
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
      this.candidacy.requireSameLog(won);
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
