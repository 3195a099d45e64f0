import type { Clock, Timer } from "../oplog/clock.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KvStore, WatchEvent } from "../oplog/kv-store.js";
import type { Logger } from "../oplog/logger.js";
import { type CursorsRead, consumerOf, type DamagedCursor, openCursor, type StoredCursor } from "../stored/cursors.js";
import { CursorTail } from "./cursor-tail.js";
import { type StandbyWait, StandbyWaits } from "./standby-waits.js";

export const STANDBYS_MAX = 16;

/** How far an append must have got at standbys before it is answered. */
export interface StandbyDemand {
  readonly position: "received" | "applied";
  /** 1 to STANDBYS_MAX. */
  readonly count: number;
  /** After this time the append is answered with what was reached. */
  readonly timeoutMs: number;
}

export interface StandbyPositionsParts {
  readonly store: KvStore;
  readonly keys: LogKeys;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly pollMs: number;
  /** A broken invariant: the process must end. */
  readonly onBroken: (error: unknown) => void;
}

interface Position {
  readonly received: bigint;
  readonly applied: bigint;
  readonly modRevision: bigint;
}

interface Wait extends StandbyWait {
  readonly level: Level;
  readonly timer: Timer;
  readonly settle: (reached: number) => void;
}

/** The waits with the same demand: position and count. */
interface Level {
  readonly position: StandbyDemand["position"];
  readonly count: number;
  readonly waits: StandbyWaits<Wait>;
}

/** The cursors are followed for this long after the last wait: the next one finds them known. */
const IDLE_MS = 5000;

/**
 * How far the standbys of one log are, by their durable cursors, and which appends wait for them. The cursors are followed
 * in the store, because standbys report to their own sidecars. They are followed only while an append waits, or did so a
 * moment ago.
 *
 * Invariant: of each cursor the position with the highest revision counts. While the store is not followed no position is
 * known, so a cursor that has gone back meanwhile never counts as having reached an id.
 */
export class StandbyPositions {
  private readonly positions = new Map<string, Position>();
  /** Those that have been told of, by their revision. */
  private readonly damaged = new Map<string, bigint>();
  /** The highest STANDBYS_MAX positions, the highest first. */
  private highest: Record<StandbyDemand["position"], bigint[]> = { received: [], applied: [] };
  private readonly levels = new Map<string, Level>();
  private waiting = 0;
  private sinceRevision = 0n;
  private isDraining = false;
  private tail: { readonly stop: AbortController; readonly done: Promise<void> } | undefined;
  private idle: Timer | undefined;

  constructor(private readonly parts: StandbyPositionsParts) {}

  /**
   * Calls `settle` once: when enough standbys have passed the id, when the time is over, or when the function that this
   * returns is called. Its argument: how many have passed, at most the count asked for.
   */
  wait(lastSequenceId: bigint, demand: StandbyDemand, settle: (reached: number) => void): () => void {
    const level = this.level(demand);
    const reached = this.reached(level, lastSequenceId);
    if (reached === demand.count || this.isDraining) {
      settle(reached);
      return () => undefined;
    }
    const timer = this.parts.clock.setTimer(demand.timeoutMs, () => this.settle(wait));
    const wait: Wait = { lastSequenceId, index: -1, level, timer, settle };
    level.waits.add(wait);
    this.waiting++;
    this.follow();
    return () => this.settle(wait);
  }

  /** Nobody waits. */
  get isIdle(): boolean {
    return this.waiting === 0;
  }

  /**
   * A term has been claimed here: only what the store tells as of this revision, or later, counts. What was known may be of
   * cursors of a deleted log of the same name.
   */
  renew(revision: bigint): void {
    this.sinceRevision = revision;
    if (this.tail === undefined) return;
    void this.stop();
    if (this.waiting > 0) this.follow();
  }

  /** A position that has become durable through this sidecar. */
  note(stored: StoredCursor): void {
    if (this.tail === undefined || stored.modRevision < this.sinceRevision) return;
    this.remember(stored);
    this.release();
  }

  /** Answers all waits, also later ones, with what is reached by then. */
  drain(): void {
    this.isDraining = true;
    for (const { waits } of this.levels.values()) while (waits.lowest !== undefined) this.settle(waits.lowest);
  }

  async close(): Promise<void> {
    this.drain();
    this.idle?.cancel();
    await this.stop();
  }

  private level({ position, count }: StandbyDemand): Level {
    const name = `${position} ${count}`;
    let level = this.levels.get(name);
    if (level === undefined) {
      level = { position, count, waits: new StandbyWaits() };
      this.levels.set(name, level);
    }
    return level;
  }

  private reached({ position, count }: Level, lastSequenceId: bigint): number {
    const highest = this.highest[position];
    let reached = 0;
    while (reached < count && reached < highest.length && highest[reached]! >= lastSequenceId) reached++;
    return reached;
  }

  /** Settles the waits that the positions have passed: the lowest ones of each level. */
  private release(): void {
    const positions = [...this.positions.values()];
    this.highest = {
      received: highestOf(positions.map(({ received }) => received)),
      applied: highestOf(positions.map(({ applied }) => applied)),
    };
    for (const { waits, position, count } of this.levels.values()) {
      const passed = this.highest[position][count - 1];
      if (passed === undefined) continue;
      while (waits.lowest !== undefined && waits.lowest.lastSequenceId <= passed) this.settle(waits.lowest);
    }
  }

  private settle(wait: Wait): void {
    if (wait.index < 0) return;
    wait.timer.cancel();
    wait.level.waits.remove(wait);
    this.waiting--;
    if (this.waiting === 0) this.idle = this.parts.clock.setTimer(IDLE_MS, () => void this.stop(), true);
    wait.settle(this.reached(wait.level, wait.lastSequenceId));
  }

  private follow(): void {
    this.idle?.cancel();
    if (this.tail !== undefined) return;
    const stop = new AbortController();
    const tail = new CursorTail({
      ...this.parts,
      sinceRevision: this.sinceRevision,
      onRead: (read) => this.take(read),
      onChanged: (events) => this.apply(events),
    });
    this.tail = { stop, done: tail.run(stop.signal).catch(this.parts.onBroken) };
  }

  private async stop(): Promise<void> {
    const { tail } = this;
    if (tail === undefined) return;
    this.tail = undefined;
    this.positions.clear();
    this.damaged.clear();
    this.release();
    tail.stop.abort();
    await tail.done;
  }

  private take({ cursors, damaged, revision }: CursorsRead): void {
    const present = new Set(cursors.map(({ consumer }) => consumer));
    for (const [consumer, { modRevision }] of this.positions) {
      if (!present.has(consumer) && modRevision <= revision) this.positions.delete(consumer);
    }
    for (const stored of cursors) this.remember(stored);
    for (const each of damaged) this.forgetDamaged(each);
    this.release();
  }

  private apply(events: readonly WatchEvent[]): void {
    const { keys } = this.parts;
    for (const event of events) {
      if (event.kind === "put") {
        const read = openCursor(keys, event.pair);
        if ("cursor" in read) this.remember(read);
        else this.forgetDamaged(read);
      } else {
        this.forget({ consumer: consumerOf(keys, event.key), modRevision: event.modRevision });
      }
    }
    this.release();
  }

  /** The position of its consumer is not known. */
  private forgetDamaged({ consumer, problem, modRevision }: DamagedCursor): void {
    this.forget({ consumer, modRevision });
    if (this.damaged.get(consumer) === modRevision) return;
    this.damaged.set(consumer, modRevision);
    const { logger, keys } = this.parts;
    logger.error(
      { event: "cursor_damaged", log: keys.log, consumer: consumer.slice(0, 200), problem },
      "a cursor cannot be read and does not count; DeleteCursor removes it",
    );
  }

  private forget({ consumer, modRevision }: Pick<DamagedCursor, "consumer" | "modRevision">): void {
    const known = this.positions.get(consumer);
    if (known !== undefined && known.modRevision < modRevision) this.positions.delete(consumer);
  }

  private remember({ consumer, cursor, modRevision }: StoredCursor): void {
    const known = this.positions.get(consumer);
    if (known !== undefined && known.modRevision >= modRevision) return;
    const { receivedSequenceId: received, appliedSequenceId: applied } = cursor;
    this.positions.set(consumer, { received, applied, modRevision });
  }
}

function highestOf(ids: bigint[]): bigint[] {
  return ids.sort((a, b) => (a < b ? 1 : a > b ? -1 : 0)).slice(0, STANDBYS_MAX);
}
