import type { Claim } from "../writing/claim.js";
import type { LogWriter } from "../writing/log-writer.js";

/** A term that a candidate here has claimed, whether it is ready to lead it or not. */
export class HeldTerm {
  constructor(
    private readonly claim: Claim,
    /** Undefined: it does not lead yet. */
    private readonly writer?: LogWriter,
  ) {}

  get term(): bigint {
    return this.claim.term;
  }

  get leaderRevision(): bigint | undefined {
    return this.claim.leaderRevision;
  }

  /** The last entry that was acknowledged, of this term or those before. */
  get finalSequenceId(): bigint {
    return this.writer?.lastSequenceId ?? this.claim.head.lastSequenceId;
  }
}
