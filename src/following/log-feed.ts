import type { Term } from "../gen/oplog/store/v1/store_pb.js";
import { runFrom } from "../oplog/batch-frame.js";
import type { Clock } from "../oplog/clock.js";
import type { OplogError } from "../oplog/errors.js";
import type { LogKeys } from "../oplog/keys.js";
import {
  type GetResult,
  type KvStore,
  StoreDataLossError,
  StoreError,
  StoreRefusedError,
  type WatchEvent,
  WatchLostError,
} from "../oplog/kv-store.js";
import { DataLossError, HistoryDivergedError, LogDeletedError, TrimmedError } from "../oplog/log-errors.js";
import type { Logger } from "../oplog/logger.js";
import type { ReplicationObserver } from "../oplog/observer.js";
import { type CommittedRun, chainOf, isOtherChain } from "../oplog/record.js";
import { StoreAdoptedError, StoreLostError } from "../oplog/store-errors.js";
import { Backoff, Change, linkSignals, sleep } from "../oplog/timing.js";
import { decodeHead, decodeTerm } from "../stored/decode.js";
import { isLogGone, isSameLog, requireStillThere, requireUsable } from "../stored/deletion.js";
import {
  decodeFloor,
  HoleWatch,
  holeAt,
  openRecord,
  openRun,
  readFloor,
  readHistory,
  requireContinued,
} from "../stored/history.js";
import { requireNewestHead } from "../stored/newest-head.js";
import { claimantOf, type LeaderView, NOBODY } from "../stored/primary.js";
import { FeedCache, type FramedRun } from "./feed-cache.js";
import { HeadWentBackError, realCauseOf } from "./misfit.js";

export interface FeedParts {
  readonly store: KvStore;
  readonly keys: LogKeys;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly observer: ReplicationObserver;
  readonly cacheBytesMax: number;
  readonly headPollMs: number;
  /** Whether this process writes the log under this term: `publish` then brings the records, and no watch. */
  readonly isOwnTerm: (term: bigint) => boolean;
  /** Told of each higher term. */
  readonly onLeader: (leader: LeaderView) => void;
  /** The store has another history than the one that was followed. */
  readonly onDiverged: (error: HistoryDivergedError) => void;
}

const RETRY_FIRST_MS = 20;
const RETRY_MAX_MS = 1000;

/**
 * The tail of one log for all of its subscribers: one watch, and the newest runs in memory.
 *
 * Invariant: the runs handed on are contiguous; `last` is the id of the newest. The feed never trusts the watch to
 * be complete: the runs that it brings must fit, and must reach the head that it brings. The head is polled besides, since a
 * lost tail leaves no hole to see. If something does not fit, the store is read again. Each run must continue the chain of
 * the run before, and so must the head: otherwise the store has another history, and the feed ends.
 */
export class LogFeed {
  readonly change = new Change();
  /** Id of the newest run; before the first reading 0n. */
  last = 0n;
  /** Of that entry; "" = not known. */
  lastChain = "";
  /** The highest id known to be durable; above `last` while a gap is being closed. */
  head = 0n;
  floor = 1n;
  leader: LeaderView = NOBODY;
  logId: Uint8Array | undefined;
  /** Set for good when the log is broken behind `last`. */
  broken: OplogError | undefined;
  /** Why the store, which answers, refuses what the feed needs; undefined: it did not when it was last asked. */
  refusal: StoreRefusedError | undefined;
  /** Ids that are missing while later ones have been seen. */
  gap: { readonly first: bigint; readonly last: bigint } | undefined;
  private readonly cache: FeedCache;
  private headChain = "";
  /** That `head` is of before the first reading. */
  private writtenLogId: Uint8Array | undefined;
  private isSynced = false;
  private confirmedMs = 0;
  private broughtMs = 0;
  private readonly hole: HoleWatch;
  private isWarned = false;
  private watching: { readonly stop: AbortController; isResync: boolean } | undefined;
  /** Ends the waiting before the next attempt. */
  private readonly retry = new Change();

  constructor(private readonly parts: FeedParts) {
    this.cache = new FeedCache(parts.cacheBytesMax);
    this.hole = new HoleWatch(parts.clock);
  }

  get isReady(): boolean {
    return this.isSynced;
  }

  /** It has ended because the log that it followed is no more. */
  get isOfGoneLog(): boolean {
    return isLogGone(this.broken);
  }

  /** How long ago the store was last asked for the head and answered. What the watch brings may be of any age. */
  get headAgeMs(): number {
    return Math.round(this.parts.clock.monotonicMs() - this.confirmedMs);
  }

  /** How long ago the watch last brought anything, or was begun. */
  get watchAgeMs(): number {
    return Math.round(this.parts.clock.monotonicMs() - this.broughtMs);
  }

  /** The run that holds this id, if it is still in memory. */
  find(id: bigint): FramedRun | undefined {
    return this.cache.find(id);
  }

  /** What this process has written itself. */
  publish(run: CommittedRun, logId: Uint8Array): void {
    if (!isSameLog(this.logId ?? this.writtenLogId ?? logId, logId)) {
      if (this.logId !== undefined) {
        this.resync();
        return;
      }
      this.forgetWritten();
    }
    if (this.isSynced) this.logId ??= logId;
    else this.writtenLogId = logId;
    if (this.isSynced && run.first <= this.last + 1n) {
      try {
        this.accept(run);
      } catch (error) {
        // The store decides what its history is, and a reading of it tells; the writer goes on meanwhile.
        if (!(error instanceof HistoryDivergedError)) throw error;
        this.resync();
        return;
      }
      this.change.notify();
      return;
    }
    if (run.last > this.head) {
      this.head = run.last;
      this.headChain = run.chain;
    }
    if (this.isSynced) this.resync();
  }

  /** Looks at the store afresh: who writes has changed, or something has been missed. */
  resync(): void {
    this.retry.notify();
    if (this.watching === undefined) return;
    this.watching.isResync = true;
    this.watching.stop.abort();
  }

  /** What has been handed on may be of another history: whoever follows is ended, and may come again. */
  abandon(): void {
    this.broken ??= new StoreAdoptedError();
    this.change.notify();
  }

  /** Follows the log until the signal aborts, through every break of the store. */
  async run(signal: AbortSignal): Promise<void> {
    const { store, keys, clock } = this.parts;
    const backoff = new Backoff(clock, RETRY_FIRST_MS, RETRY_MAX_MS);
    while (!signal.aborted && this.broken === undefined) {
      try {
        await this.follow(signal, backoff);
      } catch (error) {
        if (signal.aborted) return;
        const cause = await realCauseOf(store, keys, this.logId, error);
        if (signal.aborted) return;
        this.noteFailure(cause);
        if (this.broken !== undefined) return;
        await this.retry.waitAtMost(clock, backoff.delayMs(), this.retry.version, signal);
      }
    }
  }

  /** Returns when asked to resync; throws when the tail broke. */
  private async follow(signal: AbortSignal, backoff: Backoff): Promise<void> {
    const { store } = this.parts;
    const stop = new AbortController();
    const watching = { stop, isResync: false };
    this.watching = watching;
    const startRevision = (await this.sync()) + 1n;
    this.broughtMs = this.parts.clock.monotonicMs();
    const { signal: both, unlink } = linkSignals(signal, stop.signal);
    let failure: unknown;
    const poll = this.pollHead(both).catch((error: unknown) => {
      failure = error;
      stop.abort();
    });
    try {
      for await (const batch of store.watch({ ...this.watchRange, startRevision }, both)) {
        this.broughtMs = this.parts.clock.monotonicMs();
        this.hole.clear();
        backoff.reset();
        this.isWarned = false;
        const before = this.seen;
        for (const event of batch.events) await this.apply(event);
        if (this.head > this.last) await this.fill();
        // Cursors concern nobody here.
        if (this.seen !== before) this.change.notify();
      }
    } finally {
      stop.abort();
      await poll;
      unlink();
    }
    if (!watching.isResync && !signal.aborted) throw failure ?? new WatchLostError("the watch has ended");
  }

  /** Of its own log a process need only watch whether it is still its own. */
  private get watchRange(): { from: string; to: string } {
    const { keys, isOwnTerm } = this.parts;
    return isOwnTerm(this.leader.term)
      ? { from: keys.term, to: `${keys.term}\0` }
      : { from: keys.allFrom, to: keys.allTo };
  }

  /** Reads where the log stands; returns the revision up to which everything has been seen. */
  private async sync(): Promise<bigint> {
    const { store, keys } = this.parts;
    const lastBefore = this.last;
    const askedMs = this.parts.clock.monotonicMs();
    const [term, floor, head] = await Promise.all([store.get(keys.term), store.get(keys.floor), store.get(keys.head)]);
    this.refusal = undefined;
    await this.requireLog(head);
    this.noteHead(head, lastBefore);
    this.confirmedMs = askedMs;
    this.noteClaim(decodeTerm(term.pair));
    this.noteFloor(decodeFloor(floor.pair).sequenceId);
    if (!this.isSynced) {
      this.last = this.head;
      this.lastChain = this.headChain;
      this.isSynced = true;
    } else if (this.head > this.last) {
      await this.fill();
    }
    this.hole.clear();
    this.change.notify();
    return [head.revision, floor.revision].reduce((least, each) => (each < least ? each : least), term.revision);
  }

  /** Changes whenever there is something to tell. */
  private get seen(): string {
    return `${this.last} ${this.head} ${this.floor} ${this.leader.term}`;
  }

  private async apply(event: WatchEvent): Promise<void> {
    if (event.kind === "delete") return;
    const { keys } = this.parts;
    const { pair } = event;
    if (pair.key === keys.head) {
      this.noteHead({ pair, revision: pair.modRevision }, 0n);
    } else if (pair.key === keys.term) {
      this.noteClaim(decodeTerm(pair));
      this.resync();
    } else if (pair.key === keys.floor) {
      this.noteFloor(decodeFloor(pair).sequenceId);
    } else {
      const id = keys.recordId(pair.key);
      // While a term is being claimed, own records may come from the writer first; they are not decoded again.
      if (id === undefined || id <= this.last) return;
      const record = openRecord(keys, pair, this.logId);
      if (record.header.firstSequenceId > this.last + 1n) {
        this.noteGap(record.header.firstSequenceId - 1n);
        await this.fill();
      } else {
        this.accept(openRun(keys, record));
      }
    }
  }

  /** Reads from the store what follows `last`. */
  private async fill(): Promise<void> {
    const { store, keys } = this.parts;
    try {
      for await (const run of readHistory(store, keys, this.last + 1n, this.logId, this.lastChain)) {
        this.accept(run);
        this.change.notify();
      }
      if (this.head > this.last) throw await holeAt(store, keys, this.last + 1n, this.head + 1n, this.logId);
    } catch (error) {
      if (!(error instanceof TrimmedError)) throw error;
      // Nobody can read what has been trimmed; subscribers that wanted it find out from the floor.
      this.parts.logger.warn({ event: "feed_trimmed", log: keys.log, last: String(this.last) }, error.message);
      this.noteFloor((await readFloor(store, keys)).sequenceId);
      this.cache.clear();
      this.last = this.floor - 1n;
      this.lastChain = "";
      await this.fill();
      return;
    }
    this.gap = undefined;
  }

  private accept(run: CommittedRun): void {
    if (run.last <= this.last) return;
    requireContinued(this.parts.keys, run, this.last, this.lastChain);
    this.cache.push(runFrom(run, this.last + 1n));
    this.last = run.last;
    this.lastChain = run.chain;
    if (run.last > this.head) {
      this.moveHead(run.last);
      this.headChain = run.chain;
    }
    if (this.gap !== undefined && this.last >= this.gap.last) this.gap = undefined;
  }

  private async pollHead(signal: AbortSignal): Promise<void> {
    const { store, keys, clock, headPollMs } = this.parts;
    let behind: { readonly at: bigint; readonly sinceMs: number } | undefined;
    for (let askedMs = clock.monotonicMs(); ; ) {
      // Twice per interval, so that a head that has been confirmed stays so until the next answer.
      await sleep(clock, Math.max(0, askedMs + headPollMs / 2 - clock.monotonicMs()), signal);
      if (signal.aborted) return;
      askedMs = clock.monotonicMs();
      const lastBefore = this.last;
      let head: GetResult;
      try {
        const [headRead, floor] = await Promise.all([store.get(keys.head), store.get(keys.floor)]);
        await this.requireLog(headRead);
        head = headRead;
        this.noteFloor(decodeFloor(floor.pair).sequenceId);
      } catch (error) {
        if (error instanceof StoreError && !(error instanceof StoreDataLossError)) continue;
        throw error;
      }
      this.noteHead(head, lastBefore);
      this.confirmedMs = askedMs;
      this.hole.clear();
      if (this.head <= this.last) {
        behind = undefined;
      } else if (behind?.at !== this.last) {
        behind = { at: this.last, sinceMs: askedMs };
      } else if (askedMs - behind.sinceMs >= headPollMs) {
        this.noteGap(this.head);
        throw new WatchLostError(`the watch is silent at ${this.last} though the head is ${this.head}`);
      }
    }
  }

  /** What was seen of a log, or written to it here, says nothing of the next one of its name. */
  private async requireLog({ pair }: GetResult): Promise<void> {
    const { store, keys } = this.parts;
    if (this.logId !== undefined) {
      if (pair === undefined) await requireStillThere(store, keys, this.logId);
    } else if (this.writtenLogId !== undefined) {
      if (pair !== undefined && isSameLog(decodeHead(pair).logId, this.writtenLogId)) return;
      await requireNewestHead(store, keys, pair);
      this.forgetWritten();
    }
  }

  private forgetWritten(): void {
    this.head = 0n;
    this.headChain = "";
    this.writtenLogId = undefined;
  }

  /** `lastBefore`: what had been seen before the head was asked for. A head below it means that the store went back. */
  private noteHead({ pair }: GetResult, lastBefore: bigint): void {
    const { keys } = this.parts;
    if (pair === undefined) {
      if (this.logId !== undefined)
        throw new DataLossError(keys.log, this.head, "the head has vanished from the store");
      return;
    }
    const head = decodeHead(pair);
    requireUsable(keys, head, this.logId);
    this.logId = head.logId;
    if (head.lastSequenceId < lastBefore) {
      throw new HeadWentBackError(keys.log, lastBefore, head.lastSequenceId);
    }
    const chain = chainOf(head.recordNonce);
    if (head.lastSequenceId === this.last && isOtherChain(chain, this.lastChain)) {
      throw new HistoryDivergedError(keys.log, this.last, this.lastChain, chain);
    }
    // What this process has written may be ahead of the reading, and its chain with it.
    if (head.lastSequenceId >= this.head) this.headChain = chain;
    if (head.lastSequenceId > this.head) this.moveHead(head.lastSequenceId);
  }

  private moveHead(head: bigint): void {
    this.head = head;
    this.parts.observer.headMoved(this.parts.keys.log, head);
  }

  private noteClaim(term: Term | undefined): void {
    if (term === undefined || term.term <= this.leader.term) return;
    this.leader = claimantOf(term);
    this.parts.onLeader(this.leader);
  }

  private noteFloor(floor: bigint): void {
    this.floor = floor;
    this.parts.observer.floorMoved(this.parts.keys.log, floor);
  }

  private noteGap(lastMissing: bigint): void {
    this.gap = { first: this.last + 1n, last: lastMissing };
    this.parts.observer.gapSeen(this.parts.keys.log);
    this.change.notify();
  }

  private noteFailure(error: unknown): void {
    const { keys, logger, observer } = this.parts;
    if (isLogGone(error) || error instanceof HistoryDivergedError) {
      this.breakFor(error);
    } else if (error instanceof DataLossError) {
      this.noteHole(error);
    } else if (error instanceof StoreDataLossError) {
      this.breakFor(new StoreLostError(error.message));
    } else if (error instanceof StoreError) {
      observer.watchBroken(keys.log);
      if (error instanceof StoreRefusedError) {
        this.refusal = error;
        this.change.notify();
      }
      if (!this.isWarned)
        logger.warn({ event: "tail_broken", log: keys.log, err: error }, "following the log again from the store");
      this.isWarned = true;
    } else {
      throw error;
    }
  }

  private noteHole(error: DataLossError): void {
    if (this.hole.isLasting(this.last + 1n)) this.breakFor(this.causeOf(error));
    else if (this.gap === undefined) this.noteGap(this.head > this.last ? this.head : this.last + 1n);
  }

  /** A head that went back for good is another history, as it is to a subscriber that comes again. */
  private causeOf(error: DataLossError): OplogError {
    if (!(error instanceof HeadWentBackError)) return error;
    const { keys } = this.parts;
    return new HistoryDivergedError(keys.log, this.last, this.lastChain, `none, since it ends at ${error.head}`);
  }

  private breakFor(error: OplogError): void {
    if (error instanceof HistoryDivergedError) this.parts.onDiverged(error);
    this.broken = error;
    const isDeleted = error instanceof LogDeletedError;
    // Whoever waits for the next log of this name finds it so again and again.
    const level = !isDeleted ? "error" : this.logId === undefined ? "debug" : "warn";
    this.parts.logger[level](
      { event: "log_broken", log: this.parts.keys.log, last: String(this.last), err: error },
      error.message,
    );
    this.change.notify();
  }
}
