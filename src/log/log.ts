import { CursorExpiry } from "../cursors/cursor-expiry.js";
import type { CursorUpdate } from "../cursors/cursor-rules.js";
import { type CursorMoved, CursorWriter } from "../cursors/cursor-writer.js";
import { StandbyPositions } from "../cursors/standby-positions.js";
import { LogFeed } from "../following/log-feed.js";
import { type ReadPage, readPage } from "../following/read-page.js";
import { requireLogId, resolveStart, type Start } from "../following/start-position.js";
import { type FrameSink, Subscription, type SubscriptionOptions } from "../following/subscription.js";
import type { Timer } from "../oplog/clock.js";
import { OplogError, ShuttingDownError, TooManyError } from "../oplog/errors.js";
import { LogKeys } from "../oplog/keys.js";
import { StoreDataLossError, StoreError } from "../oplog/kv-store.js";
import type { Resolution } from "../oplog/operation-window.js";
import { StoreLostError, StoreUnavailableError } from "../oplog/store-errors.js";
import { readCandidates } from "../stored/candidates.js";
import { isSameLog, readDeletion } from "../stored/deletion.js";
import { watchLeadership } from "../stored/leader-watch.js";
import { type Leadership, readLeadership, readPrimary } from "../stored/leadership.js";
import { type LogState, readLogState } from "../stored/log-state.js";
import type { LeaderView } from "../stored/primary.js";
import { describeRecord, type RecordDescription } from "../stored/record-description.js";
import { throughStore, toOplogError } from "../stored/store-failures.js";
import type { AppendItem } from "../writing/append-item.js";
import { deleteLog } from "../writing/delete-log.js";
import { LogPrimary, type PrimaryRest } from "../writing/log-primary.js";
import type { LogWriter } from "../writing/log-writer.js";
import { StoreResolver } from "../writing/resolve.js";
import { costOf } from "../writing/seal.js";
import type { AppendWait, FeedView, LogParts, ServedLog } from "./contract.js";
import { LastKnown } from "./last-known.js";

/** A feed that nobody uses is kept this long, for subscribers that reconnect. */
const FEED_IDLE_MS = 5000;
const FEED_READY_MS_MAX = 5000;
const LEADERSHIP_REREAD_MS = 5000;

/** What is kept of a log that was closed because nobody uses it. */
export interface LogRest {
  readonly primary: PrimaryRest | undefined;
  readonly sightings: LastKnown;
}

/** One log in this sidecar: its writer, its feed, its subscriptions. */
export class Log implements ServedLog {
  readonly keys: LogKeys;
  readonly primary: LogPrimary;
  readonly standbys: StandbyPositions;
  readonly subscriptions = new Map<bigint, Subscription>();
  private readonly cursors: CursorWriter;
  private readonly resolver: StoreResolver;
  private readonly cursorExpiry: CursorExpiry;
  private feed: LogFeed;
  private feedUsers = 0;
  private retainers = 0;
  private feedRun: { readonly stop: AbortController; readonly done: Promise<void> } | undefined;
  private feedIdle: Timer | undefined;
  private nextSubscriptionId = 1n;
  private readonly sightings: LastKnown;
  private isFound = false;
  private isDraining = false;

  constructor(
    private readonly parts: LogParts,
    readonly name: string,
    rest?: LogRest,
  ) {
    this.keys = new LogKeys(parts.keyPrefix, name);
    this.sightings = rest?.sightings ?? new LastKnown((term) => parts.observer.termSeen(name, term));
    this.feed = this.newFeed();
    this.standbys = new StandbyPositions({ ...parts, keys: this.keys, pollMs: parts.headPollMs });
    this.cursors = new CursorWriter({
      ...parts,
      keys: this.keys,
      chainHere: (id) => this.chainHere(id),
      onMoved: (moved) => this.standbys.note(moved),
    });
    this.resolver = new StoreResolver(parts.store, this.keys, parts.clock);
    this.cursorExpiry = new CursorExpiry({ ...parts, keys: this.keys });
    this.primary = new LogPrimary({
      ...parts,
      keys: this.keys,
      sightings: {
        noteClaim: ({ head, headRevision }) => {
          this.sightings.noteLog(head.logId, head.lastSequenceId);
          this.standbys.renew(headRevision);
        },
        noteLeader: (primary, isVacant) => this.sightings.noteLeader(primary, isVacant),
        noteDiverged: (error) => this.parts.onDiverged(name, error),
        lastSeen: () => {
          this.noteFeed();
          return this.sightings.lastSeen;
        },
      },
      onCommitted: (run, logId) => {
        this.sightings.noteEntry({ logId, id: run.last, chain: run.chain });
        this.feed.publish(run, logId);
      },
      onLeading: (isLeading) => {
        if (isLeading) this.noteFound();
        this.cursorExpiry.whileLeading(isLeading);
        this.feed.resync();
      },
      rest: rest?.primary,
    });
  }

  /** Nobody uses the log, and `rest` can return all that must be known of it later. */
  get canRest(): boolean {
    return this.feedUsers === 0 && this.retainers === 0 && this.standbys.isIdle && this.primary.canRest;
  }

  /** This log is led here, and the expiry of its cursors would be counted from the start again if the log rested. */
  get isExpiringCursors(): boolean {
    return this.cursorExpiry.isCounting;
  }

  /** Nothing has been seen of it: nothing is lost with it. */
  get isUnknown(): boolean {
    return this.primary.isIdle && this.sightings.lastSeen === undefined;
  }

  /** Closes it; to be called when it can rest. */
  rest(): LogRest {
    this.noteFeed();
    this.sightings.forgetReading();
    const primary = this.primary.rest();
    void this.close();
    return { primary, sightings: this.sightings };
  }

  /** Keeps the log open until the function it returns is called. */
  retain(): () => void {
    this.retainers++;
    return () => {
      this.retainers--;
    };
  }

  get leaderView(): LeaderView {
    return this.feed.leader;
  }

  get feedView(): FeedView {
    const { isReady, logId, last, head, headAgeMs, watchAgeMs, gap } = this.feed;
    return { isReady, logId, last, head, headAgeMs, watchAgeMs, gap };
  }

  /** The chain of an entry that is still in memory; "" = it is not. */
  chainHere(id: bigint): string {
    return this.feed.find(id)?.chain ?? "";
  }

  /** What has been seen of the log is no longer valid. Each follower finds out whether its own entries are concerned. */
  forget(): void {
    this.sightings.forget();
    this.primary.forget();
    this.feed.abandon();
    this.replaceFeed();
  }

  /** Makes the feed read the store again at once. */
  resync(): void {
    this.feed.resync();
  }

  async subscribe(
    options: SubscriptionOptions,
    start: Start,
    logId: Uint8Array,
    sink: FrameSink,
    signal: AbortSignal,
  ): Promise<void> {
    const { store, clock, observer, subscriptionsMax, pageTurns } = this.parts;
    if (this.isDraining) throw new ShuttingDownError();
    if (subscriptionsMax.open >= subscriptionsMax.max)
      throw new TooManyError("subscriptions", subscriptionsMax.max, 1000);
    subscriptionsMax.open++;
    const feed = this.acquireFeed();
    const id = this.nextSubscriptionId++;
    try {
      await this.awaitReady(feed, signal);
      if (signal.aborted) return;
      if (feed.logId !== undefined) this.noteFound();
      await this.throughStore(requireLogId(store, this.keys, feed, logId));
      const next = await this.throughStore(resolveStart(store, this.keys, feed, start));
      const parts = { store, keys: this.keys, feed, clock, observer, sink, pageTurns };
      const subscription = new Subscription(parts, options, next);
      this.subscriptions.set(id, subscription);
      if (this.isDraining) subscription.drain();
      observer.subscribers(this.name, this.subscriptions.size);
      await subscription.run(signal);
    } finally {
      this.subscriptions.delete(id);
      observer.subscribers(this.name, this.subscriptions.size);
      subscriptionsMax.open--;
      this.releaseFeed();
    }
  }

  async append(item: AppendItem, admission: AppendWait = {}): Promise<void> {
    const { paced, confirm } = admission;
    const writer = this.primary.writer ?? (await this.lead(item, admission));
    if (paced !== undefined) {
      while (!writer.hasRoomFor(item) && writer.end === undefined && !paced.aborted) await writer.roomMade();
    }
    confirm?.();
    writer.append(item);
  }

  async read(from: bigint, entriesMax: number, bytesMax: number, signal?: AbortSignal): Promise<ReadPage> {
    const { store, pageTurns } = this.parts;
    const turn = await pageTurns.take(signal);
    if (turn === undefined) throw new OplogError("ABORTED", "ABANDONED", "the caller left before it was its turn");
    try {
      return await this.throughStore(readPage(store, this.keys, from, entriesMax, bytesMax));
    } finally {
      turn.end();
    }
  }

  describeRecord(id: bigint): Promise<RecordDescription> {
    return this.throughStore(this.parts.inspect((store) => describeRecord(store, this.keys, id)));
  }

  async resolveAppend(writerId: string, operationId: bigint, isForwarded = false): Promise<Resolution> {
    const here = await this.primary.writer?.resolve(writerId, operationId);
    if (here !== undefined) return here;
    const there = isForwarded ? undefined : await this.askLeader(writerId, operationId);
    return there ?? this.throughStore(this.resolver.resolve(writerId, operationId));
  }

  updateCursor(update: CursorUpdate): Promise<CursorMoved> {
    return this.throughStore(this.cursors.update(update), "the position may have been stored or not: send it again");
  }

  deleteCursor(consumer: string): Promise<void> {
    return this.throughStore(this.cursors.delete(consumer), "the cursor may have been deleted or not: delete it again");
  }

  async delete(logId: Uint8Array): Promise<void> {
    const { store, signal } = this.parts;
    const release = this.retain();
    try {
      const deleting = deleteLog(store, this.keys, logId, signal);
      await this.throughStore(deleting, "the log may be deleted in part, or be gone: delete it again");
      this.noteDeleted(logId);
    } finally {
      release();
      // Who follows is told at once, also where it was only begun.
      this.feed.resync();
    }
  }

  async observe(): Promise<LogState | "missing" | "unknown"> {
    try {
      const state = await readLogState(this.parts.store, this.keys, this.parts.clock);
      if (state === "missing") {
        await this.noteMissing();
        return state;
      }
      this.noteFound();
      if (state.problems.length === 0) this.sightings.noteReading(state);
      return state;
    } catch (error) {
      if (error instanceof StoreDataLossError) throw new StoreLostError(error.message);
      if (!(error instanceof StoreError)) throw error;
      this.noteFeed();
      return this.sightings.recall() ?? "unknown";
    }
  }

  async readLeadership(): Promise<Leadership> {
    const leadership = await this.throughStore(readLeadership(this.parts.store, this.keys));
    this.sightings.noteLeadership(leadership);
    return leadership;
  }

  /** The candidates of this log, at all sidecars. */
  readCandidates() {
    return this.throughStore(readCandidates(this.parts.store, this.keys));
  }

  /** Undefined: it has run out. */
  leaseLeftMs(leaseId: bigint): Promise<number | undefined> {
    return this.throughStore(this.parts.store.leaseTimeLeft(leaseId));
  }

  /** Yields now, on every change, and every few seconds. `onFailed` is called with each failure of the store. */
  async *watchLeadership(
    signal: AbortSignal,
    rereadMs = LEADERSHIP_REREAD_MS,
    onFailed: (error: StoreError) => void = () => undefined,
  ): AsyncGenerator<Leadership> {
    const { store, clock } = this.parts;
    for await (const leadership of watchLeadership({ store, clock, keys: this.keys, onFailed }, rereadMs, signal)) {
      this.sightings.noteLeadership(leadership);
      yield leadership;
    }
  }

  /** Settles what has been appended, then sends subscribers what is left and ends them. */
  async drain(): Promise<void> {
    this.standbys.drain();
    await this.primary.drain();
    this.isDraining = true;
    for (const subscription of this.subscriptions.values()) subscription.drain();
  }

  async close(): Promise<void> {
    this.feedIdle?.cancel();
    this.cursorExpiry.whileLeading(false);
    await Promise.all([this.standbys.close(), this.stopFeed()]);
  }

  private async askLeader(writerId: string, operationId: bigint): Promise<Resolution | undefined> {
    const { store, identity, askLeader } = this.parts;
    const { endpoint } = this.feed.isReady ? this.feed.leader : await this.throughStore(readPrimary(store, this.keys));
    if (endpoint === "" || endpoint === identity.endpoint) return undefined;
    return askLeader(endpoint, { log: this.name, writerId, operationId });
  }

  /** Appends that wait for the term are counted like those that wait for the store, unless their sender is paced. */
  private lead(item: AppendItem, { paced }: AppendWait): Promise<LogWriter> {
    const lead = () => this.primary.lead();
    return paced === undefined ? this.parts.budget.within("bytes", costOf(item), lead) : lead();
  }

  private noteFeed(): void {
    const { logId, head, floor, last, lastChain, isOfGoneLog } = this.feed;
    if (logId === undefined || isOfGoneLog) return;
    this.sightings.noteLog(logId, head, floor);
    this.sightings.noteEntry({ logId, id: last, chain: lastChain });
  }

  private async noteMissing(): Promise<void> {
    const deletion = await readDeletion(this.parts.store, this.keys);
    if (deletion?.isOver) this.noteDeleted(deletion.logId);
  }

  /** What is known of the log says nothing of one that may come by its name. */
  private noteDeleted(logId: Uint8Array): void {
    const { logId: seen } = this.sightings;
    // Another one has come meanwhile.
    if (seen !== undefined && !isSameLog(seen, logId)) return;
    this.sightings.forget();
    this.primary.logDeleted(logId);
  }

  private noteFound(): void {
    if (!this.isFound) this.parts.onFound(this.name);
    this.isFound = true;
  }

  private throughStore<T>(work: Promise<T>, consequence?: string): Promise<T> {
    return throughStore(work, this.parts.storeUnreachableMs, consequence);
  }

  private async awaitReady(feed: LogFeed, signal: AbortSignal): Promise<void> {
    const { clock } = this.parts;
    const startedMs = clock.monotonicMs();
    for (;;) {
      const seen = feed.change.version;
      if (feed.isReady || signal.aborted) return;
      if (feed.broken !== undefined) throw feed.broken;
      if (feed.refusal !== undefined) throw toOplogError(feed.refusal, 0, "try again");
      const waitedMs = clock.monotonicMs() - startedMs;
      if (waitedMs >= FEED_READY_MS_MAX) throw new StoreUnavailableError(Math.round(waitedMs), "try again");
      await feed.change.waitAtMost(clock, FEED_READY_MS_MAX - waitedMs, seen, signal);
    }
  }

  private acquireFeed(): LogFeed {
    this.feedIdle?.cancel();
    // Somebody who is slow to take what came before it broke must not keep it for all others.
    if (this.feed.broken !== undefined) {
      this.noteFeed();
      this.replaceFeed();
    }
    this.feedUsers++;
    if (this.feedRun === undefined) {
      const stop = new AbortController();
      this.feedRun = { stop, done: this.feed.run(stop.signal).catch(this.parts.onBroken) };
    }
    return this.feed;
  }

  private releaseFeed(): void {
    if (--this.feedUsers > 0) return;
    // A broken feed is not kept: the next subscriber looks at the store afresh.
    const idleMs = this.feed.broken === undefined ? FEED_IDLE_MS : 0;
    this.feedIdle = this.parts.clock.setTimer(idleMs, () => void this.stopFeed(), true);
  }

  /** Who follows keeps the old one. */
  private replaceFeed(): void {
    this.feedRun?.stop.abort();
    this.feedRun = undefined;
    this.feed = this.newFeed();
  }

  private async stopFeed(): Promise<void> {
    const run = this.feedRun;
    if (run === undefined) return;
    this.feedRun = undefined;
    this.noteFeed();
    this.feed = this.newFeed();
    run.stop.abort();
    await run.done;
  }

  private newFeed(): LogFeed {
    return new LogFeed({
      ...this.parts,
      keys: this.keys,
      onLeader: (leader) => this.sightings.noteLeader(leader),
      onDiverged: (error) => this.parts.onDiverged(this.name, error),
      isOwnTerm: (term) => this.primary.writer?.term === term,
    });
  }
}
