import { type Coverage, type EntryFilter, runFrom } from "../oplog/batch-frame.js";
import type { Clock } from "../oplog/clock.js";
import { ShuttingDownError } from "../oplog/errors.js";
import type { LogKeys } from "../oplog/keys.js";
import { type KvStore, StoreDataLossError, StoreError } from "../oplog/kv-store.js";
import { DataLossError, TrimmedError } from "../oplog/log-errors.js";
import type { ReplicationObserver } from "../oplog/observer.js";
import type { Origin } from "../oplog/record.js";
import { StoreLostError } from "../oplog/store-errors.js";
import { Backoff, linkSignals, sleep } from "../oplog/timing.js";
import { HoleWatch, holeAt, readHistory } from "../stored/history.js";
import type { LeaderView } from "../stored/primary.js";
import { FrameAssembler } from "./frame-assembler.js";
import type { LogFeed } from "./log-feed.js";
import type { PageTurn, PageTurns } from "./page-turns.js";
import type { Place } from "./start-position.js";

export interface SubscriptionOptions {
  readonly consumer: string;
  readonly peer: string;
  readonly filter: EntryFilter | undefined;
  readonly batchBytesMax: number;
  readonly lingerMs: number;
  readonly heartbeatMs: number;
}

/**
 * Where frames go, at once. Each call resolves when there is room for the next; a sink whose peer is gone resolves at once.
 * While there is no room a call does not reject.
 */
export interface FrameSink {
  batch(frame: Buffer, coverage: Coverage): Promise<void>;
  notice(notice: Notice): Promise<void>;
  readonly bufferedBytes: number;
  readonly hasRoom: boolean;
  room(): Promise<void>;
}

export type Notice =
  | {
      readonly kind: "heartbeat";
      readonly head: bigint;
      readonly floor: bigint;
      readonly sent: bigint;
      readonly sentOrigin: Origin;
    }
  | { readonly kind: "caught up"; readonly head: bigint }
  | { readonly kind: "fell behind"; readonly next: bigint; readonly head: bigint }
  | { readonly kind: "leader changed"; readonly leader: LeaderView }
  | { readonly kind: "gap"; readonly first: bigint; readonly last: bigint }
  | { readonly kind: "rebootstrap required"; readonly next: bigint; readonly floor: bigint };

export interface SubscriptionParts {
  readonly store: KvStore;
  readonly keys: LogKeys;
  readonly feed: LogFeed;
  readonly clock: Clock;
  readonly observer: ReplicationObserver;
  readonly sink: FrameSink;
  readonly pageTurns: PageTurns;
}

/** Small records of history share frames of about this size. */
const HISTORY_FRAME_BYTES = 128 * 1024;
const RETRY_FIRST_MS = 50;
const RETRY_MAX_MS = 1000;

/**
 * Sends one subscriber everything from `next` on. It pulls: live frames from the feed, where they have been serialised
 * once for all, older ones from the store, in its turn. While the sink has no room it holds nothing else, unless its turn
 * is wanted by nobody. So what it holds is bounded by its sink, however slow that is.
 *
 * Invariant: the frames sent cover contiguous ids; `next` is the first one not covered, `previous` tells of the last one
 * that is.
 */
export class Subscription {
  private phaseNow: "catching up" | "live" = "catching up";
  private leaderTerm: bigint;
  private gapNoticed = 0n;
  private isDraining = false;
  private atHeadMs: number;
  private next: bigint;
  private previous: Origin;
  readonly connectedWallMs: number;

  constructor(
    private readonly parts: SubscriptionParts,
    readonly options: SubscriptionOptions,
    start: Place,
  ) {
    this.next = start.next;
    this.previous = start.previous;
    this.leaderTerm = parts.feed.leader.term;
    this.atHeadMs = parts.clock.monotonicMs();
    this.connectedWallMs = parts.clock.wallMs();
  }

  get status() {
    const { feed, clock, sink } = this.parts;
    const sent = this.next - 1n;
    const lag = feed.head > sent ? feed.head - sent : 0n;
    const isBehind = lag > 0n && feed.find(this.next) === undefined;
    return {
      sent,
      lag,
      lagMs: lag === 0n ? 0 : Math.round(clock.monotonicMs() - this.atHeadMs),
      phase: isBehind ? ("catching up" as const) : this.phaseNow,
      bufferedBytes: sink.bufferedBytes,
    };
  }

  /** Ends the subscription with ShuttingDownError as soon as everything has been sent. */
  drain(): void {
    this.isDraining = true;
    this.parts.feed.change.notify();
  }

  /** Returns when the signal aborts; throws OplogError where the log cannot be followed. */
  async run(signal: AbortSignal): Promise<void> {
    await this.heartbeat();
    const ended = new AbortController();
    const { signal: both, unlink } = linkSignals(signal, ended.signal);
    const heartbeats = this.sendHeartbeats(both);
    try {
      await this.send(signal);
    } finally {
      ended.abort();
      unlink();
      await heartbeats;
    }
  }

  private async send(signal: AbortSignal): Promise<void> {
    const { feed, sink } = this.parts;
    while (!signal.aborted) {
      const seen = feed.change.version;
      await this.sendNotices();
      if (feed.find(this.next) !== undefined) {
        await this.sendFromFeed(signal);
        await sink.room();
      } else if (this.next > feed.last) {
        if (feed.broken !== undefined) throw feed.broken;
        if (feed.head < this.next) await this.enterLive();
        if (this.isDraining) throw new ShuttingDownError();
        if (feed.change.version === seen) await feed.change.wait(seen, signal);
      } else {
        await this.enterCatchUp();
        await this.sendFromStore(signal);
      }
    }
  }

  private async sendFromFeed(signal: AbortSignal): Promise<void> {
    const { feed, sink } = this.parts;
    const { lingerMs, batchBytesMax, filter } = this.options;
    if (lingerMs > 0 && this.phaseNow === "live") await sleep(this.parts.clock, lingerMs, signal);
    // A run may be larger than what is sent of it: it is found again.
    const goesOn = async (taken: Promise<void>) => {
      if (sink.hasRoom) await taken;
      return sink.hasRoom;
    };
    const assembler = lingerMs > 0 ? this.assembler(batchBytesMax, goesOn) : undefined;
    const position = () => assembler?.next ?? this.next;
    for (let run = feed.find(position()); run !== undefined && !signal.aborted; run = feed.find(position())) {
      if (assembler !== undefined) {
        if (!(await assembler.add(runFrom(run, assembler.next)))) break;
      } else if (filter === undefined && run.first === this.next && run.body.length <= batchBytesMax) {
        await sink.batch(run.frame, run);
        this.advance(run, run.frame.length);
      } else {
        const single = this.assembler(0, goesOn);
        await single.add(runFrom(run, this.next));
        await single.flush();
        if (!sink.hasRoom) break;
      }
    }
    await assembler?.flush();
  }

  /** Sends history until the feed has what comes next, or there is no more. */
  private async sendFromStore(signal: AbortSignal): Promise<void> {
    const { store, keys, feed, clock, sink, pageTurns } = this.parts;
    const backoff = new Backoff(clock, RETRY_FIRST_MS, RETRY_MAX_MS);
    const hole = new HoleWatch(clock);
    while (!signal.aborted) {
      const turn = await pageTurns.take(signal);
      if (turn === undefined) return;
      const from = this.next;
      try {
        await this.sendPages(turn, signal);
        if (this.next > feed.last || feed.find(this.next) !== undefined) return;
        if (this.next === from) throw await holeAt(store, keys, from, feed.head + 1n, feed.logId);
      } catch (error) {
        if (error instanceof TrimmedError) {
          const floor = BigInt(error.facts.floor ?? 0);
          await sink.notice({ kind: "rebootstrap required", next: this.next, floor });
        }
        const isPassing = error instanceof DataLossError && !hole.isLasting(this.next);
        if (error instanceof StoreDataLossError) throw new StoreLostError(error.message);
        if (!isPassing && !(error instanceof StoreError)) throw error;
        if (isPassing && feed.broken !== undefined) throw feed.broken;
      } finally {
        turn.end();
      }
      await this.sendNotices();
      if (turn.isLost) await sink.room();
      else await sleep(clock, backoff.delayMs(), signal);
    }
  }

  /** A method of its own, so that nothing of the pages is left when it ends. */
  private async sendPages(turn: PageTurn, signal: AbortSignal): Promise<void> {
    const { store, keys, feed, sink } = this.parts;
    const goesOn = async (taken: Promise<void>, bytes: number) => {
      if (!sink.hasRoom) return turn.lendWhile(taken);
      await taken;
      return turn.lasts(bytes);
    };
    const assembler = this.assembler(Math.min(HISTORY_FRAME_BYTES, this.options.batchBytesMax), goesOn);
    try {
      for await (const run of readHistory(store, keys, this.next, feed.logId, this.previous.chain)) {
        if (!(await assembler.add(runFrom(run, assembler.next)))) break;
        if (signal.aborted || feed.find(assembler.next) !== undefined) break;
      }
    } finally {
      await assembler.flush();
    }
  }

  private assembler(targetBytes: number, goesOn: GoesOn): FrameAssembler {
    const { batchBytesMax, filter } = this.options;
    return new FrameAssembler(this.next, targetBytes, batchBytesMax, filter, async (frame, coverage) => {
      const isGoingOn = await goesOn(this.parts.sink.batch(frame, coverage), frame.length);
      this.advance(coverage, frame.length);
      return isGoingOn;
    });
  }

  private advance(coverage: Coverage, bytes: number): void {
    const { first, last, term, chain } = coverage;
    this.next = last + 1n;
    this.previous = { term, chain };
    this.parts.observer.delivered(this.parts.keys.log, Number(last - first) + 1, bytes);
  }

  private async enterLive(): Promise<void> {
    this.atHeadMs = this.parts.clock.monotonicMs();
    if (this.phaseNow === "live") return;
    this.phaseNow = "live";
    await this.parts.sink.notice({ kind: "caught up", head: this.next - 1n });
  }

  private async enterCatchUp(): Promise<void> {
    const { feed, observer, keys, sink } = this.parts;
    if (this.phaseNow === "catching up") return;
    this.phaseNow = "catching up";
    observer.fellBehind(keys.log);
    await sink.notice({ kind: "fell behind", next: this.next, head: feed.head });
  }

  private async sendNotices(): Promise<void> {
    const { feed, sink } = this.parts;
    if (feed.leader.term !== this.leaderTerm) {
      this.leaderTerm = feed.leader.term;
      await sink.notice({ kind: "leader changed", leader: feed.leader });
    }
    const { gap } = feed;
    if (gap !== undefined && gap.last >= this.next && gap.last > this.gapNoticed) {
      this.gapNoticed = gap.last;
      await sink.notice({ kind: "gap", first: gap.first, last: gap.last });
    }
  }

  /** Beside the sending, so that they come also while the store is slow to answer. */
  private async sendHeartbeats(signal: AbortSignal): Promise<void> {
    for (;;) {
      await sleep(this.parts.clock, this.options.heartbeatMs, signal);
      if (signal.aborted) return;
      if (this.parts.sink.hasRoom) await this.heartbeat();
    }
  }

  private async heartbeat(): Promise<void> {
    const { feed, sink } = this.parts;
    const { next, previous: sentOrigin } = this;
    await sink.notice({ kind: "heartbeat", head: feed.head, floor: feed.floor, sent: next - 1n, sentOrigin });
  }
}

/** After a frame has been handed over: whether more of the same is to follow at once, else it is taken up again later. */
type GoesOn = (taken: Promise<void>, bytes: number) => Promise<boolean>;
