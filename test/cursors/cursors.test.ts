import { create, toBinary } from "@bufbuild/protobuf";
import { beforeEach, describe, expect, it } from "vitest";
import type { CursorUpdate } from "../../src/cursors/cursor-rules.js";
import { CursorWriter } from "../../src/cursors/cursor-writer.js";
import { CursorSchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import { Logs } from "../../src/log/logs.js";
import { InvalidArgumentError } from "../../src/oplog/errors.js";
import { StoreUnreachableError } from "../../src/oplog/kv-store.js";
import {
  BeyondHeadError,
  CursorNotFoundError,
  CursorRegressedError,
  LogNotFoundError,
} from "../../src/oplog/log-errors.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { readCursor, readCursors, type StoredCursor } from "../../src/stored/cursors.js";
import { aLog, appendTo, logParts } from "../following/followers.js";
import { anAppend, keysOf, testClock, useFakeTime } from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";

useFakeTime();

const keys = keysOf();
let store: FaultyKvStore;
let writer: CursorWriter;
let moved: StoredCursor[];
const aWriterOf = (log = keys) =>
  new CursorWriter({ store, keys: log, clock: testClock, chainHere: () => "", onMoved: (each) => moved.push(each) });
beforeEach(() => {
  store = new FaultyKvStore(new MemoryKvStore({ clock: testClock }));
  writer = aWriterOf();
  moved = [];
});

const at = (received: number, flushed: number, applied: number, rest: Partial<CursorUpdate> = {}): CursorUpdate => ({
  consumer: "c",
  received: BigInt(received),
  flushed: BigInt(flushed),
  applied: BigInt(applied),
  stateHash: Buffer.alloc(0),
  appliedChain: "",
  isRewindAllowed: false,
  ...rest,
});
const update = (each: CursorUpdate) => writer.update(each);

describe("a cursor", () => {
  beforeEach(async () => {
    await appendTo(aLog(store), anAppend().of(10));
  });

  it("is kept as it was set, and answers the head", async () => {
    expect(await update(at(9, 8, 7, { stateHash: Buffer.from("h") }))).toEqual({ head: 10n, floor: 1n });
    expect(await readCursor(store, keys, "c")).toMatchObject({
      receivedSequenceId: 9n,
      flushedSequenceId: 8n,
      appliedSequenceId: 7n,
      updatedAtMs: BigInt(testClock.wallMs()),
    });
  });

  it("takes what was left out from the position after it", async () => {
    await update(at(0, 0, 7));
    expect(await readCursor(store, keys, "c")).toMatchObject({ receivedSequenceId: 7n, flushedSequenceId: 7n });
    await update(at(0, 8, 7));
    expect(await readCursor(store, keys, "c")).toMatchObject({ receivedSequenceId: 8n, flushedSequenceId: 8n });
  });

  it.each<[string, CursorUpdate, new (...args: never[]) => Error]>([
    ["beyond the head", at(11, 1, 1), BeyondHeadError],
    ["flushed below applied", at(9, 6, 7), InvalidArgumentError],
    ["received below flushed", at(7, 8, 7), InvalidArgumentError],
    ["of a name that is a path", at(1, 1, 1, { consumer: "../head" }), InvalidArgumentError],
  ])("%s is refused", async (_, wrong, type) => {
    await expect(update(wrong)).rejects.toThrow(type);
    expect((await readCursors(store, keys)).cursors).toEqual([]);
  });

  it("goes back only where that is asked for", async () => {
    await update(at(9, 8, 7));
    for (const lower of [at(8, 8, 7), at(9, 7, 7), at(9, 8, 6)])
      await expect(update(lower)).rejects.toThrow(CursorRegressedError);
    await update(at(3, 2, 1, { isRewindAllowed: true }));
    expect(await readCursor(store, keys, "c")).toMatchObject({ receivedSequenceId: 3n, appliedSequenceId: 1n });
  });

  it("moved by many at once ends at the highest, and never goes back on the way", async () => {
    const results = await Promise.allSettled([1, 2, 3, 4, 5].map((id) => aWriterOf().update(at(id, id, id))));
    for (const result of results)
      if (result.status === "rejected") expect(result.reason).toBeInstanceOf(CursorRegressedError);
    expect((await readCursor(store, keys, "c")).appliedSequenceId).toBe(5n);
  });

  describe("moved by many calls while a write of it flies", () => {
    it("is written once more for all of them, and each is answered when that is durable", async () => {
      const first = store.hangNextTxn();
      const calls = [update(at(1, 1, 1))];
      await first.arrived;
      const second = store.hangNextTxn();
      for (let id = 2; id <= 9; id++) calls.push(update(at(id, id, id)));
      const answered: number[] = [];
      calls.forEach((call, index) => void call.then(() => answered.push(index + 1)));
      const txnsBefore = store.calls.txns;
      await first.answer();
      await second.arrived;
      expect(answered).toEqual([1]);
      await second.answer();
      await Promise.all(calls);
      expect(answered).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
      expect(store.calls.txns - txnsBefore).toBe(1);
      expect(moved.map(({ cursor }) => cursor.appliedSequenceId)).toEqual([1n, 9n]);
    });

    it("refuses each call for what the one before it leaves, and takes the others", async () => {
      const first = store.hangNextTxn();
      const calls = [
        at(1, 1, 1),
        at(5, 5, 5),
        at(4, 4, 4),
        at(11, 1, 1),
        at(3, 3, 3, { isRewindAllowed: true }),
        at(4, 4, 4),
      ];
      const outcomes = Promise.allSettled(calls.map(update));
      await first.answer();
      const told = (await outcomes).map((each) => (each.status === "rejected" ? each.reason.reason : "moved"));
      expect(told).toEqual(["moved", "moved", "CURSOR_REGRESSED", "BEYOND_HEAD", "moved", "moved"]);
      expect((await readCursor(store, keys, "c")).appliedSequenceId).toBe(4n);
    });

    it("tells all that share a write that failed, and takes the next one", async () => {
      const first = store.hangNextTxn();
      const before = update(at(1, 1, 1));
      await first.arrived;
      store.failNextTxns(1);
      const calls = Promise.allSettled([update(at(2, 2, 2)), update(at(3, 3, 3))]);
      await first.answer();
      await before;
      for (const each of await calls)
        expect(each).toMatchObject({ status: "rejected", reason: expect.any(StoreUnreachableError) });
      await update(at(4, 4, 4));
      expect((await readCursor(store, keys, "c")).appliedSequenceId).toBe(4n);
    });

    it("holds up no other cursor, and lets no more than 1,000 wait", async () => {
      const first = store.hangNextTxn();
      const calls = [update(at(1, 1, 1))];
      await first.arrived;
      await update(at(7, 7, 7, { consumer: "other" }));
      for (let waiting = 0; waiting < 1000; waiting++) calls.push(update(at(1, 1, 1)));
      await expect(update(at(1, 1, 1))).rejects.toMatchObject({ reason: "TOO_MANY", retryAfterMs: 100 });
      await first.answer();
      await Promise.all(calls);
    });
  });

  describe("of which there are as many as a log has room for", () => {
    const several = (count: number, from = 0) =>
      Array.from({ length: count }, (_, index) => `pod-${String(from + index).padStart(4, "0")}`);
    /** As an older sidecar puts them: without a count. */
    async function fill(count: number): Promise<void> {
      const value = toBinary(CursorSchema, create(CursorSchema, { appliedSequenceId: 1n }));
      for (const consumer of several(count)) {
        await store.txn({ compares: [], writes: [{ kind: "put", key: keys.cursor(consumer), value }] });
      }
    }

    it("is refused, whoever makes one more at the same time", async () => {
      await fill(990);
      const writers = [aWriterOf(), aWriterOf(), aWriterOf()];
      const made = await Promise.allSettled(
        several(30, 2000).map((consumer, index) => writers[index % 3]!.update(at(1, 1, 1, { consumer }))),
      );
      expect((await readCursors(store, keys)).cursors).toHaveLength(1000);
      for (const each of made) if (each.status === "rejected") expect(each.reason.reason).toBe("TOO_MANY");
      await update(at(2, 2, 2, { consumer: "pod-0001" }));
    });

    it("leaves alone those beyond it that exist", async () => {
      await fill(1042);
      await update(at(3, 3, 3, { consumer: "pod-1041" }));
      await expect(update(at(1, 1, 1))).rejects.toThrow("--cursor-expiry");
      expect((await readCursors(store, keys)).cursors).toHaveLength(1042);
    });

    it("makes room when one is deleted", async () => {
      await fill(1000);
      await writer.delete("pod-0500");
      await update(at(1, 1, 1));
      await expect(writer.delete("pod-0500")).rejects.toThrow(CursorNotFoundError);
      await expect(aWriterOf(keysOf("missing")).delete("c")).rejects.toThrow(LogNotFoundError);
    });
  });

  describe("that is damaged", () => {
    const damage = (consumer: string) =>
      store.txn({
        compares: [],
        writes: [{ kind: "put", key: keys.cursorsFrom + consumer, value: Buffer.from([0x0b]) }],
      });

    it("is named, and costs no other one", async () => {
      await update(at(1, 1, 1, { consumer: "sound" }));
      await damage("bad");
      await damage("no name/at all");
      const { cursors, damaged } = await readCursors(store, keys);
      expect(cursors.map(({ consumer }) => consumer)).toEqual(["sound"]);
      expect(damaged).toEqual([
        { consumer: "bad", problem: expect.stringContaining("damaged"), modRevision: expect.anything() },
        { consumer: "no name/at all", problem: expect.stringContaining("name"), modRevision: expect.anything() },
      ]);
    });

    it("is told to its consumer, who can replace it, and can be deleted by any name", async () => {
      await damage("c");
      await expect(update(at(1, 1, 1))).rejects.toMatchObject({ code: "DATA_LOSS", reason: "CURSOR_DAMAGED" });
      await expect(readCursor(store, keys, "c")).rejects.toMatchObject({ reason: "CURSOR_DAMAGED" });
      await update(at(2, 2, 2, { isRewindAllowed: true }));
      expect((await readCursor(store, keys, "c")).appliedSequenceId).toBe(2n);
      await damage("no name/at all");
      await writer.delete("no name/at all");
      expect((await readCursors(store, keys)).damaged).toEqual([]);
      await expect(writer.delete("\u0000")).rejects.toThrow(InvalidArgumentError);
    });
  });

  it("that does not exist, or whose log does not, says so", async () => {
    await expect(readCursor(store, keys, "other")).rejects.toThrow(CursorNotFoundError);
    await expect(aWriterOf(keysOf("missing")).update(at(1, 1, 1))).rejects.toThrow(LogNotFoundError);
  });
});

describe("the logs of a store", () => {
  const names = ["a", "a-b", "a.b", "a0", "ab", "Z"];

  it("are listed in pages of any size, each once, and nothing that is no log", async () => {
    for (const name of names) await appendTo(aLog(store, { name }), anAppend());
    const foreign = ["/oplog/.hidden/head", "/oplog/zz/cursors/c"];
    for (const key of foreign)
      await store.txn({ compares: [], writes: [{ kind: "put", key, value: Buffer.alloc(0) }] });
    const logs = new Logs(logParts(store), 10);
    for (const size of [1, 2, 3, 100]) {
      const found: string[] = [];
      for (let after = ""; ; after = found.at(-1)!) {
        const page = await logs.list(after, size);
        expect(page.logs.length).toBeLessThanOrEqual(size);
        found.push(...page.logs.map(({ log }) => log));
        if (page.isLast) break;
      }
      expect([...found].sort(), `pages of ${size}`).toEqual([...names].sort());
    }
  });

  it("are listed with what is damaged of one, which costs no other", async () => {
    for (const name of names) await appendTo(aLog(store, { name }), anAppend());
    const broken: [string, string][] = [
      [keysOf("ab").head, "ab"],
      [keysOf("Z").term, "Z"],
    ];
    for (const [key] of broken)
      await store.txn({ compares: [], writes: [{ kind: "put", key, value: Buffer.from([0x0b]) }] });
    await store.txn({ compares: [], writes: [{ kind: "put", key: "/oplog/.hidden/x", value: Buffer.alloc(0) }] });
    const logs = new Logs(logParts(store), 10);
    const { logs: listed, foreign } = await logs.list("", 100);
    expect(listed.filter(({ problem }) => problem !== "").map(({ log }) => log)).toEqual(["Z", "ab"]);
    expect(listed.find(({ log }) => log === "Z")).toMatchObject({ head: 1n, term: 0n });
    expect(foreign).toEqual({ count: 1, first: "/oplog/.hidden/x" });
    for (const [key, name] of broken) {
      const state = await logs.get(name).observe();
      expect(state).toMatchObject({ problems: [expect.stringContaining(key)] });
    }
  });

  it("are listed by few reads, however many there are and however much is in them", async () => {
    const inner = new MemoryKvStore({ clock: testClock });
    const many = Array.from({ length: 300 }, (_, index) => `log-${String(index).padStart(4, "0")}`);
    for (const name of many) await appendTo(aLog(inner, { name }), anAppend());
    for (let append = 0; append < 400; append++) await appendTo(aLog(inner, { name: "log-0007" }), anAppend());
    const counted = new FaultyKvStore(inner);
    const { logs, isLast } = await new Logs(logParts(counted), 10).list("", 1000);
    expect([logs.length, isLast]).toEqual([300, true]);
    expect(counted.calls.reads - 2 * logs.length).toBeLessThan(20);
  });

  it("do not see each other's entries", async () => {
    for (const [index, name] of names.entries()) await appendTo(aLog(store, { name }), anAppend().of(index + 1));
    for (const [index, name] of names.entries()) {
      const { head, next } = await aLog(store, { name }).read(1n, 100, 10_000);
      expect([name, head, next]).toEqual([name, BigInt(index + 1), BigInt(index + 2)]);
    }
  });

  it("are held up to a number: idle ones make room, one that leads does not", async () => {
    const logs = new Logs(logParts(store), 2);
    const leading = logs.get("a");
    await appendTo(leading, anAppend());
    const idle = logs.get("b");
    expect(logs.get("b")).toBe(idle);
    const third = logs.get("c");
    expect(logs.get("a")).toBe(leading);
    expect(logs.get("c")).toBe(third);
    await appendTo(third, anAppend());
    expect(() => logs.get("d")).toThrow("too many logs");
  });
});
