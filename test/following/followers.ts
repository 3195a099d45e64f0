import { fromBinary } from "@bufbuild/protobuf";
import { PageTurns } from "../../src/following/page-turns.js";
import type { Start } from "../../src/following/start-position.js";
import type { FrameSink, Notice, SubscriptionOptions } from "../../src/following/subscription.js";
import { type Entry, OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { SubscribeResponseSchema } from "../../src/gen/oplog/v1/oplog_pb.js";
import type { LogParts } from "../../src/log/contract.js";
import { Log } from "../../src/log/log.js";
import type { KvStore } from "../../src/oplog/kv-store.js";
import { silentLogger } from "../../src/oplog/logger.js";
import { silentObserver } from "../../src/oplog/observer.js";
import { chainOf, type Origin } from "../../src/oplog/record.js";
import { QueueBudget } from "../../src/writing/append-item.js";
import { type AppendBuilder, anIdentity, appendedOf, inTime, PREFIX, SETTINGS, testClock } from "../log/support.js";

export interface LogShape extends Partial<LogParts> {
  readonly name?: string;
}

export function logParts(store: KvStore, shape: Partial<LogParts> = {}): LogParts {
  return {
    store,
    identity: anIdentity(),
    claimsByAppend: true,
    budget: new QueueBudget(64 * 1024 * 1024, 100_000),
    clock: testClock,
    logger: silentLogger,
    observer: silentObserver,
    settings: SETTINGS,
    signal: new AbortController().signal,
    onBroken: (error) => {
      throw error;
    },
    onFound: () => undefined,
    onDiverged: () => undefined,
    onGone: () => undefined,
    storeUnreachableMs: () => 0,
    askLeader: () => Promise.resolve(undefined),
    inspect: (read) => read(store),
    cursorExpiryMs: 0,
    keyPrefix: PREFIX,
    cacheBytesMax: 1024 * 1024,
    headPollMs: 1000,
    pageTurns: new PageTurns(4),
    subscriptionsMax: { open: 0, max: 100 },
    ...shape,
  };
}

/** A log as one sidecar has it. */
export function aLog(store: KvStore, { name = "log", ...shape }: LogShape = {}): Log {
  return new Log(logParts(store, shape), name);
}

/** Appends through the sidecar's own primary, and waits for the acknowledgement. */
export async function appendTo(log: Log, ...appends: AppendBuilder[]): Promise<bigint> {
  const writer = await inTime(log.primary.lead());
  const items = appends.map((append) => append.build());
  for (const item of items) writer.append(item);
  const outcomes = await inTime(Promise.all(items.map(({ outcome }) => outcome)));
  return outcomes.map(appendedOf).at(-1)?.last ?? 0n;
}

export interface ReceivedBatch {
  readonly first: bigint;
  readonly last: bigint;
  readonly bytes: number;
  readonly entries: Entry[];
  readonly lastOrigin: Origin;
}

/** Takes frames as fast as it is told to, and decodes them. */
export class RecordingSink implements FrameSink {
  readonly batches: ReceivedBatch[] = [];
  readonly notices: Notice[] = [];
  /** Frames taken and not yet let through. */
  held = 0;
  bufferedBytes = 0;
  bufferedBytesMost = 0;
  private roomMade: (() => void)[] = [];
  private gate: Promise<void> | undefined;
  private open: () => void = () => undefined;

  constructor(private readonly delay?: () => Promise<void> | undefined) {}

  /** The peer takes nothing more until `resume`. */
  pause(): void {
    this.gate ??= new Promise((resolve) => {
      this.open = resolve;
    });
  }

  resume(): void {
    this.gate = undefined;
    this.open();
  }

  async batch(frame: Buffer): Promise<void> {
    const { frame: content } = fromBinary(SubscribeResponseSchema, frame);
    if (content.case !== "batch") throw new Error(`a frame of ${content.case}`);
    const { entries, firstSequenceId: first, lastSequenceId: last, lastTerm: term, lastChain } = content.value;
    this.batches.push({ first, last, bytes: frame.length, entries, lastOrigin: { term, chain: chainOf(lastChain) } });
    await this.take(frame.length);
  }

  async notice(notice: Notice): Promise<void> {
    this.notices.push(notice);
    await this.take(0);
  }

  get hasRoom(): boolean {
    return this.held === 0;
  }

  async room(): Promise<void> {
    if (!this.hasRoom) await new Promise<void>((resolve) => this.roomMade.push(resolve));
  }

  get ids(): bigint[] {
    return this.batches.flatMap(({ entries }) => entries.map(({ sequenceId }) => sequenceId));
  }

  /** Last id covered; 0n = none. */
  get covered(): bigint {
    return this.batches.at(-1)?.last ?? 0n;
  }

  get noticed(): string[] {
    return this.notices.map(({ kind }) => kind);
  }

  private async take(bytes: number): Promise<void> {
    this.held++;
    this.bufferedBytes += bytes;
    this.bufferedBytesMost = Math.max(this.bufferedBytesMost, this.bufferedBytes);
    try {
      await this.delay?.();
      await this.gate;
    } finally {
      this.held--;
      this.bufferedBytes -= bytes;
      if (this.hasRoom) for (const wake of this.roomMade.splice(0)) wake();
    }
  }
}

export interface Subscriber {
  readonly sink: RecordingSink;
  /** Rejects with what the subscriber is told at the end. */
  readonly ended: Promise<void>;
  readonly outcome: () => unknown;
  leave(): void;
}

export interface SubscriberShape extends Partial<SubscriptionOptions> {
  readonly start?: Start;
  readonly logId?: Uint8Array;
  readonly sink?: RecordingSink;
}

export function aSubscriber(log: Log, shape: SubscriberShape = {}): Subscriber {
  const { start = { kind: "beginning" }, logId = new Uint8Array(), sink = new RecordingSink(), ...options } = shape;
  const gone = new AbortController();
  const ended = log.subscribe(
    {
      consumer: "",
      peer: "test",
      filter: undefined,
      batchBytesMax: 1024 * 1024,
      lingerMs: 0,
      heartbeatMs: 1000,
      ...options,
    },
    start,
    logId,
    sink,
    gone.signal,
  );
  let outcome: unknown;
  ended.then(
    () => {
      outcome = "left";
    },
    (error: unknown) => {
      outcome = error;
    },
  );
  return { sink, ended, outcome: () => outcome, leave: () => gone.abort() };
}

/** What is wrong with what a subscriber was sent from `first` on; empty when nothing is. */
export function flawsOf(
  { sink }: Subscriber,
  first: bigint,
  log: ReadonlyMap<bigint, Entry>,
  passes: (entry: Entry) => boolean = () => true,
): string[] {
  const flaws: string[] = [];
  let next = first;
  for (const batch of sink.batches) {
    if (batch.first !== next) flaws.push(`a batch from ${batch.first} where ${next} comes next`);
    if (batch.last < batch.first) flaws.push(`a batch of ${batch.first}..${batch.last}`);
    const expected: Entry[] = [];
    for (let id = batch.first; id <= batch.last; id++) {
      const entry = log.get(id);
      if (entry === undefined) flaws.push(`${id} was sent and is not in the log`);
      else if (passes(entry)) expected.push(entry);
    }
    if (fingerprint(batch.entries) !== fingerprint(expected)) flaws.push(`${batch.first}..${batch.last} differs`);
    next = batch.last + 1n;
  }
  return flaws;
}

function fingerprint(entries: readonly Entry[]): string {
  return entries
    .map(({ sequenceId, term, timestampMs, opType, key, payload }) =>
      [sequenceId, term, timestampMs, OpType[opType], key, Buffer.from(payload).toString("base64")].join(" "),
    )
    .join("\n");
}
