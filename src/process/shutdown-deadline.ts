/** Of the time to shut down; the rest is for the last answers to reach their clients. */
const WORK_SHARE = 0.8;

/** When to give up what is not finished, and soon after that who does not read; both can be brought forward. */
export class ShutdownDeadline {
  /** Aborts when the time is over. */
  readonly over: AbortSignal;
  private readonly controller = new AbortController();
  private readonly endMs: number;
  private timers: readonly NodeJS.Timeout[] = [];

  constructor(
    ms: number,
    private readonly giveUpWork: () => void,
  ) {
    this.over = this.controller.signal;
    this.endMs = performance.now() + ms;
    this.schedule(ms);
  }

  shorten(ms: number): void {
    if (performance.now() + ms < this.endMs) this.schedule(ms);
  }

  end(): void {
    for (const timer of this.timers) clearTimeout(timer);
  }

  private schedule(ms: number): void {
    this.end();
    this.timers = [setTimeout(this.giveUpWork, ms * WORK_SHARE), setTimeout(() => this.controller.abort(), ms)];
  }
}
