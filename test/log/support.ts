import { randomBytes } from "node:crypto";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { afterEach, beforeEach } from "vitest";
import { Codec, HeadSchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import { type Entry, OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { BatchSchema } from "../../src/gen/oplog/v1/oplog_pb.js";
import { type Clock, systemClock } from "../../src/oplog/clock.js";
import { contentCrc32c } from "../../src/oplog/entries.js";
import { LogKeys } from "../../src/oplog/keys.js";
import type { KvStore } from "../../src/oplog/kv-store.js";
import { type Logger, silentLogger } from "../../src/oplog/logger.js";
import { silentObserver } from "../../src/oplog/observer.js";
import { type CommittedRun, decodeRecord, openBody } from "../../src/oplog/record.js";
import { type Appended, type AppendItem, type AppendOutcome, QueueBudget } from "../../src/writing/append-item.js";
import { type Claim, claimTerm, type Identity } from "../../src/writing/claim.js";
import { LogWriter, type WriterSettings } from "../../src/writing/log-writer.js";
import { StoreResolver } from "../../src/writing/resolve.js";
import { restoreWindow } from "../../src/writing/window-restore.js";
import { type EntryInit, validated } from "../oplog/entries-support.js";
import { VirtualTime } from "../support/virtual-time.js";

export const PREFIX = "/oplog";
export const keysOf = (log = "log") => new LogKeys(PREFIX, log);

/** Undefined: the time of a test is that of the world. */
let fakeTime: VirtualTime | undefined;

/** The time of the running test, whichever that is. */
export const testClock: Clock = {
  wallMs: () => (fakeTime?.clock ?? systemClock).wallMs(),
  monotonicMs: () => (fakeTime?.clock ?? systemClock).monotonicMs(),
  setTimer: (...timer) => (fakeTime?.clock ?? systemClock).setTimer(...timer),
  yieldTurn: () => (fakeTime?.clock ?? systemClock).yieldTurn(),
  random: () => Math.random(),
};

/** Time stands still between the steps of a test, for all that has `testClock`. */
export function useFakeTime(): void {
  beforeEach(() => {
    fakeTime = new VirtualTime();
  });
  afterEach(useRealTime);
}

/** For the rest of a test. */
export function useRealTime(): void {
  fakeTime = undefined;
}

/** Throws in a test without fake time. */
export function theFakeTime(): VirtualTime {
  if (fakeTime === undefined) throw new Error("the time of this test is that of the world");
  return fakeTime;
}

export const passTime = (ms: number) => theFakeTime().pass(ms);

/** Lets time pass until the promise has settled; fails after `withinMs` of it. */
export async function inTime<T>(promise: Promise<T>, withinMs = 120_000): Promise<T> {
  let isSettled = false;
  const settled = () => {
    isSettled = true;
  };
  promise.then(settled, settled);
  for (let passedMs = 0; ; ) {
    await passTime(0);
    if (isSettled) return promise;
    if (passedMs >= withinMs) throw new Error(`not settled after ${passedMs} ms of fake time`);
    const stepMs = passedMs < 1000 ? 5 : 100;
    await passTime(stepMs);
    passedMs += stepMs;
  }
}

/** Lets time pass until the condition holds. */
export async function until(condition: () => boolean, what: string, withinMs = 120_000): Promise<void> {
  for (let passedMs = 0; !condition(); ) {
    if (passedMs >= withinMs) throw new Error(`waited ${passedMs} ms of fake time for ${what}`);
    const stepMs = passedMs < 1000 ? 5 : 100;
    await passTime(stepMs);
    passedMs += stepMs;
  }
}

export function anIdentity(id = "a"): Identity {
  return { id, endpoint: `${id}:7070`, instance: randomBytes(16) };
}

/** An append that a test can watch. */
export interface TestAppend extends AppendItem {
  readonly outcome: Promise<AppendOutcome>;
  /** Once settled. */
  readonly settled: AppendOutcome | undefined;
}

export interface AppendShape {
  readonly entries?: readonly EntryInit[];
  readonly writerId?: string;
  readonly operationId?: bigint;
  readonly expectedSequenceId?: bigint;
  readonly expectedTerm?: bigint;
  readonly isAbandoned?: () => boolean;
  readonly onSettled?: (outcome: AppendOutcome) => void;
}

export class AppendBuilder {
  constructor(private readonly shape: AppendShape) {}

  with(shape: AppendShape): AppendBuilder {
    return new AppendBuilder({ ...this.shape, ...shape });
  }

  by(writerId: string, operationId: bigint): AppendBuilder {
    return this.with({ writerId, operationId });
  }

  /** So many entries, each with a payload of so many bytes. */
  of(count: number, payloadBytes = 1, key = "k"): AppendBuilder {
    const payload = Buffer.alloc(payloadBytes, count);
    return this.with({ entries: Array.from({ length: count }, () => ({ opType: OpType.PUT_END, key, payload })) });
  }

  saying(text: string): AppendBuilder {
    return this.with({ entries: [{ opType: OpType.PUT_END, key: "k", payload: Buffer.from(text) }] });
  }

  build(): TestAppend {
    const { writerId = "", operationId = 0n, expectedSequenceId, expectedTerm, onSettled } = this.shape;
    const entries = validated(this.shape.entries ?? [{ opType: OpType.PUT_END, key: "k" }]);
    let resolve: (outcome: AppendOutcome) => void = () => undefined;
    const promise = new Promise<AppendOutcome>((onResolve) => {
      resolve = onResolve;
    });
    const append = {
      entries,
      expectedSequenceId,
      expectedTerm,
      writerId,
      operationId,
      contentCrc32c: writerId === "" ? 0 : contentCrc32c(entries),
      isAbandoned: this.shape.isAbandoned ?? (() => false),
      outcome: promise,
      settled: undefined as AppendOutcome | undefined,
      settle(outcome: AppendOutcome) {
        if (append.settled !== undefined) throw new Error("settled twice");
        append.settled = outcome;
        onSettled?.(outcome);
        resolve(outcome);
      },
    };
    return append;
  }
}

export const anAppend = () => new AppendBuilder({});

/** The ids of an append that must have been committed. */
export function appendedOf(outcome: AppendOutcome | undefined): Appended {
  if (outcome === undefined) throw new Error("not settled");
  if ("error" in outcome) throw outcome.error;
  return outcome.appended;
}

export function errorOf(outcome: AppendOutcome | undefined) {
  if (outcome === undefined) throw new Error("not settled");
  if (!("error" in outcome)) throw new Error(`committed as ${outcome.appended.first}..${outcome.appended.last}`);
  return outcome.error;
}

/** As a sidecar does that does not lead, and cannot reach the one that does. */
export function resolveFromStore(store: KvStore, keys: LogKeys, writerId: string, operationId: bigint) {
  return new StoreResolver(store, keys, testClock).resolve(writerId, operationId);
}

/** What a ResolveAppend of version 0.1 does: whatever is on its way fails its compare, which ends the writer. */
export async function putHeadAgain(store: KvStore, keys: LogKeys): Promise<void> {
  const { pair } = await store.get(keys.head);
  const value = toBinary(HeadSchema, { ...fromBinary(HeadSchema, pair!.value), nonce: randomBytes(16) });
  await store.txn({ compares: [], writes: [{ kind: "put", key: keys.head, value }] });
}

export interface WriterShape {
  readonly keys?: LogKeys;
  readonly identity?: Identity;
  readonly budget?: QueueBudget;
  readonly record?: Partial<WriterSettings["record"]>;
  readonly writeDeadlineMs?: number;
  readonly codec?: Codec;
  readonly onCommitted?: (run: CommittedRun) => void;
  readonly logger?: Logger;
}

/** A writer that has claimed its term and runs. */
export interface TestWriter {
  readonly writer: LogWriter;
  readonly claim: Claim;
  readonly budget: QueueBudget;
  readonly committed: CommittedRun[];
  readonly running: Promise<void>;
  append(append: AppendBuilder): TestAppend;
  abort(): void;
}

export const SETTINGS: WriterSettings = {
  record: { entriesMax: 10_000, bytesMax: 1024 * 1024 },
  writeDeadlineMs: 10_000,
  codec: Codec.LZ4,
};

export async function aWriter(store: KvStore, shape: WriterShape = {}): Promise<TestWriter> {
  const { keys = keysOf(), budget = new QueueBudget(64 * 1024 * 1024, 10_000), onCommitted } = shape;
  const claim = await claimTerm(store, keys, shape.identity ?? anIdentity(), { kind: "append", heldTerm: 0n });
  const committed: CommittedRun[] = [];
  const stop = new AbortController();
  const writer = new LogWriter({
    store,
    keys,
    claim,
    window: await restoreWindow(store, keys, testClock, claim.head),
    budget,
    clock: testClock,
    logger: shape.logger ?? silentLogger,
    observer: silentObserver,
    settings: {
      record: { ...SETTINGS.record, ...shape.record },
      writeDeadlineMs: shape.writeDeadlineMs ?? SETTINGS.writeDeadlineMs,
      codec: shape.codec ?? SETTINGS.codec,
    },
    onCommitted: (run) => {
      committed.push(run);
      onCommitted?.(run);
    },
    onEnded: () => undefined,
  });
  const running = writer.run(stop.signal);
  running.catch(() => undefined);
  return {
    writer,
    claim,
    budget,
    committed,
    running,
    append(builder) {
      const append = builder.build();
      writer.append(append);
      return append;
    },
    abort: () => stop.abort(),
  };
}

/** One record as the store has it. */
export interface RecordAtRest {
  readonly first: bigint;
  readonly last: bigint;
  readonly term: bigint;
  readonly entries: Entry[];
  readonly operations: { writerId: string; operationId: bigint; first: bigint; last: bigint }[];
}

/**
 * Everything at rest, with what must always hold checked: ids contiguous from `from`, terms and times never falling, each
 * record chained to the one before, headers and entries of one mind, and the head at the last record.
 */
export async function readAtRest(store: KvStore, keys: LogKeys, from = 1n): Promise<RecordAtRest[]> {
  const records: RecordAtRest[] = [];
  let next = from;
  let term = 0n;
  let timeMs = 0n;
  let nonce: Uint8Array | undefined;
  for (let start = keys.recordsFrom; ; ) {
    const page = await store.page({ from: start, to: keys.recordsTo, limit: 1000, bytesMax: 1024 * 1024 });
    for (const { key, value } of page.pairs) {
      const record = decodeRecord(value);
      const { header } = record;
      const { entries } = fromBinary(BatchSchema, openBody(record));
      const ids = entries.map(({ sequenceId }) => sequenceId);
      const isSound =
        key === keys.record(header.lastSequenceId) &&
        (records.length > 0 ? header.firstSequenceId === next : header.firstSequenceId <= next) &&
        ids.length === Number(header.lastSequenceId - header.firstSequenceId) + 1 &&
        ids.every((id, index) => id === header.firstSequenceId + BigInt(index)) &&
        header.term >= term &&
        header.timestampMs >= timeMs &&
        (nonce === undefined || Buffer.compare(header.previousNonce, nonce) === 0) &&
        entries.every((entry) => entry.term === header.term && entry.timestampMs === header.timestampMs);
      if (!isSound)
        throw new Error(`after ${next - 1n}: ${key} holds ${ids} of term ${header.term}, the last was ${term}`);
      next = header.lastSequenceId + 1n;
      term = header.term;
      timeMs = header.timestampMs;
      nonce = header.nonce;
      records.push({
        first: header.firstSequenceId,
        last: header.lastSequenceId,
        term,
        entries,
        operations: header.operations.flatMap(({ writerId, operationId, firstOffset, entryCount }) =>
          operationId.map((id, index) => {
            const first = header.firstSequenceId + BigInt(firstOffset[index]!);
            return { writerId, operationId: id, first, last: first + BigInt(entryCount[index]!) - 1n };
          }),
        ),
      });
    }
    if (!page.more) break;
    start = `${page.pairs.at(-1)!.key}0`;
  }
  return records;
}

/** A seeded source of numbers (mulberry32), so that a run can be repeated. */
export class Dice {
  constructor(private state: number) {}

  /** At least 0, below 1. */
  roll(): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  below(bound: number): number {
    return Math.floor(this.roll() * bound);
  }

  chance(probability: number): boolean {
    return this.roll() < probability;
  }
}
