import { decodeHead, decodeTerm } from "../leadership/claim.js";
import { runFrom } from "../oplog/batch-frame.js";
import { LogNotFoundError, StoreUnavailableError, TooManyError, TrimmedError } from "../oplog/errors.js";
import { LogKeys } from "../oplog/keys.js";
import { StoreError } from "../oplog/kv-store.js";
import type { Resolution } from "../oplog/operation-window.js";
import { entryOffsets } from "../oplog/record.js";
import { AutoPrimary, type AutoPrimaryParts } from "./auto-primary.js";
import { type CursorUpdate, listCursors, updateCursor } from "./cursors.js";
import { readFloor, readHistory } from "./history.js";
import { type FeedParts, type LeaderView, LogFeed } from "./log-feed.js";
import { resolveFromStore } from "./resolve.js";
import { requireLogId, resolveStart, type Start } from "./start-position.js";
import { type FrameSink, Subscription, type SubscriptionOptions } from "./subscription.js";

export interface LogParts
  extends Omit<AutoPrimaryParts, "keys" | "onCommitted" | "onClaimed">,
    Pick<FeedParts, "cacheBytesMax" | "headPollMs"> {
  readonly keyPrefix: string;
  readonly subscriptionsMax: SubscriptionBudget;
  /** Told once of each log that turns out to exist. */
  readonly onFound: (log: string) => void;
}

/** How many subscriptions are open, over all logs. */
export interface SubscriptionBudget {
  open: number;
  readonly max: number;
}

/** A log as the store had it at one time. */
export interface LogState {
  readonly logId: Uint8Array;
  readonly head: bigint;
  readonly floor: bigint;
  readonly leader: LeaderView;
  readonly cursors: Awaited<ReturnType<typeof listCursors>>;
  readonly observedWallMs: number;
}

export interface ReadPage {
  /** Entries in wire form: Batch.entries. */
  readonly bodies: Buffer[];
  readonly next: bigint;
  readonly head: bigint;
  readonly floor: bigint;
}

/** A feed nobody uses is kept this long: a subscriber that reconnects finds it warm. */
const FEED_IDLE_MS = 5000;
const FEED_READY_MS_MAX = 5000;

/** One log in this sidecar: its writer, its feed, its subscriptions. */
export class Log {
  readonly keys: LogKeys;
  readonly primary: AutoPrimary;
  readonly subscriptions = new Map<bigint, Subscription>();
  private feed: LogFeed;
  private feedUsers = 0;
  private feedRun: { readonly stop: AbortController; readonly done: Promise<void> } | undefined;
  private feedIdle: NodeJS.Timeout | undefined;
  private nextSubscriptionId = 1n;
  private lastState: LogState | undefined;
  private isFound = false;

  constructor(
    private readonly parts: LogParts,
    readonly name: string,
  ) {
    this.keys = new LogKeys(parts.keyPrefix, name);
    this.feed = this.newFeed();
    this.primary = new AutoPrimary({
      ...parts,
      keys: this.keys,
      onCommitted: (run) => this.feed.publish(run),
      onClaimed: () => this.noteFound(),
    });
  }

  get isIdle(): boolean {
    return this.feedUsers === 0 && this.primary.isIdle;
  }

  get leaderView(): LeaderView {
    return this.feed.leader;
  }

  get feedView(): { readonly logId: Uint8Array | undefined; readonly headAgeMs: number } {
    return { logId: this.feed.logId, headAgeMs: this.feed.headAgeMs };
  }

  /** Serves one subscriber until it leaves; throws OplogError where it cannot be served. */
  async subscribe(
    options: SubscriptionOptions,
    start: Start,
    logId: Uint8Array,
    sink: FrameSink,
    signal: AbortSignal,
  ): Promise<void> {
    const { store, clock, observer, subscriptionsMax } = this.parts;
    if (subscriptionsMax.open >= subscriptionsMax.max)
      throw new TooManyError("subscriptions", subscriptionsMax.max, 1000);
    subscriptionsMax.open++;
    const feed = this.acquireFeed();
    const id = this.nextSubscriptionId++;
    try {
      await this.awaitReady(feed, signal);
      if (signal.aborted) return;
      if (feed.logId !== undefined) this.noteFound();
      requireLogId(feed, logId);
      const next = await throughStore(resolveStart(store, this.keys, feed, start));
      const subscription = new Subscription({ store, keys: this.keys, feed, clock, observer, sink }, options, next);
      this.subscriptions.set(id, subscription);
      observer.subscribers(this.name, this.subscriptions.size);
      await subscription.run(signal);
    } finally {
      this.subscriptions.delete(id);
      observer.subscribers(this.name, this.subscriptions.size);
      subscriptionsMax.open--;
      this.releaseFeed();
    }
  }

  async read(from: bigint, entriesMax: number, bytesMax: number): Promise<ReadPage> {
    const { store } = this.parts;
    const state = await this.readHead();
    if (from !== 0n && from < state.floor) throw new TrimmedError(from, state.floor);
    let next = from === 0n ? state.floor : from;
    let entriesLeft = entriesMax;
    let bytesLeft = bytesMax;
    const bodies: Buffer[] = [];
    for await (const run of readHistory(store, this.keys, next, state.logId)) {
      const rest = runFrom(run, next);
      const offsets = entryOffsets(rest.body);
      let count = 0;
      const isFirst = () => bodies.length === 0 && count === 0;
      while (count < offsets.length - 1 && count < entriesLeft && (offsets[count + 1]! <= bytesLeft || isFirst()))
        count++;
      if (count > 0) bodies.push(rest.body.subarray(0, offsets[count]));
      next += BigInt(count);
      entriesLeft -= count;
      bytesLeft -= offsets[count]!;
      if (count < offsets.length - 1 || entriesLeft === 0) break;
    }
    return { bodies, next, head: next - 1n > state.head ? next - 1n : state.head, floor: state.floor };
  }

  /** Undefined: cannot be told now. */
  async resolveAppend(writerId: string, operationId: bigint): Promise<Resolution | "pending" | undefined> {
    const { writer } = this.primary;
    if (writer === undefined) return throughStore(resolveFromStore(this.parts.store, this.keys, writerId, operationId));
    return writer.isPending(writerId, operationId) ? "pending" : writer.window.resolve(writerId, operationId);
  }

  async updateCursor(update: CursorUpdate): Promise<{ head: bigint; floor: bigint }> {
    const { store, clock } = this.parts;
    const head = await throughStore(updateCursor(store, this.keys, update, clock.wallMs()));
    return { head, floor: (await throughStore(readFloor(store, this.keys))).sequenceId };
  }

  /** From the store; while that is away, what was seen last. Undefined when the log does not exist. */
  async observe(): Promise<LogState | undefined> {
    const { store, clock } = this.parts;
    try {
      const [head, term, floor, cursors] = await Promise.all([
        store.get(this.keys.head),
        store.get(this.keys.term),
        readFloor(store, this.keys),
        listCursors(store, this.keys),
      ]);
      if (head.pair === undefined) return undefined;
      this.noteFound();
      const { logId, lastSequenceId } = decodeHead(head.pair);
      const owner = decodeTerm(term.pair);
      this.lastState = {
        logId,
        head: lastSequenceId,
        floor: floor.sequenceId,
        leader: { id: owner?.owner ?? "", endpoint: owner?.endpoint ?? "", term: owner?.term ?? 0n },
        cursors,
        observedWallMs: clock.wallMs(),
      };
      return this.lastState;
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      if (this.lastState === undefined) throw new StoreUnavailableError(0);
      return this.lastState;
    }
  }

  /** Settles what has been appended, then sends subscribers what is left and ends them. */
  async drain(): Promise<void> {
    await this.primary.drain();
    for (const subscription of this.subscriptions.values()) subscription.drain();
  }

  async close(): Promise<void> {
    clearTimeout(this.feedIdle);
    await this.stopFeed();
  }

  private noteFound(): void {
    if (!this.isFound) this.parts.onFound(this.name);
    this.isFound = true;
  }

  private async readHead(): Promise<{ head: bigint; floor: bigint; logId: Uint8Array }> {
    const { store } = this.parts;
    const [head, floor] = await throughStore(Promise.all([store.get(this.keys.head), readFloor(store, this.keys)]));
    if (head.pair === undefined) throw new LogNotFoundError(this.name);
    const { lastSequenceId, logId } = decodeHead(head.pair);
    return { head: lastSequenceId, floor: floor.sequenceId, logId };
  }

  private async awaitReady(feed: LogFeed, signal: AbortSignal): Promise<void> {
    const { clock } = this.parts;
    const startedMs = clock.monotonicMs();
    for (;;) {
      const seen = feed.change.version;
      if (feed.isReady || signal.aborted) return;
      if (feed.broken !== undefined) throw feed.broken;
      const waitedMs = clock.monotonicMs() - startedMs;
      if (waitedMs >= FEED_READY_MS_MAX) throw new StoreUnavailableError(Math.round(waitedMs));
      await feed.change.wait(seen, signal, FEED_READY_MS_MAX - waitedMs);
    }
  }

  private acquireFeed(): LogFeed {
    clearTimeout(this.feedIdle);
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
    this.feedIdle = setTimeout(() => void this.stopFeed(), idleMs).unref();
  }

  private async stopFeed(): Promise<void> {
    const run = this.feedRun;
    if (run === undefined) return;
    this.feedRun = undefined;
    this.feed = this.newFeed();
    run.stop.abort();
    await run.done;
  }

  private newFeed(): LogFeed {
    return new LogFeed({ ...this.parts, keys: this.keys });
  }
}

async function throughStore<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw error instanceof StoreError ? new StoreUnavailableError(0) : error;
  }
}
