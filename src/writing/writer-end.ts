import { OutcomeUnknownError, RuledOutError } from "../oplog/append-errors.js";
import type { OplogError } from "../oplog/errors.js";
import {
  type StoreDataLossError,
  type StoreError,
  StoreRefusedError,
  type StoreReplacedError,
} from "../oplog/kv-store.js";
import { NotPrimaryError } from "../oplog/leadership-errors.js";
import { DataLossError, LogDeletedError } from "../oplog/log-errors.js";
import type { Logger } from "../oplog/logger.js";
import { StoreLostError, StoreReplacedRefusal } from "../oplog/store-errors.js";
import { hex } from "../stored/deletion.js";
import type { LeaderView } from "../stored/primary.js";
import { toOplogError } from "../stored/store-failures.js";
import type { AppendItem } from "./append-item.js";

/** How a writer has ended. "stalled" and "stopped" say nothing about who leads; "fenced" does. */
export interface WriterEnd {
  readonly kind: "fenced" | "stalled" | "stopped" | "data loss";
  /** What an append that was never tried is answered with. */
  readonly error: OplogError;
  /** Of "fenced": who leads now. If the term is one's own, nobody does: the lease has run out. */
  readonly by?: LeaderView;
}

/** What an append of the record that was not committed is answered with. */
export type Failure = (item: AppendItem) => OplogError;

export interface Ending {
  readonly end: WriterEnd;
  readonly failure: Failure;
}

/** Whose end it is. */
export interface EndedWriter {
  readonly logger: Logger;
  readonly log: string;
  readonly term: bigint;
  /** Its last durable entry. */
  readonly head: bigint;
}

/** `isOutcomeLost`: the record may have been committed, and nothing is left to tell. */
export function endFenced({ logger, log, term }: EndedWriter, primary: LeaderView, isOutcomeLost: boolean): Ending {
  const error = new NotPrimaryError(primary.id, primary.endpoint, primary.term);
  logger.warn(
    { event: "writer_fenced", log, term: String(term), by: primary.id, byTerm: String(primary.term) },
    primary.term === term
      ? "the lease of the leader has run out; this sidecar refuses appends from now on"
      : "lost the log to a higher term; this sidecar refuses its appends from now on",
  );
  return {
    end: { kind: "fenced", error, by: primary },
    failure: isOutcomeLost ? unknownFor("another sidecar took the term") : always(error),
  };
}

/** The store is the same by all that it tells, and shows a lower term. Nobody leads by that. */
export function endGoneBack({ logger, log, term }: EndedWriter, primary: LeaderView): Ending {
  const remedy = 'If this is meant, "oplogctl adopt" at this sidecar takes it as it is now';
  const error = new StoreReplacedRefusal(`${goneBack(term, primary)}. ${remedy}`);
  logger.error(
    { event: "writer_lost_store", log, term: String(term) },
    `this sidecar writes the log no more: ${error.message}`,
  );
  return { end: { kind: "stalled", error }, failure: always(error) };
}

/** No term is ever lower than one that was held, unless somebody has changed the store. */
export function goneBack(term: bigint, { term: found }: LeaderView): string {
  const is = found === 0n ? "holds no term of the log" : `is at term ${found} of the log`;
  return `the store ${is}, after term ${term}: its data was deleted or put back`;
}

export function endDeleted(
  { logger, log, term }: EndedWriter,
  logId: Uint8Array,
  by: LeaderView,
  isOutcomeLost: boolean,
): Ending {
  const error = new LogDeletedError(log, hex(logId), "was deleted");
  logger.warn({ event: "writer_fenced", log, term: String(term), byTerm: String(by.term) }, error.message);
  return {
    end: { kind: "fenced", error, by },
    failure: isOutcomeLost ? unknownFor("the log was deleted") : always(error),
  };
}

export function endRuledOut({ logger, log, term }: EndedWriter): Ending {
  const error = new RuledOutError();
  logger.warn(
    { event: "writer_ruled_out", log, term: String(term) },
    "a ResolveAppend elsewhere has ruled out what was in flight; the next append claims the log again",
  );
  return { end: { kind: "stalled", error }, failure: always(error) };
}

export function endDataLoss({ logger, log, term, head }: EndedWriter, problem: string): Ending {
  const error = new DataLossError(log, head + 1n, problem);
  logger.error(
    { event: "log_broken", log, term: String(term), head: String(head) },
    `${error.message}; this sidecar writes the log no more`,
  );
  return { end: { kind: "data loss", error }, failure: unknownFor(error.message) };
}

export function endStoreLost(
  { logger, log, term }: EndedWriter,
  cause: StoreDataLossError,
  mayHaveBeenApplied: boolean,
): Ending {
  const error = new StoreLostError(cause.message);
  logger.error({ event: "writer_lost_store", log, term: String(term), err: cause }, "the store is damaged or gone");
  const failure = mayHaveBeenApplied ? unknownFor(cause.message) : always(error);
  return { end: { kind: "data loss", error }, failure };
}

/** It may claim the log again once the store has been adopted, or the right one is back. */
export function endStoreReplaced(
  { logger, log, term }: EndedWriter,
  cause: StoreReplacedError,
  mayHaveBeenApplied: boolean,
): Ending {
  const error = new StoreReplacedRefusal(cause.message);
  const facts = { event: "writer_lost_store", log, term: String(term) };
  logger.error(facts, `this sidecar writes the log no more: ${cause.message}`);
  const failure = mayHaveBeenApplied ? unknownFor(cause.message) : always(error);
  return { end: { kind: "stalled", error }, failure };
}

export interface Stall {
  readonly failedMs: number;
  readonly mayHaveBeenApplied: boolean;
  readonly cause: StoreError | undefined;
  /** Why no further attempt is made though there is time left; undefined = there is none. */
  readonly stoppedBy: OplogError | undefined;
}

export function endStalled({ logger, log, term }: EndedWriter, stall: Stall): Ending {
  const { failedMs, mayHaveBeenApplied, cause, stoppedBy } = stall;
  const error = stoppedBy ?? toOplogError(cause, failedMs, "nothing was written");
  const outcome = mayHaveBeenApplied ? "what was in flight is answered as unknown" : "nothing of it was written";
  const facts = { log, term: String(term), failedMs, store: cause?.message };
  if (stoppedBy !== undefined)
    logger.warn({ event: "writer_stopped", ...facts }, `the writer was stopped while the store failed it; ${outcome}`);
  else if (cause instanceof StoreRefusedError)
    logger.error({ event: "writer_refused", ...facts }, `the store refuses what is written; ${outcome}`);
  else logger.error({ event: "writer_stalled", ...facts }, `could not write within the deadline; ${outcome}`);
  return {
    end: { kind: stoppedBy !== undefined ? "stopped" : "stalled", error },
    failure: mayHaveBeenApplied ? unknownFor(`the store has not confirmed it for ${failedMs} ms`) : always(error),
  };
}

export function unknownFor(because: string): Failure {
  return (item) => new OutcomeUnknownError(item.writerId, item.operationId, because);
}

function always(error: OplogError): Failure {
  return () => error;
}
