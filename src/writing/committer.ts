import type { Clock } from "../oplog/clock.js";
import type { OplogError } from "../oplog/errors.js";
import type { LogKeys } from "../oplog/keys.js";
import {
  type KvStore,
  StoreDataLossError,
  StoreError,
  StoreRefusedError,
  StoreReplacedError,
} from "../oplog/kv-store.js";
import { DataLossError } from "../oplog/log-errors.js";
import type { Logger } from "../oplog/logger.js";
import type { ReplicationObserver } from "../oplog/observer.js";
import { Backoff, sleep } from "../oplog/timing.js";
import { replacementOf } from "../stored/store-probe.js";
import { Barriers } from "./barriers.js";
import type { Claim } from "./claim.js";
import { type Attempt, attemptCommit, type Position, type WriteOutcome } from "./commit.js";
import {
  type EndedWriter,
  type Ending,
  endDataLoss,
  endDeleted,
  endFenced,
  endGoneBack,
  endRuledOut,
  endStalled,
  endStoreLost,
  endStoreReplaced,
} from "./writer-end.js";

export interface CommitterParts {
  readonly store: KvStore;
  readonly keys: LogKeys;
  readonly claim: Claim;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly observer: ReplicationObserver;
  /** How long one attempt may be repeated. */
  readonly writeDeadlineMs: number;
}

/** What became of what was to be written. */
export type Written =
  | { readonly kind: "durable" }
  /** Nothing was written, nor will be: others have ruled operations out, and `barriers` tells which now. */
  | { readonly kind: "barred" }
  /** The writer must end. `isDurable`: the record was written before. */
  | { readonly kind: "over"; readonly ending: Ending; readonly isDurable: boolean };

const RETRY_FIRST_MS = 10;
const RETRY_MAX_MS = 1000;
/**
 * How long a write is tried again that the store refuses, if no attempt has an open outcome. After that whoever waits is
 * told, and the term is claimed again. A moment of overload is shorter than this.
 */
const REFUSED_MS_MAX = 1000;

/** Writes to the store for one term, one at a time, and knows what the log was when it was last seen. */
export class Committer {
  private position: Position;
  /** Those in the store, and those about to be put. */
  barriers: Barriers;
  private failingSince: { readonly wallMs: number; readonly monotonicMs: number } | undefined;

  constructor(private readonly parts: CommitterParts) {
    const { head, headRevision, barriers, barriersRevision } = parts.claim;
    this.position = { head, headRevision, barriersRevision };
    this.barriers = barriers;
  }

  /** Of the last durable record. */
  get head(): Position["head"] {
    return this.position.head;
  }

  get stalledSinceMs(): number | undefined {
    return this.failingSince?.wallMs;
  }

  /** Tries until it is durable or the writer has to end. `stopped`: why no further attempt is to be made. */
  async write(attempt: Attempt, signal: AbortSignal, stopped: () => OplogError | undefined): Promise<Written> {
    const { store, keys, claim, clock, observer, writeDeadlineMs } = this.parts;
    const startedMs = clock.monotonicMs();
    const backoff = new Backoff(clock, RETRY_FIRST_MS, RETRY_MAX_MS);
    let mayHaveBeenApplied = false;
    let lastError: StoreError | undefined;
    for (;;) {
      try {
        const verdict = await attemptCommit(store, keys, claim, this.position, attempt);
        const replaced = contradicts(verdict, claim) ? await replacementOf(store) : undefined;
        if (replaced !== undefined) throw replaced;
        this.noteWritable();
        const written = this.conclude(verdict, attempt, mayHaveBeenApplied);
        if (written.kind === "durable" && attempt.record !== undefined) {
          const { first, last } = attempt.record;
          observer.committed(keys.log, Number(last - first) + 1, (clock.monotonicMs() - startedMs) / 1000);
        }
        return written;
      } catch (error) {
        if (error instanceof DataLossError) return over(endDataLoss(this.self, error.message));
        if (!(error instanceof StoreError)) throw error;
        if (error instanceof StoreDataLossError) {
          return over(endStoreLost(this.self, error, mayHaveBeenApplied || !error.isCertainlyNotApplied));
        }
        if (error instanceof StoreReplacedError) {
          return over(endStoreReplaced(this.self, error, mayHaveBeenApplied));
        }
        if (!(error instanceof StoreRefusedError)) mayHaveBeenApplied = true;
        lastError = error;
        this.noteUnwritable(error);
        observer.writeRetried(keys.log);
      }
      const failedMs = clock.monotonicMs() - this.failingSince!.monotonicMs;
      const stoppedBy = stopped();
      const isRefused = !mayHaveBeenApplied && lastError instanceof StoreRefusedError;
      const deadlineMs = isRefused ? Math.min(REFUSED_MS_MAX, writeDeadlineMs) : writeDeadlineMs;
      if (failedMs >= deadlineMs || stoppedBy !== undefined) {
        const stall = { failedMs: Math.round(failedMs), mayHaveBeenApplied, cause: lastError, stoppedBy };
        return over(endStalled(this.self, stall));
      }
      await sleep(clock, backoff.delayMs(), signal);
    }
  }

  private conclude(verdict: WriteOutcome, { record }: Attempt, mayHaveBeenApplied: boolean): Written {
    const head = record?.head ?? this.head;
    switch (verdict.kind) {
      case "committed": {
        const { headRevision, barriersRevision } = verdict;
        this.position = { head, headRevision, barriersRevision };
        return { kind: "durable" };
      }
      case "barred":
        this.position = { ...this.position, barriersRevision: verdict.pair?.modRevision ?? 0n };
        this.barriers = Barriers.decode(verdict.pair);
        return { kind: "barred" };
      case "ruled out":
        return over(endRuledOut(this.self));
      case "committed, then fenced":
        this.position = { ...this.position, head };
        return { ...over(endFenced(this.self, verdict.primary, false)), isDurable: true };
      case "fenced":
      case "fenced, outcome lost": {
        const isLost = verdict.kind === "fenced, outcome lost" && mayHaveBeenApplied;
        if (!isLost && verdict.primary.term < this.self.term) return over(endGoneBack(this.self, verdict.primary));
        return over(endFenced(this.self, verdict.primary, isLost));
      }
      case "deleted":
        return over(endDeleted(this.self, verdict.logId, verdict.primary, mayHaveBeenApplied));
      case "foreign head":
        return over(endDataLoss(this.self, verdict.problem));
    }
  }

  private get self(): EndedWriter {
    const { logger, keys, claim } = this.parts;
    return { logger, log: keys.log, term: claim.term, head: this.head.lastSequenceId };
  }

  private noteWritable(): void {
    if (this.failingSince === undefined) return;
    this.failingSince = undefined;
    this.parts.logger.info({ event: "writer_recovered", log: this.parts.keys.log }, "the store takes writes again");
  }

  private noteUnwritable(error: StoreError): void {
    if (this.failingSince !== undefined) return;
    const { clock, logger, keys } = this.parts;
    this.failingSince = { wallMs: clock.wallMs(), monotonicMs: clock.monotonicMs() };
    logger.warn({ event: "write_failed", log: keys.log, err: error }, "a record could not be written; trying again");
  }
}

/** No term is ever lower than one that was held, and nobody else moves the head of a term. */
function contradicts(verdict: WriteOutcome, { term }: Claim): boolean {
  if (verdict.kind === "foreign head") return true;
  return "primary" in verdict && verdict.kind !== "committed, then fenced" && verdict.primary.term < term;
}

function over(ending: Ending): Extract<Written, { kind: "over" }> {
  return { kind: "over", ending, isDurable: false };
}
