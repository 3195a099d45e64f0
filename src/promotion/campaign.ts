import { replacementOf } from "../stored/store-probe.js";
import { Bid, type BidParts, type PromotionObserver } from "./bid.js";
import { CampaignLife } from "./campaign-life.js";
import type { HeldTerm } from "./held-term.js";
import type { Leader } from "./leader.js";
import { LeaseKeeper } from "./lease-keeper.js";
import type { Lost } from "./messages.js";
import type { ReadyAnswer } from "./preparation.js";
import { Silence } from "./silence.js";
import { untilStoreAnswers } from "./store-answers.js";

/** What campaigns tell about themselves; the sidecar turns it into metrics. */
export interface CampaignObserver extends PromotionObserver {
  lost(log: string, reason: Lost["reason"] | "refused"): void;
}

export interface CampaignParts extends BidParts {
  readonly observer: CampaignObserver;
}

/** How long the end of a leadership may wait to be told until the store has said whether it is the same one. */
const IDENTITY_MS_MAX = 500;

/**
 * One candidate of one log, from its entry to its end; campaign-state.ts decides what follows from what. Everything rests
 * on one lease of the store, kept on this machine's monotonic clock. A lease that is lost while waiting is replaced;
 * afterwards it is the end.
 */
export class Campaign {
  private readonly life = new CampaignLife();
  private readonly bid: Bid;
  private readonly silence: Silence;
  private isDone = false;

  constructor(private readonly parts: CampaignParts) {
    this.bid = new Bid(parts, this.life);
    this.silence = new Silence(parts.clock, parts.candidate.aliveWithinMs);
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
    return this.bid.leading;
  }

  /** The term that it has claimed, and holds still. */
  get held(): HeldTerm | undefined {
    return this.bid.held;
  }

  /** The same, also when it is over. */
  get lastHeld(): HeldTerm | undefined {
    return this.bid.lastHeld;
  }

  /** The candidate lives. */
  alive(): void {
    this.silence.heard();
  }

  ready(readiness: ReadyAnswer): void {
    this.alive();
    this.bid.note(readiness);
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
    const { life, bid } = this;
    const grant = () => LeaseKeeper.grant(store, clock, candidate.ttlMs);
    for (;;) {
      const keeper = await untilStoreAnswers(clock, grant, life.during("entering"), (error) => bid.failed(error));
      if (keeper === undefined) return await this.lose();
      const lose = () => life.take({ kind: "lease lost", loss: keeper.lost.reason });
      keeper.lost.addEventListener("abort", lose, { once: true });
      const kept = keeper.run(() => bid.renewed(keeper));
      // A defect; it counts as a lost lease, and is thrown below.
      kept.catch(() => undefined);
      try {
        life.take({ kind: "granted" });
        await bid.stand(keeper);
        keeper.requireStore();
        if (life.kind === "over") return await this.lose(keeper);
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

  /** A lease that the store has dropped, or that somebody else has taken, may be one that this store never had. */
  private async explained(lost: Lost, keeper: LeaseKeeper): Promise<Lost> {
    let { replaced } = keeper;
    if (lost.reason === "expired" || lost.reason === "fenced") {
      replaced = await replacementOf(this.parts.store, { deadlineMs: IDENTITY_MS_MAX });
    } else if (lost.reason !== "store unreachable") return lost;
    return replaced === undefined ? lost : { reason: "store replaced", message: replaced.message };
  }

  /** Told before the lease is given up, which takes long while the store is away. */
  private async lose(keeper?: LeaseKeeper): Promise<Lost> {
    const { lost: found } = this.life;
    if (found === undefined) throw new Error("a campaign ended without a reason");
    const lost = keeper === undefined ? found : await this.explained(found, keeper);
    this.isDone = true;
    this.parts.send({ kind: "lost", lost });
    await this.bid.leave(lost);
    return lost;
  }
}

function isPlanned({ reason }: Lost): boolean {
  return reason === "resigned" || reason === "handed over";
}
