import { OplogError } from "./errors.js";

// What a log, its cursors and its view answer.

export class LogNotFoundError extends OplogError {
  constructor(log: string) {
    super("NOT_FOUND", "LOG_NOT_FOUND", `log "${log}" does not exist; its first append makes it`, {
      log,
    });
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

export class LogDeletedError extends OplogError {
  /** `logId`: in hex. */
  constructor(log: string, logId: string, state: "is being deleted" | "was deleted") {
    const remedy =
      state === "was deleted"
        ? "a log that is made by that name is another one"
        : `nothing was read or written. If that was interrupted, DeleteLog with log_id ${logId} completes it`;
    super("FAILED_PRECONDITION", "LOG_DELETED", `log "${log}" ${state}; ${remedy}`, { log, log_id: logId });
  }
}

/** The store has another history than the one that was seen or handed back. `yours`, `current`: chains, in hex. */
export class HistoryDivergedError extends OplogError {
  constructor(log: string, sequenceId: bigint, yours: string, current: string) {
    super(
      "FAILED_PRECONDITION",
      "HISTORY_DIVERGED",
      `log "${log}" has another history: entry ${sequenceId} has chain ${current} in the store and ${yours} was seen before. ` +
        "Was the store restored from a backup? What came after that backup is lost; start again from the beginning. " +
        `"oplogctl where-parted ${log} --with OTHER-SIDECAR" finds the last entry that two histories have in common`,
      { log, sequence_id: sequenceId, yours, current },
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

/** Checksum or contiguity of the stored log is broken. The log stops here. */
export class DataLossError extends OplogError {
  constructor(log: string, sequenceId: bigint, problem: string) {
    super("DATA_LOSS", "DATA_LOSS", `log "${log}" at entry ${sequenceId}: ${problem}`, {
      log,
      sequence_id: sequenceId,
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

/** `wanted` has not been applied yet: an answer could be wrong, or older than what was asked for. */
export class ViewBehindError extends OplogError {
  constructor(log: string, applied: number, wanted: bigint) {
    super(
      "UNAVAILABLE",
      "VIEW_BEHIND",
      `the view of log "${log}" has applied ${applied}, and ${wanted} is needed; nothing was done, try again shortly`,
      { log, applied, wanted },
      1000,
    );
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
