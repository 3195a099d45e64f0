import type { Clock } from "../oplog/clock.js";
import { logTimeMs } from "../oplog/log-time.js";

/** By which the wall clock may go ahead of the monotonic one before it counts as a step: they are not read at once. */
const STEP_MS_MIN = 500;

/**
 * The time by which leases end: the wall clock, as the writer stamps entries (log-time.ts).
 *
 * A lease may last longer than it was granted for, by as much as the wall clock goes back meanwhile, but not shorter: after
 * the clock has stepped ahead of the monotonic one, the leases of all objects that were put before end later by as much.
 * Several such steps count together for all objects that were put before the last step, which may be more than they need.
 */
export class LeaseTime {
  /** The least that this time was ahead of the monotonic clock since the last step. */
  private aheadMs = Number.POSITIVE_INFINITY;
  /** Put at this time or earlier: before the last step. */
  private steppedAtMs = Number.NEGATIVE_INFINITY;
  private stepsMs = 0;

  constructor(
    private readonly clock: Clock,
    private readonly newestMs: () => number,
  ) {}

  /** Unix milliseconds. To be read every now and then: a step is one between two readings. */
  get nowMs(): number {
    const nowMs = logTimeMs(this.clock.wallMs(), this.newestMs());
    const monotonicMs = this.clock.monotonicMs();
    const expectedMs = monotonicMs + this.aheadMs;
    if (nowMs > expectedMs + STEP_MS_MIN) {
      this.steppedAtMs = expectedMs;
      this.stepsMs += Math.ceil(nowMs - expectedMs);
      this.aheadMs = nowMs - monotonicMs;
    } else {
      this.aheadMs = Math.min(this.aheadMs, nowMs - monotonicMs);
    }
    return nowMs;
  }

  /** How much later the leases end of what was put at this time. */
  laterMs(timestampMs: number): number {
    return timestampMs <= this.steppedAtMs ? this.stepsMs : 0;
  }
}
