import type { SubscriptionOptions } from "../following/subscription.js";
import type { FeedView } from "../log/contract.js";
import type { Log } from "../log/log.js";
import type { Clock } from "../oplog/clock.js";
import { OplogError, ShuttingDownError } from "../oplog/errors.js";
import {
  HistoryDivergedError,
  LogDeletedError,
  LogReplacedError,
  TermDivergedError,
  ViewFailedError,
} from "../oplog/log-errors.js";
import type { Logger } from "../oplog/logger.js";
import { StoreReplacedRefusal } from "../oplog/store-errors.js";
import { Backoff, Change, linkSignals, sleep } from "../oplog/timing.js";
import { WireError, WireReader } from "../oplog/wire.js";
import { isLogGone } from "../stored/deletion.js";
import { ApplyRate } from "./apply-rate.js";
import { type Divergence, HashComparison } from "./hash-comparison.js";
import type { LifeState, Phase, Sight } from "./life-cycle.js";
import { LifeRecord, type PhaseChange } from "./life-record.js";
import type { LogView } from "./log-view.js";
import { MemoryStateReader } from "./memory-state-reader.js";
import { ObjectLeases } from "./object-leases.js";
import { type KeyOrderViolation, StandbyState, StateGapError } from "./standby-state.js";

/** What a view reports of its work; the sidecar turns it into metrics. */
export interface ViewObserver {
  applied(log: string, sequenceId: number, keys: number, bytes: number): void;
  keyOrderViolated(log: string): void;
  /** How many consumers report a state that differs from that of the view. */
  diverged(log: string, consumers: number): void;
  /** Told at first, with no `from`, and of each change that is recorded. */
  phase(log: string, to: Phase, from?: Phase): void;
}

export interface ViewParts {
  /** Called for each attempt: the sidecar closes logs that nobody uses. */
  readonly openLog: (name: string) => Log;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly observer: ViewObserver;
  /** A head counts as confirmed for this long. */
  readonly headPollMs: number;
  /** Undefined: objects have the leases of their entries, and none is ever removed. */
  readonly objectLeaseDefaultMs?: number | undefined;
}

const RETRY_FIRST_MS = 100;
/** A candidate waits for it, and the others wait for that one. */
const RETRY_MAX_MS = 1000;
/** A batch is applied in one go; this many bytes take a few milliseconds. */
const BATCH_BYTES_MAX = 128 * 1024;
/** Nobody looks at the heartbeats of this subscription. */
const HEARTBEAT_MS = 60_000;
/** How often the phase is looked at, also if nobody asks. */
const LOOK_MS_MAX = 250;
/** A log whose keys are all out of order must not flood the log of the process. */
const VIOLATION_REPORT_MS = 1000;

/** Kept up to date through a subscription inside the sidecar. */
export class View implements LogView {
  readonly state = new StandbyState((violation) => this.noteViolation(violation));
  logId: Uint8Array = new Uint8Array();
  /** Of the last entry that has been applied; "" = not known. */
  appliedChain = "";
  readonly leases: ObjectLeases;
  readonly reader: MemoryStateReader;
  private readonly comparison: HashComparison;
  private readonly life: LifeRecord;
  private readonly rate = new ApplyRate();
  /** Notified when something has been applied, and when the view stops for good. */
  private readonly change = new Change();
  /** Ends the waiting before the next attempt. */
  private readonly retry = new Change();
  /** It has stopped because its log was deleted; another one may have come by the same name. */
  isOfGoneLog = false;
  private log: Log | undefined;
  private isReached = false;
  private headSeen = 0n;
  private headConfirmedMs: number;
  private violationReportedMs = Number.NEGATIVE_INFINITY;
  /** Why the log could not be followed when it was last tried. */
  private interruption: string | undefined;

  constructor(
    private readonly parts: ViewParts,
    readonly name: string,
  ) {
    const { clock, logger, observer, headPollMs } = parts;
    this.leases = new ObjectLeases(this.state, clock, parts.objectLeaseDefaultMs);
    this.reader = new MemoryStateReader({
      log: name,
      state: this.state,
      leases: this.leases,
      clock,
      requireWorking: () => void this.requireWorking(),
    });
    this.comparison = new HashComparison({
      log: name,
      clock,
      logger,
      onChanged: (diverged) => observer.diverged(name, diverged),
    });
    this.state.onWatched = () => {
      this.comparison.reached(this.state);
      this.state.watchedId = this.comparison.nextAwaited;
    };
    this.headConfirmedMs = clock.monotonicMs();
    this.life = new LifeRecord({
      log: name,
      clock,
      logger,
      heartbeatMs: headPollMs,
      sight: () => this.sight,
      onPhase: (to, from) => observer.phase(name, to, from),
    });
  }

  get phase(): Phase {
    return this.life.now.kind;
  }

  get lifeState(): LifeState {
    return this.life.now;
  }

  get history(): readonly PhaseChange[] {
    return this.life.changes;
  }

  get applied(): number {
    return this.state.applied;
  }

  get keys(): number {
    return this.state.keys;
  }

  get leaseDefaultMs(): number | undefined {
    return this.leases.defaultMs;
  }

  get head(): bigint {
    return this.sight.head;
  }

  get sight(): Sight {
    const nowMs = this.parts.clock.monotonicMs();
    const feed = this.log?.feedView;
    if (feed?.isReady) {
      this.isReached = true;
      this.headConfirmedMs = Math.max(this.headConfirmedMs, nowMs - feed.headAgeMs);
      if (feed.head > this.headSeen) this.headSeen = feed.head;
    }
    const headAgeMs = Math.round(nowMs - this.headConfirmedMs);
    return { isReached: this.isReached, applied: BigInt(this.state.applied), head: this.headSeen, headAgeMs };
  }

  get feedView(): FeedView | undefined {
    return this.log?.feedView;
  }

  get divergences(): readonly Divergence[] {
    return this.comparison.divergences;
  }

  compareHash(consumer: string, id: bigint, hash: Uint8Array): void {
    this.comparison.report(consumer, Number(id), hash, this.state);
    this.state.watchedId = this.comparison.nextAwaited;
  }

  get appliedPerSecond(): number | undefined {
    return this.rate.perSecond(this.parts.clock.monotonicMs(), this.state.applied);
  }

  requireWorking(): this {
    const state = this.life.now;
    if (state.kind === "failed") throw new ViewFailedError(this.name, this.state.applied, state.because);
    return this;
  }

  /** The feed reads the store again for this. */
  async promote(final: bigint, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    this.requireWorking();
    this.life.take({ kind: "won", final });
    this.reader.abandonImages();
    this.log?.resync();
    this.retry.notify();
    for (;;) {
      const seen = this.change.version;
      const applied = BigInt(this.requireWorking().state.applied);
      if (applied === final) return;
      if (applied > final) {
        throw new ViewFailedError(this.name, this.state.applied, `what came before the new term ends at ${final}`);
      }
      await this.change.wait(seen, signal);
      signal.throwIfAborted();
    }
  }

  promoted(): void {
    this.life.take({ kind: "leads" });
  }

  demoted(): void {
    this.life.take({ kind: "stepped down" });
    this.life.look();
  }

  async awaitApplied(id: number, signal: AbortSignal, timeoutMs: number): Promise<boolean> {
    const { clock } = this.parts;
    const deadlineMs = clock.monotonicMs() + timeoutMs;
    for (;;) {
      const seen = this.change.version;
      if (this.state.applied >= id) return true;
      const leftMs = deadlineMs - clock.monotonicMs();
      if (leftMs <= 0 || signal.aborted || this.phase === "failed") return false;
      await this.change.waitAtMost(clock, leftMs, seen, signal);
    }
  }

  /** Applies until the signal aborts, the sidecar drains, or the log cannot be followed any further. */
  async run(signal: AbortSignal): Promise<void> {
    const ended = new AbortController();
    const { signal: both, unlink } = linkSignals(signal, ended.signal);
    const looking = this.keepLooking(both);
    try {
      await this.keepApplying(signal);
    } finally {
      ended.abort();
      await looking;
      unlink();
    }
  }

  private async keepApplying(signal: AbortSignal): Promise<void> {
    const { clock } = this.parts;
    const backoff = new Backoff(clock, RETRY_FIRST_MS, RETRY_MAX_MS);
    while (!signal.aborted) {
      const before = this.state.applied;
      try {
        await this.follow(signal);
      } catch (error) {
        if (error instanceof ShuttingDownError || signal.aborted) return;
        // Of a log that is being deleted nothing is shown: the next one is waited for.
        const isNext = error instanceof LogDeletedError && this.state.applied === 0;
        if (!isPassing(error) && !isNext) return this.fail(error);
        if (this.state.applied > before) backoff.reset();
        this.noteInterrupted(error);
        await this.retry.waitAtMost(clock, backoff.delayMs(), this.retry.version, signal);
      }
    }
  }

  private async keepLooking(signal: AbortSignal): Promise<void> {
    const { clock, headPollMs } = this.parts;
    while (!signal.aborted) {
      this.rate.note(clock.monotonicMs(), this.state.applied);
      this.life.look();
      await sleep(clock, Math.min(LOOK_MS_MAX, headPollMs / 4), signal);
    }
  }

  private async follow(signal: AbortSignal): Promise<void> {
    const { state } = this;
    this.log = this.parts.openLog(this.name);
    const from = BigInt(state.applied + 1);
    const previous = { term: BigInt(state.appliedTerm), chain: this.appliedChain };
    await this.log.subscribe(
      OPTIONS,
      { kind: "sequence", from, previous },
      this.logId,
      {
        batch: (frame, { chain }) => this.apply(frame, chain),
        notice: async () => this.noteFollowed(),
        bufferedBytes: 0,
        hasRoom: true,
        room: async () => undefined,
      },
      signal,
    );
  }

  private async apply(frame: Buffer, chain: string): Promise<void> {
    const { state, name } = this;
    this.noteFollowed();
    await this.reader.untilFree();
    // Before the first entry is applied, so that the first load is seen from its beginning.
    this.life.look();
    this.logId = this.log?.feedView.logId ?? this.logId;
    const response = new WireReader(frame);
    response.tag();
    state.apply(frame.subarray(response.span(), response.position));
    this.appliedChain = chain;
    this.comparison.noteBatch(state);
    this.parts.observer.applied(name, state.applied, state.keys, state.bytes);
    this.change.notify();
    await this.parts.clock.yieldTurn();
  }

  /** It is tried again and again: one line when that begins, and when the reason changes. */
  private noteInterrupted({ reason, message }: OplogError): void {
    if (this.interruption === reason) return;
    this.interruption = reason;
    const facts = { event: "view_interrupted", log: this.name, reason, error: message };
    this.parts.logger.warn(facts, "the view cannot follow the log at the moment, and tries again");
  }

  private noteFollowed(): void {
    this.interruption = undefined;
  }

  private fail(error: unknown): void {
    const because = isExplained(error) ? error.message : "an internal error, which the log of the sidecar tells";
    this.isOfGoneLog = isLogGone(error);
    this.life.take({ kind: "failed", because, isOtherHistory: isOfOtherHistory(error) });
    this.change.notify();
    const facts = { event: "view_failed", log: this.name, applied: String(this.state.applied), err: error };
    this.parts.logger.error(facts, `the view has stopped: ${because}`);
  }

  private noteViolation({ key, sequenceId, lastKeySequenceId, keySequenceId }: KeyOrderViolation): void {
    const { clock, logger, observer } = this.parts;
    observer.keyOrderViolated(this.name);
    const nowMs = clock.monotonicMs();
    if (nowMs - this.violationReportedMs < VIOLATION_REPORT_MS) return;
    this.violationReportedMs = nowMs;
    logger.warn(
      {
        event: "key_order_violated",
        log: this.name,
        key: key.slice(0, 200),
        sequenceId: String(sequenceId),
        total: this.state.keyOrderViolations,
      },
      `a key was dropped from the view: its key_sequence_id is ${keySequenceId} after ${lastKeySequenceId}`,
    );
  }
}

const OPTIONS: SubscriptionOptions = {
  consumer: "",
  peer: "view",
  filter: undefined,
  batchBytesMax: BATCH_BYTES_MAX,
  lingerMs: 0,
  heartbeatMs: HEARTBEAT_MS,
};

function isExplained(error: unknown): error is Error {
  return error instanceof OplogError || error instanceof StateGapError || error instanceof WireError;
}

function isOfOtherHistory(error: unknown): boolean {
  return [HistoryDivergedError, TermDivergedError, LogReplacedError].some((type) => error instanceof type);
}

/**
 * The store is away or refused, or a limit of the sidecar is reached. All other failures come from the log itself, and stay.
 * The right store may come back; if another one is adopted, the view is built anew.
 */
function isPassing(error: unknown): error is OplogError {
  if (!(error instanceof OplogError)) return false;
  return ["UNAVAILABLE", "RESOURCE_EXHAUSTED"].includes(error.code) || error instanceof StoreReplacedRefusal;
}
