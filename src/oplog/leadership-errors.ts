import { OplogError } from "./errors.js";

// What is answered to whoever leads, wants to, or writes without leading.

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
