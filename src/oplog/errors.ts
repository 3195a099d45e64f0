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

export class TooSlowError extends OplogError {
  constructor(limitMs: number) {
    super("RESOURCE_EXHAUSTED", "TOO_SLOW", `the request was not complete ${limitMs} ms after it was begun`, {
      limit_ms: limitMs,
    });
  }
}

export class NotOfferedError extends OplogError {
  constructor(field: string, received: string) {
    super("UNIMPLEMENTED", "NOT_OFFERED", `${field}: ${received} is not offered by this sidecar`, { field, received });
  }
}

export class ShuttingDownError extends OplogError {
  constructor(consequence = "nothing was written") {
    super("UNAVAILABLE", "SHUTTING_DOWN", `this sidecar is shutting down; ${consequence}`);
  }
}
