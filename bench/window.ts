export interface Timing {
  /** Before anything counts. */
  readonly warmUpMs: number;
  readonly measureMs: number;
}

/** Counts what completes between the warm-up and the end. */
export class Window {
  private readonly startMs: number;
  private readonly endMs: number;
  private count = 0;

  constructor(timing: Timing) {
    this.startMs = performance.now() + timing.warmUpMs;
    this.endMs = this.startMs + timing.measureMs;
  }

  get isOver(): boolean {
    return performance.now() >= this.endMs;
  }

  add(count: number): void {
    const nowMs = performance.now();
    if (nowMs >= this.startMs && nowMs < this.endMs) this.count += count;
  }

  get perSecond(): number {
    return (this.count * 1000) / (this.endMs - this.startMs);
  }
}
