import type { Clock, Timer } from "./clock.js";

/** Resolves after `ms`, or at once when the signal aborts. */
export function sleep(clock: Clock, ms: number, signal?: AbortSignal): Promise<void> {
  if (signal?.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const finish = () => {
      timer.cancel();
      signal?.removeEventListener("abort", finish);
      resolve();
    };
    const timer = clock.setTimer(ms, finish);
    signal?.addEventListener("abort", finish);
  });
}

/** Resolves when the signal aborts. Leaves a trace in it until then: for signals of the same life as who waits. */
export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/**
 * Resolves when the work has settled, however, or when the signal aborts. Leaves nothing behind in the signal, so that it
 * serves in loops. A Promise.race with a promise that outlives the loop holds on to every turn of it.
 */
export function settledOrAborted(work: Promise<unknown>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const finish = () => {
      signal.removeEventListener("abort", finish);
      resolve();
    };
    work.then(finish, finish);
    signal.addEventListener("abort", finish);
    if (signal.aborted) finish();
  });
}

/**
 * A signal that aborts with the first of several. AbortSignal.any leaves a trace in each of its sources for as long as
 * that lives (Node 20); here `unlink` takes it away.
 */
export function linkSignals(...sources: AbortSignal[]): { readonly signal: AbortSignal; unlink(): void } {
  const controller = new AbortController();
  const abort = (event: Event) => controller.abort((event.target as AbortSignal).reason);
  for (const source of sources) {
    if (source.aborted) controller.abort(source.reason);
    source.addEventListener("abort", abort);
  }
  return {
    signal: controller.signal,
    unlink() {
      for (const source of sources) source.removeEventListener("abort", abort);
    },
  };
}

/** A signal that aborts with the first of several, or after `ms`; `end` takes the timer and the links away. */
export function limitTime(
  clock: Clock,
  ms: number,
  ...sources: AbortSignal[]
): { readonly signal: AbortSignal; end(): void } {
  const limit = new AbortController();
  const { signal, unlink } = linkSignals(...sources, limit.signal);
  const timer = clock.setTimer(ms, () => limit.abort());
  return {
    signal,
    end() {
      timer.cancel();
      unlink();
    },
  };
}

/** Delays that double from `firstMs` to `maxMs`, each between half and the whole of it. */
export class Backoff {
  private nextMs: number;

  constructor(
    private readonly clock: Clock,
    private readonly firstMs: number,
    private readonly maxMs: number,
  ) {
    this.nextMs = firstMs;
  }

  reset(): void {
    this.nextMs = this.firstMs;
  }

  delayMs(): number {
    const delay = this.nextMs * (0.5 + this.clock.random() / 2);
    this.nextMs = Math.min(this.nextMs * 2, this.maxMs);
    return delay;
  }
}

/** Wakes everyone who waits for something to change. A change between two waits is not missed: compare `version`. */
export class Change {
  version = 0;
  private waiting: (() => void)[] = [];

  notify(): void {
    this.version++;
    const woken = this.waiting;
    this.waiting = [];
    for (const wake of woken) wake();
  }

  /** Resolves when `version` is no longer `seen`, or when the signal aborts. */
  async wait(seen: number, signal?: AbortSignal): Promise<void> {
    await this.waitUntil(seen, signal);
  }

  /** The same, and after `ms` at the latest. */
  async waitAtMost(clock: Clock, ms: number, seen: number, signal?: AbortSignal): Promise<void> {
    await this.waitUntil(seen, signal, (leave) => clock.setTimer(ms, leave));
  }

  private async waitUntil(seen: number, signal?: AbortSignal, limit?: (leave: () => void) => Timer): Promise<void> {
    if (this.version !== seen || signal?.aborted) return;
    await new Promise<void>((resolve) => {
      let timer: Timer | undefined;
      const wake = () => {
        timer?.cancel();
        signal?.removeEventListener("abort", leave);
        resolve();
      };
      const leave = () => {
        this.waiting = this.waiting.filter((other) => other !== wake);
        wake();
      };
      timer = limit?.(leave);
      signal?.addEventListener("abort", leave);
      this.waiting.push(wake);
    });
  }
}
