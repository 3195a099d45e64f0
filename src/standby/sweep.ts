import type { Clock } from "../oplog/clock.js";
import { type AppendLimits, removalEntries, STAMP_BYTES_MAX } from "../oplog/entries.js";
import { OplogError } from "../oplog/errors.js";
import type { Logger } from "../oplog/logger.js";
import type { AppendItem, AppendOutcome } from "../writing/append-item.js";
import { SHARDS } from "./key-index.js";
import type { ObjectLeases } from "./object-leases.js";
import type { StandbyState } from "./standby-state.js";

export interface EvictionObserver {
  evicted(log: string, objects: number): void;
}

/** What is evicted from: a View. */
export interface EvictedView {
  readonly name: string;
  readonly state: StandbyState;
  readonly leases: ObjectLeases;
  /** Resolves to whether this entry has been applied within the time. */
  awaitApplied(sequenceId: number, signal: AbortSignal, timeoutMs: number): Promise<boolean>;
  /** Throws if the state can no longer be relied on. */
  requireWorking(): unknown;
}

/** Where the REMOVE entries go: a LogWriter. */
export interface EvictionWriter {
  readonly term: bigint;
  readonly lastSequenceId: bigint;
  readonly end: unknown;
  hold(): Promise<() => void>;
  appendFirst(item: AppendItem): void;
}

export interface EvictionParts {
  readonly view: EvictedView;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly observer: EvictionObserver;
  /** Of one append. */
  readonly limits: AppendLimits;
}

/** After so much of a sweep, what is ready is removed first. */
const TURN_MS = 4;
/** Applying and judging so many takes a few milliseconds, during which appends wait. */
const BATCH_ENTRIES_MAX = 5000;
const BATCH_BYTES_MAX = 256 * 1024;
/** The line is not held for a view that is further behind than this before, */
const CATCH_UP_MS_MAX = 5000;
/** and given back to the master after this. */
const HOLD_MS_MAX = 250;

/** One look at all objects. */
export class Sweep {
  readonly nowMs: number;
  /** When the earliest lease ends of those that were seen and of default ones given since. */
  private dueMs: number;
  workMs = 0;
  evicted = 0;
  batches = 0;
  heldMsMax = 0;
  isPostponed = false;
  private turnStartedMs: number;

  constructor(
    private readonly parts: EvictionParts,
    private readonly writer: EvictionWriter,
    private readonly signal: AbortSignal,
  ) {
    const { leases, state } = parts.view;
    this.nowMs = leases.nowMs;
    this.dueMs = this.nowMs + leases.defaultMs!;
    // A lease that is put from here on is either seen, or noted there.
    state.earliestLeaseMs = Number.POSITIVE_INFINITY;
    this.turnStartedMs = parts.clock.monotonicMs();
  }

  async run(): Promise<this> {
    let isComplete = false;
    try {
      await this.sweep();
      isComplete = !this.hasToStop;
    } finally {
      // Kept with the state: the next promotion here has to know of leases that were seen in this one.
      this.parts.view.state.leasesEndFrom(isComplete ? this.dueMs : this.nowMs);
    }
    return this;
  }

  private async sweep(): Promise<void> {
    let found: Buffer[] = [];
    for (let shard = 0; shard < SHARDS && !this.hasToStop; shard++) {
      found = found.concat(this.parts.view.state.keysWhere(shard, (lease) => this.hasRunOut(lease, this.nowMs)));
      while (found.length >= BATCH_ENTRIES_MAX && !this.hasToStop) found = await this.evictSome(found);
      if (this.parts.clock.monotonicMs() - this.turnStartedMs >= TURN_MS) await this.yieldTurn();
    }
    while (found.length > 0 && !this.hasToStop) found = await this.evictSome(found);
    this.noteWork();
  }

  /** This sidecar leads no more. */
  get isOver(): boolean {
    return this.signal.aborted || this.writer.end !== undefined;
  }

  private get hasToStop(): boolean {
    return this.isPostponed || this.isOver;
  }

  private hasRunOut(lease: Parameters<ObjectLeases["endOf"]>[0], nowMs: number): boolean {
    const endMs = this.parts.view.leases.endOf(lease);
    if (endMs <= nowMs) return true;
    if (endMs < this.dueMs) this.dueMs = endMs;
    return false;
  }

  /** One batch; answers the rest. */
  private async evictSome(keys: Buffer[]): Promise<Buffer[]> {
    const count = this.fitting(keys);
    this.noteWork();
    try {
      this.isPostponed = !(await this.evict(keys.slice(0, count)));
    } catch (error) {
      if (!(error instanceof OplogError)) throw error;
      // The sidecar drains, or the writer has ended and has said why.
      this.isPostponed = true;
    }
    this.turnStartedMs = this.parts.clock.monotonicMs();
    return keys.slice(count);
  }

  /** How many of the keys one batch takes. */
  private fitting(keys: readonly Buffer[]): number {
    const { entriesMax, bytesMax } = this.parts.limits;
    const countMax = Math.min(BATCH_ENTRIES_MAX, entriesMax, keys.length);
    let count = 0;
    for (let bytes = 0; count < countMax; count++) {
      bytes += keys[count]!.length + REMOVE_BYTES + STAMP_BYTES_MAX;
      if (bytes > Math.min(BATCH_BYTES_MAX, bytesMax) && count > 0) break;
    }
    return count;
  }

  /** False: not now. Throws OplogError. */
  private async evict(keys: readonly Buffer[]): Promise<boolean> {
    const { view, clock, observer } = this.parts;
    const { writer, signal } = this;
    if (!(await view.awaitApplied(Number(writer.lastSequenceId), signal, CATCH_UP_MS_MAX))) return false;
    const release = await writer.hold();
    const heldFromMs = clock.monotonicMs();
    let settled: Promise<AppendOutcome> | undefined;
    let objects = 0;
    try {
      if (!(await view.awaitApplied(Number(writer.lastSequenceId), signal, HOLD_MS_MAX)) || signal.aborted)
        return false;
      const { nowMs } = view.leases;
      const out = keys.filter((key) => {
        const lease = view.state.leaseOf(key);
        return lease !== undefined && this.hasRunOut(lease, nowMs);
      });
      objects = out.length;
      if (objects > 0) settled = this.remove(out);
    } finally {
      release();
      this.heldMsMax = Math.max(this.heldMsMax, clock.monotonicMs() - heldFromMs);
    }
    if (settled === undefined) return true;
    const outcome = await settled;
    if ("error" in outcome) {
      view.leases.removalFailed();
      throw outcome.error;
    }
    view.leases.removed(Number(outcome.appended.last));
    this.evicted += objects;
    this.batches++;
    observer.evicted(view.name, objects);
    return true;
  }

  private remove(keys: readonly Buffer[]): Promise<AppendOutcome> {
    return new Promise((settle) => {
      this.writer.appendFirst({
        entries: removalEntries(keys),
        expectedSequenceId: this.writer.lastSequenceId,
        expectedTerm: this.writer.term,
        writerId: "",
        operationId: 0n,
        contentCrc32c: 0,
        isAbandoned: () => false,
        settle,
      });
      this.parts.view.leases.removing(keys);
    });
  }

  private async yieldTurn(): Promise<void> {
    this.noteWork();
    await this.parts.clock.yieldTurn();
    this.turnStartedMs = this.parts.clock.monotonicMs();
  }

  private noteWork(): void {
    this.workMs += this.parts.clock.monotonicMs() - this.turnStartedMs;
  }
}

/** Of a REMOVE beside its key. */
const REMOVE_BYTES = 5;

export function isWorking(view: EvictedView): boolean {
  try {
    view.requireWorking();
    return true;
  } catch {
    return false;
  }
}
