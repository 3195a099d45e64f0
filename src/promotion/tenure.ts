import type { Clock } from "../oplog/clock.js";
import { StoreError } from "../oplog/kv-store.js";
import { NotPrimaryError } from "../oplog/leadership-errors.js";
import { Backoff, limitTime, linkSignals, sleep } from "../oplog/timing.js";
import type { ObjectEviction } from "../standby/eviction.js";
import type { LogView } from "../standby/log-view.js";
import { isCurrent, readLeadership } from "../stored/leadership.js";
import { requireNotLost } from "../stored/store-failures.js";
import type { Claim } from "../writing/claim.js";
import type { LogWriter } from "../writing/log-writer.js";
import type { Candidacy } from "./candidacy.js";
import { HeldTerm } from "./held-term.js";
import { Leader, type LeaderParts, type TermEnd } from "./leader.js";
import type { LeaseKeeper } from "./lease-keeper.js";
import type { Lost, PromotionTimes } from "./messages.js";
import type { Promises } from "./promises.js";
import type { Vacancy } from "./vacancy.js";

export interface TenureParts extends Omit<LeaderParts, "promisedLeftMs"> {
  readonly view: LogView | undefined;
  readonly eviction: ObjectEviction | undefined;
  readonly candidacy: Candidacy;
  readonly promises: Promises;
  readonly vacancy: Pick<Vacancy, "facts">;
  /** Told of each term, when it is claimed and when it is led. */
  readonly onHeld: (held: HeldTerm) => void;
}

interface OpenedWriter {
  readonly writer: LogWriter;
  readonly ended: Promise<void>;
}

const RETRY_FIRST_MS = 50;
const RETRY_MAX_MS = 1000;

/**
 * The leadership of one candidate on one lease, from its first term to its loss. When a writer stalls while the leader
 * key is still its own, the next term follows on the same lease.
 */
export class Tenure {
  private current: Leader | undefined;
  private isFirst = true;

  constructor(private readonly parts: TenureParts) {}

  /** The term that it leads at the moment. */
  get leader(): Leader | undefined {
    return this.current;
  }

  /** To be called whenever the lease has been renewed. */
  renewed(): void {
    if (this.current === undefined || this.current.isOver || this.parts.silent.aborted) return;
    this.parts.promises.renew(this.parts.keeper);
  }

  /** Throws what ends the log itself; not before what was promised to the candidate has run out. */
  async run(first: Claim, times: PromotionTimes): Promise<Lost> {
    try {
      return await this.leadTerms(first, times);
    } catch (error) {
      await this.promisesRunOut();
      throw error;
    } finally {
      this.parts.eviction?.tearDown();
    }
  }

  private async leadTerms(first: Claim, times: PromotionTimes): Promise<Lost> {
    const { clock } = this.parts;
    for (let claim = first, taken = times; ; ) {
      const current = claim;
      const end = await this.lead(current, taken).finally(() => {
        this.current = undefined;
        this.stepDown(current);
      });
      if (end.kind === "lost") return end.lost;
      const endedMs = clock.monotonicMs();
      const again = await this.untilStoreAnswers(() => this.claimAgain());
      if (again === undefined) return this.lost();
      if ("reason" in again) return again;
      const claimedMs = clock.monotonicMs();
      this.parts.onHeld(new HeldTerm(again));
      const late = await this.applyUpTo(again).catch((error: unknown) => {
        this.stepDown(again);
        throw error;
      });
      if (late !== undefined) {
        this.stepDown(again);
        return late;
      }
      claim = again;
      taken = {
        fenceMs: Math.round(claimedMs - endedMs),
        catchUpMs: Math.round(clock.monotonicMs() - claimedMs),
        objectLeasesMs: 0,
      };
    }
  }

  private stepDown(claim: Claim): void {
    this.parts.log.primary.stepDown(claim, new NotPrimaryError("", "", claim.term));
  }

  /** What stalled may have been committed after all. The signals end the wait; then `lead` finds the end. */
  private async applyUpTo({ head }: Claim): Promise<Lost | undefined> {
    const { view, resigning, silent, keeper, candidate } = this.parts;
    if (view === undefined) return undefined;
    const time = limitTime(this.parts.clock, candidate.readyTimeoutMs, resigning, silent, keeper.lost);
    try {
      await view.promote(head.lastSequenceId, time.signal);
      return undefined;
    } catch (error) {
      if (!time.signal.aborted) throw error;
    } finally {
      time.end();
    }
    if (resigning.aborted || silent.aborted || keeper.lost.aborted) return undefined;
    await this.promisesRunOut();
    const message = `after a stall the view of this sidecar had only applied ${view.applied} of ${head.lastSequenceId}`;
    return { reason: "not ready", message };
  }

  private async lead(claim: Claim, times: PromotionTimes): Promise<TermEnd> {
    const { log, logger, view, candidate, promises, keeper } = this.parts;
    const opened = await this.untilStoreAnswers(() => this.open(claim));
    if (opened === undefined) return { kind: "lost", lost: await this.lost() };
    if ("reason" in opened) return { kind: "lost", lost: opened };
    const promisedLeftMs = () => promises.leftMs;
    this.current = new Leader({ ...this.parts, promisedLeftMs }, claim, opened.writer, opened.ended);
    this.parts.onHeld(new HeldTerm(claim, opened.writer));
    view?.promoted();
    promises.lead(claim, keeper, times);
    const before = this.isFirst ? this.parts.vacancy.facts : {};
    this.isFirst = false;
    const facts = { log: log.name, candidate: candidate.id, term: String(claim.term), ...times, ...before };
    logger.info({ event: "leading", ...facts, head: String(claim.head.lastSequenceId) }, "the candidate leads");
    return this.leadWhileEvicting(this.current);
  }

  /** Objects whose leases run out are removed meanwhile. */
  private async leadWhileEvicting(leader: Leader): Promise<TermEnd> {
    const over = new AbortController();
    const evicting = this.parts.eviction?.run(over.signal, leader.writer);
    // A defect; it is thrown below once the term has ended.
    evicting?.catch(() => leader.writer.drain());
    try {
      return await leader.run();
    } finally {
      over.abort();
      await evicting;
    }
  }

  private async open(claim: Claim): Promise<Lost | OpenedWriter> {
    try {
      return await this.parts.log.primary.open(claim);
    } catch (error) {
      if (error instanceof NotPrimaryError) return { reason: "fenced", message: error.message };
      throw error;
    }
  }

  /** An attempt whose answer was lost may have moved the leader key. */
  private async claimAgain(): Promise<Claim | Lost> {
    const { store, log, candidacy, keeper } = this.parts;
    for (;;) {
      const seen = await readLeadership(store, log.keys);
      const { leader, leaderRevision } = seen;
      const isOurs = leader !== undefined && candidacy.isOurs(leader);
      if (!isOurs && !(await isCurrent(store, log.keys, seen))) continue;
      if (leader === undefined) return { reason: "expired", message: "the lease has run out" };
      if (!isOurs) return { reason: "fenced", message: `"${leader.id}" leads term ${leader.term}` };
      const claim = await candidacy.claim(keeper, { leaderRevision, successorRevision: 0n });
      if (claim !== undefined) return claim;
    }
  }

  /** Between two terms. A silent candidate may live, and rely on what it was told of the term before. */
  private async lost(): Promise<Lost> {
    const { keeper, resigning, silent } = this.parts;
    await this.promisesRunOut();
    return whyOver(resigning, silent, keeper);
  }

  /** Unless the candidate does not rely on them any more. */
  private async promisesRunOut(): Promise<void> {
    const { keeper, resigning, promises } = this.parts;
    const { signal, unlink } = linkSignals(keeper.lost, resigning);
    await sleep(this.parts.clock, promises.leftMs, signal);
    unlink();
  }

  /** Undefined: the leadership is over first. */
  private async untilStoreAnswers<T>(work: () => Promise<T>): Promise<T | undefined> {
    const { resigning, silent, keeper } = this.parts;
    return untilStoreAnswers(this.parts.clock, work, [resigning, silent, keeper.lost]);
  }
}

/** Undefined: one of the signals has aborted first. Throws StoreLostError. */
export async function untilStoreAnswers<T>(
  clock: Clock,
  work: () => Promise<T>,
  over: readonly AbortSignal[],
  onFailed: (error: StoreError) => void = () => undefined,
): Promise<T | undefined> {
  const { signal, unlink } = linkSignals(...over);
  const backoff = new Backoff(clock, RETRY_FIRST_MS, RETRY_MAX_MS);
  try {
    while (!signal.aborted) {
      try {
        return await work();
      } catch (error) {
        if (!(error instanceof StoreError)) throw error;
        requireNotLost(error);
        onFailed(error);
        await sleep(clock, backoff.delayMs(), signal);
      }
    }
    return undefined;
  } finally {
    unlink();
  }
}

/** Which of what ends a candidacy from outside has come. */
export function whyOver(
  resigning: AbortSignal,
  silent: AbortSignal,
  keeper: Pick<LeaseKeeper, "lost"> | undefined,
): Lost {
  if (silent.aborted) return { reason: "silent", message: String(silent.reason) };
  if (resigning.aborted) return { reason: "resigned", message: String(resigning.reason) };
  if (keeper?.lost.aborted)
    return { reason: keeper.lost.reason, message: "the lease was lost before the candidate could lead" };
  return { reason: "fenced", message: "somebody else has claimed the log" };
}
