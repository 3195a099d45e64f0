import type { Clock } from "../oplog/clock.js";
import { HandOverAbandonedError } from "../oplog/leadership-errors.js";
import type { Logger } from "../oplog/logger.js";

/** "failed": the leadership went elsewhere meanwhile, or it could not be told whether the target had taken it. */
export type HandOverOutcome = "taken" | "abandoned" | "failed";

export interface HandOverObserver {
  /** `heldMs`: for how long appends were held back; undefined = not at all. */
  handedOver(log: string, outcome: HandOverOutcome, heldMs: number | undefined): void;
}

export interface HandOverReportParts {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly observer: HandOverObserver;
  readonly log: string;
  /** Who hands over, and which term. */
  readonly candidate: string;
  readonly term: bigint;
  readonly target: string;
}

/** What a hand-over leaves in the log and the metrics: nothing where there is no such target. */
export class HandOverReport {
  private hasBegun = false;
  private heldFromMs: number | undefined;

  constructor(private readonly parts: HandOverReportParts) {}

  begun(timeoutMs: number): void {
    this.hasBegun = true;
    this.parts.logger.info({ event: "hand_over_begun", ...this.facts, timeoutMs }, "the leader hands over");
  }

  /** Appends are held back from now on. */
  holding(): void {
    this.heldFromMs = this.parts.clock.monotonicMs();
  }

  get heldMs(): number {
    return this.heldFromMs === undefined ? 0 : Math.round(this.parts.clock.monotonicMs() - this.heldFromMs);
  }

  taken(takenTerm: bigint, finalSequenceId: bigint): void {
    const { facts, heldMs } = this;
    const ids = { takenTerm: String(takenTerm), finalSequenceId: String(finalSequenceId) };
    this.parts.logger.info({ event: "hand_over_taken", ...facts, ...ids, heldMs }, "the target leads");
    this.tell("taken");
  }

  failed(error: unknown): void {
    if (!this.hasBegun) return;
    const { facts, heldMs } = this;
    if (error instanceof HandOverAbandonedError) {
      this.parts.logger.warn({ event: "hand_over_abandoned", ...facts, heldMs }, error.message);
      this.tell("abandoned");
    } else {
      this.parts.logger.warn({ event: "hand_over_failed", ...facts, heldMs, err: error }, "the hand-over has failed");
      this.tell("failed");
    }
  }

  private get facts() {
    const { log, candidate, term, target } = this.parts;
    return { log, candidate, term: String(term), target };
  }

  private tell(outcome: HandOverOutcome): void {
    const { observer, log } = this.parts;
    observer.handedOver(log, outcome, this.heldFromMs === undefined ? undefined : this.heldMs);
  }
}
