import { AsyncLocalStorage } from "node:async_hooks";
import type { Clock } from "../../src/oplog/clock.js";

/** Whose timers they are, in a simulation. */
export interface Machine {
  readonly name: string;
  /** Nothing of it runs before this time. */
  pausedUntilMs: number;
  /** Nothing of it ever runs again. */
  isDead: boolean;
}

interface Timer {
  atMs: number;
  readonly order: number;
  readonly owner: Machine | undefined;
  readonly run: () => void;
}

const real = {
  setTimeout: globalThis.setTimeout,
  clearTimeout: globalThis.clearTimeout,
  setImmediate: globalThis.setImmediate,
  random: Math.random,
};

/**
 * Time that passes only when it is told to, for several machines in one process. A timer belongs to the machine that
 * runs when it is set, so that one machine can be paused, or can die, without a line of its code knowing: everything
 * that reaches it from outside must come through `at`.
 */
export class VirtualTime {
  nowMs = 0;
  private order = 0;
  private readonly timers = new Map<number, Timer>();
  private readonly current = new AsyncLocalStorage<Machine | undefined>();

  readonly clock: Clock = {
    wallMs: () => 1_700_000_000_000 + this.nowMs,
    monotonicMs: () => this.nowMs,
  };

  /** Takes over the timers of the process until `uninstall`. `random` stands in for Math.random. */
  install(random: () => number): void {
    const set = (run: () => void, ms = 0) => {
      const order = this.set(this.current.getStore(), ms, run);
      const handle = { order, unref: () => handle, ref: () => handle };
      return handle;
    };
    const clear = (handle: { order: number } | undefined) => void (handle && this.timers.delete(handle.order));
    Object.assign(globalThis, {
      setTimeout: set,
      clearTimeout: clear,
      setImmediate: (run: () => void) => set(run, 0),
    });
    Math.random = random;
  }

  uninstall(): void {
    const { setTimeout, clearTimeout, setImmediate } = real;
    Object.assign(globalThis, { setTimeout, clearTimeout, setImmediate });
    Math.random = real.random;
    // Every one that is left slows down all promises of the process.
    this.current.disable();
  }

  /** Runs code of this machine now; undefined = the world outside. */
  on<T>(machine: Machine | undefined, work: () => T): T {
    return this.current.run(machine, work);
  }

  /** Runs code of this machine in so many milliseconds, or when it goes on. */
  at(machine: Machine | undefined, ms: number, work: () => void): void {
    this.set(machine, ms, work);
  }

  /** How many timers of this machine are set. */
  timersOf(machine: Machine): number {
    return [...this.timers.values()].filter(({ owner }) => owner === machine).length;
  }

  async pass(ms: number): Promise<void> {
    const untilMs = this.nowMs + ms;
    await this.settle();
    for (let timer = this.next(); timer !== undefined && timer.atMs <= untilMs; timer = this.next()) {
      this.nowMs = Math.max(this.nowMs, timer.atMs);
      const { owner, run, order } = timer;
      if (owner !== undefined && owner.pausedUntilMs > this.nowMs) {
        timer.atMs = owner.pausedUntilMs;
        continue;
      }
      this.timers.delete(order);
      if (owner?.isDead) continue;
      this.current.run(owner, run);
      await this.settle();
    }
    this.nowMs = untilMs;
  }

  async until(condition: () => boolean, withinMs: number): Promise<boolean> {
    for (let passedMs = 0; passedMs < withinMs && !condition(); passedMs += 10) await this.pass(10);
    return condition();
  }

  private set(owner: Machine | undefined, ms: number, run: () => void): number {
    const order = ++this.order;
    this.timers.set(order, { atMs: this.nowMs + Math.max(0, Math.ceil(ms)), order, owner, run });
    return order;
  }

  private next(): Timer | undefined {
    let first: Timer | undefined;
    for (const timer of this.timers.values()) {
      if (first === undefined || timer.atMs < first.atMs) first = timer;
    }
    return first;
  }

  /** Everything that needs no time. */
  private settle(): Promise<void> {
    return new Promise((resolve) => void real.setImmediate(() => resolve()));
  }
}
