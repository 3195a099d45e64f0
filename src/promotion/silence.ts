import type { Clock } from "../oplog/clock.js";
import { sleep } from "../oplog/timing.js";

/** Notices when a candidate has been silent for longer than it promised. */
export class Silence {
  private heardMs: number;

  constructor(
    private readonly clock: Clock,
    /** Undefined: it does not promise to be heard of. */
    private readonly withinMs: number | undefined,
  ) {
    this.heardMs = clock.monotonicMs();
  }

  /** The candidate lives. */
  heard(): void {
    this.heardMs = this.clock.monotonicMs();
  }

  /** Until it is noticed, or the signal aborts. */
  async listen(signal: AbortSignal, onSilent: (why: string) => void): Promise<void> {
    const { withinMs, clock } = this;
    while (withinMs !== undefined && !signal.aborted) {
      const leftMs = this.heardMs + withinMs - clock.monotonicMs();
      if (leftMs > 0) {
        await sleep(clock, leftMs, signal);
        continue;
      }
      // This process may have stood still itself, and what came meanwhile waits to be read.
      const { heardMs } = this;
      await clock.yieldTurn();
      await clock.yieldTurn();
      if (this.heardMs === heardMs) return onSilent(`nothing was heard of the candidate for ${withinMs} ms`);
    }
  }
}
