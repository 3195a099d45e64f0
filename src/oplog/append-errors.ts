import { OplogError } from "./errors.js";

// What appends are answered with, and questions about them.

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
