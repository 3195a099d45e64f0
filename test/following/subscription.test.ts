import { create, toBinary } from "@bufbuild/protobuf";
import { beforeEach, describe, expect, it } from "vitest";
import { PageTurns } from "../../src/following/page-turns.js";
import type { Start } from "../../src/following/start-position.js";
import { FloorSchema, HeadSchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import type { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import type { Log } from "../../src/log/log.js";
import { NotOfferedError, OplogError, ShuttingDownError, TooManyError } from "../../src/oplog/errors.js";
import {
  BeyondHeadError,
  CursorNotFoundError,
  DataLossError,
  HistoryDivergedError,
  LogReplacedError,
  TermDivergedError,
  TrimmedError,
} from "../../src/oplog/log-errors.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { decodeHead } from "../../src/stored/decode.js";
import { trim } from "../../src/stored/trim.js";
import { anAppend, aWriter, inTime, keysOf, passTime, testClock, until, useFakeTime } from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";
import { aLog, appendTo, aSubscriber, RecordingSink } from "./followers.js";

useFakeTime();

const keys = keysOf();
let inner: MemoryKvStore;
let network: FaultyKvStore;
/** Where the primary is, with no faults; and another sidecar, behind the network. */
let primary: Log;
let standby: Log;
beforeEach(() => {
  inner = new MemoryKvStore({ clock: testClock });
  network = new FaultyKvStore(inner);
  primary = aLog(inner);
  standby = aLog(network);
});

/** Until it is resumed. */
function stuckAfterOneBatch(): RecordingSink {
  let hasBeen = false;
  const sink = new RecordingSink(() => {
    if (!hasBeen && sink.batches.length === 1) {
      hasBeen = true;
      sink.pause();
    }
    return undefined;
  });
  return sink;
}

/** Ids from..to. */
const run = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => BigInt(from + index));
const append = (count: number) => appendTo(primary, anAppend().of(count));

/** What a subscriber that starts there receives of a log, before it is live. */
async function receivedFrom(start: Start): Promise<bigint[]> {
  const { sink, leave, outcome } = aSubscriber(standby, { start });
  await until(() => sink.noticed.includes("caught up") || outcome() !== undefined, "the subscriber to be live");
  leave();
  if (outcome() instanceof Error) throw outcome();
  return sink.ids;
}

async function refusalOf(start: Start, logId?: Uint8Array): Promise<OplogError> {
  const { ended } = aSubscriber(standby, { start, ...(logId === undefined ? {} : { logId }) });
  const error = await inTime(ended.catch((each: unknown) => each));
  if (!(error instanceof OplogError)) throw new Error(`not refused: ${error}`);
  return error;
}

describe("a subscriber starts", () => {
  beforeEach(async () => {
    // Records 1..3, 4..4 and 5..9, ten seconds apart; the last under another term.
    await append(3);
    await passTime(10_000);
    await append(1);
    await passTime(10_000);
    primary = aLog(inner);
    await append(5);
  });
  const startedMs = 1_700_000_000_000n;
  const sequence = (from: bigint, previousTerm = 0n): Start => ({
    kind: "sequence",
    from,
    previous: { term: previousTerm, chain: "" },
  });
  const time = (timestampMs: bigint): Start => ({ kind: "time", timestampMs });

  it.each<[string, Start, bigint[]]>([
    ["at the beginning", { kind: "beginning" }, run(1, 9)],
    ["at the first id of a record", sequence(4n), run(4, 9)],
    ["in the middle of a record", sequence(7n), run(7, 9)],
    ["at the last id", sequence(9n), run(9, 9)],
    ["one after the head", sequence(10n), []],
    ["with the term that the entry before has", sequence(5n, 1n), run(5, 9)],
    ["with the term of an entry in the middle of a record", sequence(7n, 2n), run(7, 9)],
    ["at the head", { kind: "head" }, []],
    ["at a time before the first entry", time(0n), run(1, 9)],
    ["at the very time of the first record", time(startedMs), run(1, 9)],
    ["at a time between two records", time(startedMs + 5n), run(4, 9)],
    ["at a time after the last entry", time(startedMs + 3_600_000n), []],
  ])("%s", async (_, start, expected) => {
    expect(await receivedFrom(start)).toEqual(expected);
  });

  it.each<[string, Start, new (...args: never[]) => OplogError, object]>([
    ["two after the head", sequence(11n), BeyondHeadError, { from: 11n, head: 9n }],
    [
      "with another term than the log's",
      sequence(5n, 2n),
      TermDivergedError,
      { sequence_id: 4n, yours: 2n, current: 1n },
    ],
    ["at a cursor that nobody has set", { kind: "cursor", consumer: "c" }, CursorNotFoundError, { consumer: "c" }],
    ["at a snapshot", { kind: "snapshot" }, NotOfferedError, { field: "from_snapshot" }],
  ])("not %s", async (_, start, type, facts) => {
    const error = await refusalOf(start);
    expect(error).toBeInstanceOf(type);
    expect(error.facts).toMatchObject(facts);
  });

  it("one after the applied position of its cursor", async () => {
    const update = {
      consumer: "c",
      received: 8n,
      flushed: 7n,
      applied: 6n,
      stateHash: Buffer.alloc(0),
      appliedChain: "",
      isRewindAllowed: false,
    };
    await standby.updateCursor(update);
    expect(await receivedFrom({ kind: "cursor", consumer: "c" })).toEqual(run(7, 9));
  });

  it("at the floor when asked for the beginning of a trimmed log, and not below it", async () => {
    await trim(inner, keys, 6n);
    expect(await receivedFrom({ kind: "beginning" })).toEqual(run(6, 9));
    expect(await receivedFrom(time(0n))).toEqual(run(6, 9));
    expect(await receivedFrom(sequence(6n, 2n))).toEqual(run(6, 9));
    const error = await refusalOf(sequence(5n));
    expect(error).toBeInstanceOf(TrimmedError);
    expect(error.facts).toMatchObject({ from: 5n, floor: 6n });
  });

  it("at the floor, where the term before it is still known though its record is gone", async () => {
    await trim(inner, keys, 5n);
    expect(await refusalOf(sequence(5n, 2n))).toBeInstanceOf(TermDivergedError);
    expect(await receivedFrom(sequence(5n, 1n))).toEqual(run(5, 9));
  });

  it("not in a log of the same name that is another", async () => {
    expect(await refusalOf({ kind: "beginning" }, Buffer.alloc(16))).toBeInstanceOf(LogReplacedError);
  });

  it("where another sidecar has got to, though this one's watch is behind", async () => {
    const { sink } = aSubscriber(standby);
    await until(() => sink.covered === 9n, "9");
    network.dropWatchEvents();
    await append(3);
    expect(await receivedFrom(sequence(13n))).toEqual(run(10, 9));
  });
});

describe("a subscriber", () => {
  it("waits for a log that does not exist yet", async () => {
    const { sink } = aSubscriber(standby);
    await passTime(5000);
    await append(2);
    await until(() => sink.covered === 2n, "the first entries");
    expect(sink.ids).toEqual(run(1, 2));
  });

  it("is told where the log stands first, then when it has caught up, then time and again", async () => {
    await append(2);
    const { sink } = aSubscriber(standby, { heartbeatMs: 500 });
    await until(() => sink.noticed.includes("caught up"), "live");
    expect(sink.notices[0]).toMatchObject({ kind: "heartbeat", head: 2n, floor: 1n, sent: 0n });
    const heartbeats = () => sink.notices.filter(({ kind }) => kind === "heartbeat");
    const before = heartbeats().length;
    await passTime(5000);
    expect(heartbeats().length - before).toBe(10);
    expect(heartbeats().at(-1)).toMatchObject({ head: 2n, sent: 2n });
  });

  it("is told of a new leader", async () => {
    await append(1);
    const { sink } = aSubscriber(standby);
    await until(() => sink.covered === 1n, "1");
    await aWriter(inner, { identity: { id: "z", endpoint: "z:1", instance: Buffer.alloc(16) } });
    await until(() => sink.noticed.includes("leader changed"), "the notice");
    expect(sink.notices.at(-1)).toEqual({ kind: "leader changed", leader: { id: "z", endpoint: "z:1", term: 2n } });
  });

  it("with a linger receives each entry once, small ones together", async () => {
    await append(1);
    const { sink } = aSubscriber(primary, { lingerMs: 50 });
    await until(() => sink.noticed.includes("caught up"), "live");
    for (let each = 0; each < 5; each++) await append(1);
    await until(() => sink.covered === 6n, "6");
    expect(sink.ids).toEqual(run(1, 6));
    expect(sink.batches.length).toBeLessThan(6);
  });

  it("with a linger and a filter that passes nothing is still shown progress", async () => {
    const filter = { keyPrefix: Buffer.from("nothing"), opTypes: new Set<OpType>() };
    await append(1);
    const { sink } = aSubscriber(primary, { lingerMs: 50, filter });
    await until(() => sink.noticed.includes("caught up"), "live");
    await append(4);
    await until(() => sink.covered === 5n, "5");
    expect(sink.ids).toEqual([]);
  });

  it("that takes nothing is sent nothing, and holds up neither the writer nor others", async () => {
    const sink = new RecordingSink();
    const slow = aSubscriber(primary, { sink });
    const quick = aSubscriber(primary);
    await until(() => sink.noticed.includes("caught up"), "live");
    sink.pause();
    for (let each = 0; each < 50; each++) await appendTo(primary, anAppend().of(1, 1000));
    await until(() => quick.sink.covered === 50n, "50");
    expect(sink.held).toBeLessThanOrEqual(2);
    expect(sink.bufferedBytesMost).toBeLessThan(2500);
    sink.resume();
    await until(() => slow.sink.covered === 50n, "50 at the slow one too");
    expect(sink.ids).toEqual(run(1, 50));
  });

  it("that the memory of the feed has passed is served from the store, told so, and brought back", async () => {
    const log = aLog(inner, { cacheBytesMax: 3000 });
    await appendTo(log, anAppend());
    const { sink } = aSubscriber(log);
    await until(() => sink.noticed.includes("caught up"), "live");
    sink.pause();
    for (let each = 0; each < 20; each++) await appendTo(log, anAppend().of(1, 1000));
    sink.resume();
    await until(() => sink.covered === 21n, "21");
    await until(() => sink.noticed.at(-1) === "caught up", "live again");
    expect(sink.ids).toEqual(run(1, 21));
    const phases = sink.noticed.filter((kind) => kind !== "heartbeat" && kind !== "leader changed");
    expect(phases).toEqual(["caught up", "fell behind", "caught up"]);
  });

  it("that the floor has passed is told to start again, and the stream ends with TRIMMED", async () => {
    const log = aLog(inner, { cacheBytesMax: 1500 });
    await appendTo(log, anAppend());
    const { sink, ended } = aSubscriber(log);
    await until(() => sink.noticed.includes("caught up"), "live");
    sink.pause();
    for (let each = 0; each < 10; each++) await appendTo(log, anAppend().of(1, 1000));
    await trim(inner, keys, 9n);
    sink.resume();
    const error = await inTime(ended.catch((each: unknown) => each));
    expect(error).toBeInstanceOf(TrimmedError);
    const { next } = sink.notices.at(-1) as { next: bigint };
    expect(sink.notices.at(-1)).toEqual({ kind: "rebootstrap required", next, floor: 9n });
    expect(next).toBe(sink.covered + 1n);
    expect(next).toBeLessThan(9n);
  });

  it("beyond the limit is refused, and its place is free again once one has left", async () => {
    const log = aLog(inner, { subscriptionsMax: { open: 0, max: 1 } });
    const first = aSubscriber(log);
    await passTime(10);
    await expect(aSubscriber(log).ended).rejects.toThrow(TooManyError);
    first.leave();
    await inTime(first.ended);
    const next = aSubscriber(log);
    await passTime(10);
    expect(next.outcome()).toBeUndefined();
  });

  it("that does not read holds no page of history that others wait for, and goes on where it was", async () => {
    for (let each = 0; each < 20; each++) await append(20);
    const log = aLog(inner, { cacheBytesMax: 1, pageTurns: new PageTurns(1) });
    const stuck = Array.from({ length: 3 }, () => aSubscriber(log, { batchBytesMax: 200, sink: stuckAfterOneBatch() }));
    await until(() => stuck.every(({ sink }) => sink.batches.length === 1), "all to have been sent a frame");
    const reader = aSubscriber(log);
    await until(() => reader.sink.covered === 400n, "400");
    for (const { sink } of stuck) sink.resume();
    await until(() => stuck.every(({ sink }) => sink.covered === 400n), "all to have been sent the rest");
    for (const { sink } of [reader, ...stuck]) expect(sink.ids).toEqual(run(1, 400));
  });

  it("of a sidecar that stops is sent what is left, then told so", async () => {
    await append(3);
    const { sink, ended } = aSubscriber(primary, { sink: new RecordingSink() });
    await passTime(10);
    const last = appendTo(primary, anAppend());
    await last;
    await inTime(primary.drain());
    await expect(inTime(ended)).rejects.toThrow(ShuttingDownError);
    expect(sink.ids).toEqual(run(1, 4));
  });
});

describe("a watch that loses", () => {
  const live = async () => {
    await append(1);
    const subscriber = aSubscriber(standby);
    await until(() => subscriber.sink.noticed.includes("caught up"), "live");
    return subscriber;
  };

  it("events in the middle is noticed at the next one; what is missing is read", async () => {
    const { sink } = await live();
    network.dropWatchEvents();
    await append(2);
    await passTime(1);
    network.dropWatchEvents(false);
    await append(1);
    await passTime(50);
    expect(sink.ids).toEqual(run(1, 4));
    expect(sink.notices).toContainEqual({ kind: "gap", first: 2n, last: 3n });
  });

  it("the tail without a sign is noticed by asking for the head", async () => {
    const { sink } = await live();
    network.dropWatchEvents();
    await append(2);
    await until(() => sink.covered === 3n, "3", 5000);
    expect(sink.ids).toEqual(run(1, 3));
  });

  it.each([
    ["broken", () => network.breakWatches()],
    ["compacted away", () => network.compactUnderWatches()],
  ])("everything because it is %s is begun again where it was", async (_, breakIt) => {
    const { sink } = await live();
    for (let each = 0; each < 5; each++) {
      breakIt();
      await append(1);
      breakIt();
      await passTime(5);
    }
    await until(() => sink.covered === 6n, "6");
    expect(sink.ids).toEqual(run(1, 6));
  });
});

describe("a log that is broken in the store", () => {
  const remove = (key: string) => inner.txn({ compares: [], writes: [{ kind: "delete", key }] });
  const put = (key: string, value: Uint8Array) => inner.txn({ compares: [], writes: [{ kind: "put", key, value }] });
  const head = async () => decodeHead((await inner.get(keys.head)).pair!);

  it("by a hole ends with DATA_LOSS once that has lasted, and not a moment's hole before; nothing is skipped", async () => {
    for (let each = 0; each < 5; each++) await append(1);
    const { pair } = await inner.get(keys.record(3n));
    await remove(keys.record(3n));
    const passing = aSubscriber(standby);
    await passTime(2000);
    expect(passing.outcome()).toBeUndefined();
    expect(passing.sink.ids).toEqual(run(1, 2));
    await put(keys.record(3n), pair!.value);
    await until(() => passing.sink.covered === 5n, "5");
    expect(passing.sink.ids).toEqual(run(1, 5));

    await remove(keys.record(4n));
    const lasting = aSubscriber(standby);
    const error = await inTime(lasting.ended.catch((each: unknown) => each));
    expect(error).toBeInstanceOf(DataLossError);
    expect((error as DataLossError).facts).toMatchObject({ sequence_id: 4n });
    expect(lasting.sink.ids).toEqual(run(1, 3));
  });

  it("by a damaged record ends with DATA_LOSS before that record", async () => {
    for (let each = 0; each < 3; each++) await append(1);
    const { pair } = await inner.get(keys.record(2n));
    const damaged = Buffer.from(pair!.value);
    damaged[damaged.length - 1]! ^= 1;
    await put(keys.record(2n), damaged);
    const { sink, ended } = aSubscriber(standby);
    expect(await inTime(ended.catch((each: unknown) => each))).toBeInstanceOf(DataLossError);
    expect(sink.ids).toEqual(run(1, 1));
  });

  it("by a head that has gone back ends with HISTORY_DIVERGED", async () => {
    await append(5);
    const { sink, ended } = aSubscriber(standby);
    await until(() => sink.covered === 5n, "5");
    await put(keys.head, toBinary(HeadSchema, { ...(await head()), lastSequenceId: 2n }));
    const error = await inTime(ended.catch((each: unknown) => each));
    expect(error).toBeInstanceOf(HistoryDivergedError);
    expect((error as HistoryDivergedError).facts).toMatchObject({
      sequence_id: 5n,
      current: "none, since it ends at 2",
    });
  });

  it("by another log in its place ends with LOG_REPLACED", async () => {
    await append(2);
    const { sink, ended } = aSubscriber(standby);
    await until(() => sink.covered === 2n, "2");
    await put(keys.head, toBinary(HeadSchema, { ...(await head()), logId: Buffer.alloc(16, 1) }));
    expect(await inTime(ended.catch((each: unknown) => each))).toBeInstanceOf(LogReplacedError);
  });

  it("is looked at afresh by the subscriber that comes after", async () => {
    for (let each = 0; each < 3; each++) await append(1);
    const first = aSubscriber(standby);
    await until(() => first.sink.covered === 3n, "3");
    const before = await inner.get(keys.head);
    await put(keys.head, toBinary(HeadSchema, { ...(await head()), lastSequenceId: 1n }));
    await inTime(first.ended.catch(() => undefined));
    await passTime(10);
    await put(keys.head, before.pair!.value);
    expect(await receivedFrom({ kind: "beginning" })).toEqual(run(1, 3));
  });

  it("by a crash between raising the floor and dropping records is trimmed all the same", async () => {
    for (let each = 0; each < 5; each++) await append(1);
    await put(keys.floor, toBinary(FloorSchema, create(FloorSchema, { sequenceId: 4n, previousTerm: 1n })));
    expect(await receivedFrom({ kind: "beginning" })).toEqual(run(4, 5));
    expect(await trim(inner, keys, 2n)).toBe(4n);
    expect((await inner.get(keys.record(3n))).pair).toBeUndefined();
    expect((await inner.get(keys.record(4n))).pair).toBeDefined();
  });
});
