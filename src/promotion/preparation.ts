import type { Clock } from "../oplog/clock.js";
import { StateDivergedError } from "../oplog/leadership-errors.js";
import { BeyondHeadError, HistoryDivergedError, ViewFailedError } from "../oplog/log-errors.js";
import { isOtherChain } from "../oplog/record.js";
import { Change, linkSignals } from "../oplog/timing.js";
import type { LogView } from "../standby/log-view.js";
import type { Candidate, FinalEntry } from "./messages.js";

/** What a candidate says of itself. */
export interface ReadyAnswer {
  readonly applied: bigint;
  /** Empty = not told. */
  readonly stateHash: Uint8Array;
  /** Of the entry applied, in hex; "" = not told. */
  readonly appliedChain: string;
  /** Of the Prepare that it answers; 0n = the newest. */
  readonly term: bigint;
}

export type Prepared =
  | { readonly kind: "ready" }
  /** What was missing when the time ran out. */
  | { readonly kind: "late"; readonly missing: string }
  | { readonly kind: "given up" };

export interface PreparationParts {
  readonly clock: Clock;
  readonly candidate: Candidate;
  readonly log: { readonly name: string };
  /** That this sidecar keeps of the log. */
  readonly view: LogView | undefined;
}

/** Brings candidate and view to the last entry of the terms before: both have applied exactly that, or nobody leads. */
export class Preparation {
  private readonly change = new Change();
  private newest: ReadyAnswer | undefined;
  private isAsked = false;
  /** Answers since the last preparation, to no question. */
  private unasked = 0;

  constructor(private readonly parts: PreparationParts) {}

  /** The candidate has answered. */
  note(readiness: ReadyAnswer): void {
    if (!this.isAsked) this.unasked++;
    this.newest = readiness;
    this.change.notify();
  }

  /** It is about to be asked: an answer to an earlier question does not count. */
  reset(): void {
    this.newest = undefined;
    this.isAsked = true;
  }

  /**
   * Throws BeyondHeadError, HistoryDivergedError, StateDivergedError and ViewFailedError: this candidate cannot lead. While
   * it is only invited, the log may have moved on, and the news of that be late: then whatever does not fit is given up.
   */
  async until(term: bigint, final: FinalEntry, isInvitation: boolean, signal: AbortSignal): Promise<Prepared> {
    try {
      return await this.prepare(term, final, signal);
    } catch (error) {
      const hasMovedOn = this.isPast(final.id);
      if (isInvitation && hasMovedOn) return { kind: "given up" };
      throw error;
    } finally {
      this.isAsked = false;
      this.unasked = 0;
    }
  }

  private async prepare(term: bigint, final: FinalEntry, signal: AbortSignal): Promise<Prepared> {
    const { candidate, view, clock } = this.parts;
    const deadlineMs = clock.monotonicMs() + candidate.readyTimeoutMs;
    const over = new AbortController();
    const { signal: both, unlink } = linkSignals(signal, over.signal);
    let isApplied = view === undefined;
    let failure: unknown;
    const applying = view?.promote(final.id, both).then(
      () => {
        isApplied = !both.aborted;
        this.change.notify();
      },
      (error: unknown) => {
        failure = both.aborted ? undefined : error;
        this.change.notify();
      },
    );
    try {
      for (;;) {
        const seen = this.change.version;
        if (failure !== undefined) throw failure;
        const ready = this.answerTo(term, final.id);
        if (isApplied && (ready !== undefined || !candidate.needsHandshake)) {
          this.requireSameHistory(ready, final);
          await this.requireSameState(ready, final.id);
          return { kind: "ready" };
        }
        if (signal.aborted) return { kind: "given up" };
        const leftMs = deadlineMs - clock.monotonicMs();
        if (leftMs <= 0) return { kind: "late", missing: this.missing(ready, isApplied, final.id) };
        await this.change.waitAtMost(clock, leftMs, seen, signal);
      }
    } finally {
      over.abort();
      unlink();
      await applying;
    }
  }

  private isPast(final: bigint): boolean {
    const { view } = this.parts;
    return (this.newest?.applied ?? 0n) > final || (view !== undefined && BigInt(view.applied) > final);
  }

  private answerTo(term: bigint, final: bigint): ReadyAnswer | undefined {
    const { newest } = this;
    if (newest === undefined || (newest.term !== 0n && newest.term !== term)) return undefined;
    if (newest.applied > final) throw new BeyondHeadError(newest.applied, final);
    // Not there yet; or an answer to an invitation that was taken back crossed the next one, for the same term.
    return newest.applied < final ? undefined : newest;
  }

  /** The right number alone proves nothing: after a restore of the store other entries have the same ones. */
  private requireSameHistory(ready: ReadyAnswer | undefined, { id, chain }: FinalEntry): void {
    const { view, log } = this.parts;
    const ofView = view !== undefined && BigInt(view.applied) === id ? view.appliedChain : "";
    for (const seen of [ready?.appliedChain ?? "", ofView]) {
      if (isOtherChain(seen, chain)) throw new HistoryDivergedError(log.name, id, seen, chain);
    }
  }

  private async requireSameState(ready: ReadyAnswer | undefined, final: bigint): Promise<void> {
    const { view, candidate } = this.parts;
    if (view === undefined || ready === undefined || ready.stateHash.length === 0) return;
    const { applied, stateHash: current } = await view.reader.summary();
    if (BigInt(applied) > final) {
      throw new ViewFailedError(view.name, applied, `what came before the new term ends at ${final}`);
    }
    if (Buffer.compare(current, ready.stateHash) === 0) return;
    const yours = Buffer.from(ready.stateHash).toString("hex");
    throw new StateDivergedError(candidate.id, final, yours, current.toString("hex"));
  }

  private missing(ready: ReadyAnswer | undefined, isApplied: boolean, final: bigint): string {
    const { candidate, view } = this.parts;
    const { newest, unasked } = this;
    const answer = newest === undefined ? "no Ready came" : `Ready came for entry ${newest.applied}`;
    const early =
      unasked === 0 ? "" : ` (${unasked} that came before Prepare ${unasked === 1 ? "does" : "do"} not count)`;
    const problems = [
      ...(candidate.needsHandshake && ready === undefined ? [`${answer} where ${final} is the last${early}`] : []),
      ...(isApplied ? [] : [`the view of this sidecar had applied ${view?.applied} of ${final}`]),
    ];
    return `${problems.join(", and ")}, within ${candidate.readyTimeoutMs} ms`;
  }
}
