import type { Clock } from "../../src/oplog/clock.js";

/** Whose timers they are, in a simulation. */
export interface Machine {
  readonly name: string;
  /** Nothing of it runs before this time. */
  pausedUntilMs: number;
  /** Nothing of it ever runs again. */
  isDead: boolean;
}

interface Entry {
  atMs: number;
  readonly owner: Machine | undefined;
  readonly run: () => void;
}

/**
 * Time that passes only when it is told to, for several machines in one process. A timer belongs to the machine whose
 * clock has set it, so that one machine can be paused, or can die, without a line of its code knowing: everything that
 * reaches it from outside must come through `at`.
 */
export class VirtualTime {
  nowMs = 0;
  /** Of the `pass` that runs. */
  private untilMs = 0;
  private wallAheadMs = 1_700_000_000_000;
  /** In the order in which they were set. */
  private readonly entries = new Set<Entry>();
  /** Of no machine. */
  readonly clock: Clock = this.clockOf(undefined);

  /** `random` is what the clocks give. */
  constructor(private readonly random: () => number = Math.random) {}

  clockOf(machine: Machine | undefined): Clock {
    return {
      wallMs: () => this.wallAheadMs + this.nowMs,
      monotonicMs: () => this.nowMs,
      setTimer: (ms, run) => {
        const entry = this.set(machine, ms, run);
        return { cancel: () => void this.entries.delete(entry) };
      },
      yieldTurn: () => new Promise((resolve) => void this.set(machine, 0, resolve)),
      random: () => this.random(),
    };
  }

  /** Runs code of this machine in so many milliseconds, or when it goes on; undefined = the world outside. */
  at(machine: Machine | undefined, ms: number, work: () => void): void {
    this.set(machine, ms, work);
  }

  /** The wall clocks jump. */
  setWall(wallMs: number): void {
    this.wallAheadMs = wallMs - this.nowMs;
  }

  get timers(): number {
    return this.entries.size;
  }

  /** How many timers of this machine are set. */
  timersOf(machine: Machine): number {
    return [...this.entries].filter(({ owner }) => owner === machine).length;
  }

  async pass(ms: number): Promise<void> {
    this.untilMs = this.nowMs + ms;
    await this.settle();
    for (let entry = this.next(); entry !== undefined && entry.atMs <= this.untilMs; entry = this.next()) {
      this.nowMs = Math.max(this.nowMs, entry.atMs);
      const { owner } = entry;
      if (owner !== undefined && owner.pausedUntilMs > this.nowMs) {
        entry.atMs = owner.pausedUntilMs;
        continue;
      }
      this.entries.delete(entry);
      if (owner?.isDead) continue;
      entry.run();
      await this.settle();
    }
    this.nowMs = this.untilMs;
  }

  /** Time that passes while nothing has a turn, as in the midst of a computation; `pass` does not count it. */
  passBusy(ms: number): void {
    this.nowMs += ms;
    this.untilMs += ms;
  }

  async until(condition: () => boolean, withinMs: number): Promise<boolean> {
    for (let passedMs = 0; passedMs < withinMs && !condition(); passedMs += 10) await this.pass(10);
    return condition();
  }

  private set(owner: Machine | undefined, ms: number, run: () => void): Entry {
    const entry = { atMs: this.nowMs + Math.max(0, Math.ceil(ms)), owner, run };
    this.entries.add(entry);
    return entry;
  }

  private next(): Entry | undefined {
    let first: Entry | undefined;
    for (const entry of this.entries) {
      if (first === undefined || entry.atMs < first.atMs) first = entry;
    }
    return first;
  }

  /** Everything that needs no time. */
  private settle(): Promise<void> {
    return new Promise((resolve) => void setImmediate(resolve));
  }
}
