/** Canonical status codes that this system answers with (google.rpc.Code). */
export type Code =
  | "INVALID_ARGUMENT"
  | "NOT_FOUND"
  | "ALREADY_EXISTS"
  | "ABORTED"
  | "FAILED_PRECONDITION"
  | "OUT_OF_RANGE"
  | "RESOURCE_EXHAUSTED"
  | "UNAVAILABLE"
  | "UNIMPLEMENTED"
  | "DATA_LOSS"
  | "UNKNOWN";

export type Facts = Readonly<Record<string, string | number | bigint>>;

/**
 * An expected failure, as the API reports it. `reason` and `facts` become google.rpc.ErrorInfo; the table of them stands
 * at OpLogService in proto/oplog/v1/oplog.proto.
 */
export class OplogError extends Error {
  constructor(
    readonly code: Code,
    readonly reason: string,
    message: string,
    readonly facts: Facts = {},
    /** Set where waiting helps. */
    readonly retryAfterMs?: number,
  ) {
    super(message);
    this.name = new.target.name;
  }

  /** The same failure, told with more facts. */
  with(facts: Facts): OplogError {
    return new OplogError(this.code, this.reason, this.message, { ...this.facts, ...facts }, this.retryAfterMs);
  }
}

export class InvalidArgumentError extends OplogError {
  constructor(
    /** Path of the field in the request, like "entries[3].key". */
    readonly field: string,
    problem: string,
    facts: Facts = {},
  ) {
    super("INVALID_ARGUMENT", "INVALID_ARGUMENT", `${field}: ${problem}`, { field, ...facts });
  }
}

export class TooLargeError extends OplogError {
  constructor(field: string, received: number, limit: number, facts: Facts = {}) {
    super("RESOURCE_EXHAUSTED", "TOO_LARGE", `${field}: ${received} bytes, the limit is ${limit}`, {
      field,
      received,
      limit,
      ...facts,
    });
  }
}

export class TooManyError extends OplogError {
  constructor(what: string, limit: number, retryAfterMs?: number) {
    super("RESOURCE_EXHAUSTED", "TOO_MANY", `too many ${what}, the limit is ${limit}`, { what, limit }, retryAfterMs);
  }
}

export class QueueFullError extends OplogError {
  constructor(what: string, received: number, limit: number, retryAfterMs: number) {
    super(
      "RESOURCE_EXHAUSTED",
      "QUEUE_FULL",
      `the append queue is full (${what}): ${received} more would pass the limit of ${limit}; try again shortly`,
      { limit, received },
      retryAfterMs,
    );
  }
}

export class TooSlowError extends OplogError {
  constructor(limitMs: number) {
    super("RESOURCE_EXHAUSTED", "TOO_SLOW", `the request was not complete ${limitMs} ms after it was begun`, {
      limit_ms: limitMs,
    });
  }
}

export class LogNotFoundError extends OplogError {
  constructor(log: string) {
    super("NOT_FOUND", "LOG_NOT_FOUND", `log "${log}" does not exist; its first append makes it`, {
      log,
    });
  }
}

export class CursorNotFoundError extends OplogError {
  constructor(log: string, consumer: string) {
    super("NOT_FOUND", "CURSOR_NOT_FOUND", `log "${log}" has no cursor "${consumer}"; UpdateCursor makes one`, {
      log,
      consumer,
    });
  }
}

/** Only this cursor is lost. */
export class CursorDamagedError extends OplogError {
  constructor(log: string, consumer: string, problem: string) {
    super(
      "DATA_LOSS",
      "CURSOR_DAMAGED",
      `cursor "${consumer}" of log "${log}": ${problem}; UpdateCursor with rewind replaces it, DeleteCursor removes it`,
      { log, consumer },
    );
  }
}

export class OperationIdUsedError extends OplogError {
  constructor(writerId: string, operationId: bigint, highest: bigint) {
    super(
      "ALREADY_EXISTS",
      "OPERATION_ID_USED",
      `operation ${operationId} of writer "${writerId}" is not above ${highest}, its highest, and its answer is no longer remembered`,
      { writer_id: writerId, operation_id: operationId, highest_operation_id: highest },
    );
  }
}

/** The same to whoever sends it: the id is used up. */
export class OperationRuledOutError extends OplogError {
  constructor(writerId: string, operationId: bigint, highest: bigint) {
    super(
      "ALREADY_EXISTS",
      "OPERATION_ID_USED",
      `operation ${operationId} of writer "${writerId}" was called NOT_COMMITTED by a ResolveAppend, and so it stays: send it under a higher id`,
      { writer_id: writerId, operation_id: operationId, highest_operation_id: highest },
    );
  }
}

export class OperationContentMismatchError extends OplogError {
  constructor(writerId: string, operationId: bigint, first: bigint, last: bigint) {
    super(
      "ALREADY_EXISTS",
      "OPERATION_CONTENT_MISMATCH",
      `operation ${operationId} of writer "${writerId}" was used for other entries, ${first}..${last}`,
      { writer_id: writerId, operation_id: operationId, first_sequence_id: first, last_sequence_id: last },
    );
  }
}

export class ExpectedSequenceMismatchError extends OplogError {
  constructor(expected: bigint, head: bigint) {
    super("ABORTED", "EXPECTED_SEQUENCE_MISMATCH", `expected_sequence_id is ${expected}, the head is ${head}`, {
      expected,
      head,
    });
  }
}

export class NotPrimaryError extends OplogError {
  constructor(
    readonly primary: string,
    readonly endpoint: string,
    readonly term: bigint,
  ) {
    super(
      "FAILED_PRECONDITION",
      "NOT_PRIMARY",
      primary === ""
        ? `nobody leads the log at the moment; the last term was ${term}`
        : `this sidecar does not lead the log: "${primary}"${endpoint === "" ? "" : ` at ${endpoint}`} claimed term ${term}`,
      { primary, endpoint, term },
    );
  }
}

/** The log has been won, and the new leader is still preparing itself. */
export class NotReadyError extends OplogError {
  constructor(candidate: string, term: bigint) {
    super(
      "FAILED_PRECONDITION",
      "NOT_READY",
      `"${candidate}" has won term ${term} here and is not ready yet; nothing was written`,
      { candidate, term },
      100,
    );
  }
}

export class StateDivergedError extends OplogError {
  constructor(candidate: string, sequenceId: bigint, yours: string, current: string) {
    super(
      "FAILED_PRECONDITION",
      "STATE_DIVERGED",
      `the state of "${candidate}" at entry ${sequenceId} has hash ${yours}, and it is ${current} by the log: it cannot lead`,
      { candidate, sequence_id: sequenceId, yours, current },
    );
  }
}

export class LeadershipByTokenError extends OplogError {
  constructor(log: string, token: bigint, claimant: string) {
    super(
      "FAILED_PRECONDITION",
      "LEADERSHIP_BY_TOKEN",
      `log "${log}" is claimed by tokens (ClaimTerm), the last one ${token} of "${claimant}": nobody is elected`,
      { log, token, claimant },
    );
  }
}

export class NotElectedError extends OplogError {
  constructor(log: string) {
    super("FAILED_PRECONDITION", "NOT_ELECTED", `nobody campaigns for log "${log}"; who writes it is not elected`, {
      log,
    });
  }
}

export class CandidateExistsError extends OplogError {
  /** `endpoint`: that of the other one, where it is not at this sidecar. */
  constructor(log: string, id: string, endpoint?: string) {
    const where = endpoint === undefined ? "at this sidecar" : `with endpoint ${endpoint}`;
    super("ALREADY_EXISTS", "CANDIDATE_EXISTS", `"${id}" is campaigning for log "${log}" ${where} already`, {
      log,
      id,
    });
  }
}

export class CandidateNotFoundError extends OplogError {
  constructor(log: string, id: string) {
    super("NOT_FOUND", "CANDIDATE_NOT_FOUND", `no candidate "${id}" waits for log "${log}"; GetLeader lists them`, {
      log,
      id,
    });
  }
}

export class HandOverAbandonedError extends OplogError {
  constructor(
    target: string,
    heldMs: number,
    because = `"${target}" had not taken over after ${heldMs} ms`,
    /** Why the leader does not stay; undefined = it does. */
    leaderGone?: string,
  ) {
    const outcome =
      leaderGone === undefined ? "the leader stays, and nothing was lost" : `the leader gives up: ${leaderGone}`;
    super("ABORTED", "HAND_OVER_ABANDONED", `${because}; ${outcome}`, { target, held_ms: heldMs });
  }
}

export class HandOverRunningError extends OplogError {
  constructor(target: string) {
    super("ABORTED", "HAND_OVER_RUNNING", `a hand-over to "${target}" is running`, { target }, 1000);
  }
}

export class StaleTermError extends OplogError {
  constructor(yours: bigint, current: bigint) {
    super("FAILED_PRECONDITION", "STALE_TERM", `term is ${yours}, the current one is ${current}`, { yours, current });
  }
}

export class StaleTokenError extends OplogError {
  constructor(yours: bigint, current: bigint, claimant: string) {
    super(
      "FAILED_PRECONDITION",
      "STALE_TOKEN",
      yours === current
        ? `token ${yours} has been claimed by "${claimant}"`
        : `token ${yours} is below ${current}, which "${claimant}" has claimed`,
      { yours, current, claimant },
    );
  }
}

export class TermDivergedError extends OplogError {
  constructor(sequenceId: bigint, yours: bigint, current: bigint) {
    super(
      "FAILED_PRECONDITION",
      "TERM_DIVERGED",
      `entry ${sequenceId} has term ${current} in the log and ${yours} at the subscriber: start again from the beginning or a snapshot`,
      { sequence_id: sequenceId, yours, current },
    );
  }
}

/** The store has another history than the one that was seen or handed back. `yours`, `current`: chains, in hex. */
export class HistoryDivergedError extends OplogError {
  constructor(log: string, sequenceId: bigint, yours: string, current: string) {
    super(
      "FAILED_PRECONDITION",
      "HISTORY_DIVERGED",
      `log "${log}" has another history: entry ${sequenceId} has chain ${current} in the store and ${yours} was seen before. ` +
        "Was the store restored from a backup? What came after that backup is lost; start again from the beginning",
      { log, sequence_id: sequenceId, yours, current },
    );
  }
}

export class LogReplacedError extends OplogError {
  constructor(yours: string, current: string) {
    super(
      "FAILED_PRECONDITION",
      "LOG_REPLACED",
      `log_id is ${yours}, this log is ${current}: another log of that name`,
      {
        yours,
        current,
      },
    );
  }
}

export class CursorRegressedError extends OplogError {
  constructor(field: string, yours: bigint, current: bigint) {
    super(
      "FAILED_PRECONDITION",
      "CURSOR_REGRESSED",
      `${field}: ${yours} is below ${current}, where the cursor stands; set rewind to go back`,
      { field, yours, current },
    );
  }
}

export class NoViewError extends OplogError {
  constructor(log: string) {
    super("FAILED_PRECONDITION", "NO_VIEW", `this sidecar keeps no view of log "${log}" (--views)`, { log });
  }
}

export class ViewFailedError extends OplogError {
  constructor(log: string, applied: number, because: string) {
    super("FAILED_PRECONDITION", "VIEW_FAILED", `the view of log "${log}" has stopped at ${applied}: ${because}`, {
      log,
      applied,
    });
  }
}

export class NoObjectLeasesError extends OplogError {
  constructor(log: string) {
    super(
      "FAILED_PRECONDITION",
      "NO_OBJECT_LEASES",
      `the objects of log "${log}" are not leased at this sidecar (--object-lease-default)`,
      { log },
    );
  }
}

/** Entries that have been acknowledged have not been applied yet, so that an answer could be wrong. */
export class ViewBehindError extends OplogError {
  constructor(log: string, applied: number, head: bigint) {
    super(
      "UNAVAILABLE",
      "VIEW_BEHIND",
      `the view of log "${log}" has applied ${applied}, the head is ${head}; nothing was done, try again shortly`,
      { log, applied, head },
      1000,
    );
  }
}

export class TrimmedError extends OplogError {
  constructor(from: bigint, floor: bigint) {
    super("OUT_OF_RANGE", "TRIMMED", `entry ${from} is no longer kept, the first readable one is ${floor}`, {
      from,
      floor,
      newest_snapshot: "",
    });
  }
}

export class BeyondHeadError extends OplogError {
  constructor(from: bigint, head: bigint) {
    super("OUT_OF_RANGE", "BEYOND_HEAD", `${from} is beyond the head, ${head}`, { from, head });
  }
}

export class StoreUnavailableError extends OplogError {
  /** `consequence`: what that means for the call. */
  constructor(unreachableMs: number, consequence: string) {
    super(
      "UNAVAILABLE",
      "STORE_UNREACHABLE",
      `the store has not answered for ${unreachableMs} ms; ${consequence}`,
      { unreachable_ms: unreachableMs },
      1000,
    );
  }
}

/** The store answers, and says no: no space left, no permission, a version that loses data. Nothing was done. */
export class StoreRefusalError extends OplogError {
  constructor(problem: string) {
    super("RESOURCE_EXHAUSTED", "STORE_REFUSED", `the store refuses: ${problem}`, {}, 5000);
  }
}

/** What the store keeps is damaged or gone. Trying again does not help; the message says where and what to do. */
export class StoreLostError extends OplogError {
  constructor(problem: string) {
    super("DATA_LOSS", "STORE_DAMAGED", problem);
  }
}

/** The store is not the one whose logs were seen. Nothing was done, and nothing is until an operator says so. */
export class StoreReplacedRefusal extends OplogError {
  constructor(problem: string) {
    super("FAILED_PRECONDITION", "STORE_REPLACED", problem);
  }
}

/** What has been seen of the log may not be true any more; who asks again is told. */
export class StoreAdoptedError extends OplogError {
  constructor() {
    super("UNAVAILABLE", "STORE_ADOPTED", "the store has been adopted as it is now; subscribe again to go on", {}, 10);
  }
}

/** ResolveAppend was asked elsewhere and has ruled out what was in flight, so that its answer stays true. */
export class RuledOutError extends OplogError {
  constructor() {
    super(
      "UNAVAILABLE",
      "RULED_OUT",
      "a ResolveAppend at another sidecar has ruled out what was in flight here; nothing was written, send it again",
      {},
      10,
    );
  }
}

export class ShuttingDownError extends OplogError {
  constructor() {
    super("UNAVAILABLE", "SHUTTING_DOWN", "this sidecar is shutting down; nothing was written");
  }
}

export class StreamEndedError extends OplogError {
  constructor() {
    super(
      "UNAVAILABLE",
      "STREAM_ENDED",
      "an earlier append of this stream was not acknowledged; nothing was written. Open a new stream and send again in order",
      {},
      100,
    );
  }
}

export class NotOfferedError extends OplogError {
  constructor(field: string, received: string) {
    super("UNIMPLEMENTED", "NOT_OFFERED", `${field}: ${received} is not offered by this sidecar`, { field, received });
  }
}

/** Checksum or contiguity of the stored log is broken. The log stops here. */
export class DataLossError extends OplogError {
  constructor(log: string, sequenceId: bigint, problem: string) {
    super("DATA_LOSS", "DATA_LOSS", `log "${log}" at entry ${sequenceId}: ${problem}`, {
      log,
      sequence_id: sequenceId,
    });
  }
}

export class OutcomeUnknownError extends OplogError {
  constructor(writerId: string, operationId: bigint, because: string) {
    super(
      "UNKNOWN",
      "OUTCOME_UNKNOWN",
      `${because}; the append may or may not be in the log, ResolveAppend tells`,
      writerId === "" ? {} : { writer_id: writerId, operation_id: operationId },
    );
  }
}
