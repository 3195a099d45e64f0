import { NotPrimaryError } from "../oplog/leadership-errors.js";
import { limitTime, settledOrAborted } from "../oplog/timing.js";
import type { ObjectEviction } from "../standby/eviction.js";
import type { LogView } from "../standby/log-view.js";
import { isCurrent, readLeadership } from "../stored/leadership.js";
import type { Claim } from "../writing/claim.js";
import type { LogWriter } from "../writing/log-writer.js";
import type { Candidacy } from "./candidacy.js";
import { HeldTerm } from "./held-term.js";
import { Leader, type LeaderParts } from "./leader.js";
import type { PromotionTimes } from "./messages.js";
import { untilStoreAnswers } from "./store-answers.js";
import type { Vacancy } from "./vacancy.js";

export interface TenureParts extends LeaderParts {
  readonly view: LogView | undefined;
  readonly eviction: ObjectEviction | undefined;
  readonly candidacy: Candidacy;
  readonly vacancy: Pick<Vacancy, "facts">;
  /** Told of each term, when it is claimed and when it is led. */
  readonly onHeld: (held: HeldTerm) => void;
}

interface OpenedWriter {
  readonly writer: LogWriter;
  readonly ended: Promise<void>;
}

/**
 * The leadership of one candidate on one lease, from its first term to its loss. When a writer stalls while the leader
 * key is still its own, the next term follows on the same lease.
 */
export class Tenure {
  private current: Leader | undefined;
  /** The newest. */
  private claim: Claim;
  private isFirst = true;

  constructor(
    private readonly parts: TenureParts,
    first: Claim,
  ) {
    this.claim = first;
  }

  /** The term that it leads at the moment. */
  get leader(): Leader | undefined {
    return this.current;
  }

  /** To be called whenever the lease has been renewed. */
  renewed(): void {
    if (this.current?.isWriting) this.parts.promises.renew(this.parts.keeper);
  }

  /** Returns when the campaign is over. Throws what ends the log itself; not before what was promised has run out. */
  async run(times: PromotionTimes): Promise<void> {
    const { log, life, promises, eviction } = this.parts;
    try {
      await this.leadTerms(times);
    } catch (error) {
      life.take({ kind: "failed" });
      throw error;
    } finally {
      await promises.outlast(life);
      log.primary.stepDown(this.claim, this.refusal);
      eviction?.tearDown();
    }
  }

  private async leadTerms(first: PromotionTimes): Promise<void> {
    const { clock, life, onHeld } = this.parts;
    for (let times = first; ; ) {
      await this.lead(times).finally(() => {
        this.current = undefined;
      });
      const endedMs = clock.monotonicMs();
      const again = await untilStoreAnswers(clock, () => this.claimAgain(), life.during("stalled"));
      if (again === undefined) return;
      const claimedMs = clock.monotonicMs();
      this.claim = again;
      onHeld(new HeldTerm(again));
      await this.applyUpTo(again);
      times = {
        fenceMs: Math.round(claimedMs - endedMs),
        catchUpMs: Math.round(clock.monotonicMs() - claimedMs),
        objectLeasesMs: 0,
      };
    }
  }

  private get refusal(): NotPrimaryError {
    return new NotPrimaryError("", "", this.claim.term);
  }

  /** What stalled may have been committed after all. */
  private async applyUpTo({ head }: Claim): Promise<void> {
    const { view, clock, life, candidate } = this.parts;
    if (view === undefined) return;
    const time = limitTime(clock, candidate.readyTimeoutMs, life.during("stalled"));
    try {
      return await view.promote(head.lastSequenceId, time.signal);
    } catch (error) {
      if (!time.signal.aborted) throw error;
    } finally {
      time.end();
    }
    const missing = `after a stall the view of this sidecar had only applied ${view.applied} of ${head.lastSequenceId}`;
    life.take({ kind: "late", missing });
  }

  /** Returns when the term has ended; "stalled": the next one is to be claimed. */
  private async lead(times: PromotionTimes): Promise<void> {
    const { log, logger, clock, view, candidate, promises, keeper, life, onHeld } = this.parts;
    const { claim } = this;
    const opened = await untilStoreAnswers(clock, () => this.open(claim), life.during("won", "stalled"));
    if (opened === undefined) return;
    onHeld(new HeldTerm(claim, opened.writer));
    life.take({ kind: "leads" });
    if (life.kind !== "leading") return this.close(opened);
    this.current = new Leader(this.parts, claim, opened.writer, opened.ended);
    view?.promoted();
    promises.lead(claim, keeper, times);
    const before = this.isFirst ? this.parts.vacancy.facts : {};
    this.isFirst = false;
    const facts = { log: log.name, candidate: candidate.id, term: String(claim.term), ...times, ...before };
    logger.info({ event: "leading", ...facts, head: String(claim.head.lastSequenceId) }, "the candidate leads");
    await this.leadWhileEvicting(this.current);
  }

  /** It was over while the writer was opened; what has been accepted since is written all the same. */
  private async close({ writer, ended }: OpenedWriter): Promise<void> {
    writer.drain(this.refusal);
    await settledOrAborted(ended, this.parts.keeper.lost);
  }

  /** Objects whose leases run out are removed meanwhile. */
  private async leadWhileEvicting(leader: Leader): Promise<void> {
    const over = new AbortController();
    const evicting = this.parts.eviction?.run(over.signal, leader.writer);
    // A defect; it is thrown below once the term has ended.
    evicting?.catch(() => this.parts.life.take({ kind: "failed" }));
    try {
      await leader.run();
    } finally {
      over.abort();
      await evicting;
    }
  }

  /** Undefined: somebody else has the term. */
  private async open(claim: Claim): Promise<OpenedWriter | undefined> {
    const { log, life } = this.parts;
    try {
      return await log.primary.open(claim);
    } catch (error) {
      if (!(error instanceof NotPrimaryError)) throw error;
      life.take({ kind: "taken", reason: "fenced", message: error.message });
      return undefined;
    }
  }

  /** An attempt whose answer was lost may have moved the leader key. Undefined: the place is not its own any more. */
  private async claimAgain(): Promise<Claim | undefined> {
    const { store, log, candidacy, keeper, life } = this.parts;
    for (;;) {
      const seen = await readLeadership(store, log.keys);
      const { leader, leaderRevision } = seen;
      const isOurs = leader !== undefined && candidacy.isOurs(leader);
      if (!isOurs && !(await isCurrent(store, log.keys, seen))) continue;
      if (isOurs) {
        const claim = await candidacy.claim(keeper, { leaderRevision, successorRevision: 0n });
        if (claim !== undefined) return claim;
      } else {
        if (leader === undefined) life.take({ kind: "vacated" });
        else life.take({ kind: "taken", reason: "fenced", message: `"${leader.id}" leads term ${leader.term}` });
        return undefined;
      }
    }
  }
}
