import { fromBinary } from "@bufbuild/protobuf";
import { beforeEach, describe, expect, it } from "vitest";
import { WriterMarksSchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import type { TxnRequest, TxnResult } from "../../src/oplog/kv-store.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { decodeHead } from "../../src/stored/decode.js";
import { trim } from "../../src/stored/trim.js";
import { restoreMarks } from "../../src/writing/window-restore.js";
import {
  anAppend,
  appendedOf,
  aWriter,
  Dice,
  errorOf,
  inTime,
  keysOf,
  resolveFromStore,
  type TestWriter,
  testClock,
  useFakeTime,
} from "../log/support.js";

useFakeTime();

const keys = keysOf();

/** Counts the bytes of what it stores beside the records. */
class CountingStore extends MemoryKvStore {
  bytes = 0;
  txns = 0;

  override async txn(request: TxnRequest): Promise<TxnResult> {
    this.txns++;
    for (const write of request.writes) {
      if (write.kind === "put" && keys.recordId(write.key) === undefined) this.bytes += write.value.length;
    }
    return super.txn(request);
  }
}

let store: CountingStore;
beforeEach(() => {
  store = new CountingStore({ clock: testClock });
});

const nameOf = (index: number) => `writer ${index} `.padEnd(100, "w");
const head = async () => decodeHead((await store.get(keys.head)).pair!);

async function each(writer: TestWriter, count: number, operationId: bigint): Promise<void> {
  const sent = Array.from({ length: count }, (_, index) => writer.append(anAppend().by(nameOf(index), operationId)));
  for (const { outcome } of sent) appendedOf(await inTime(outcome));
}

describe("the marks of 1,024 writers", () => {
  it("cost a commit of one of them a tenth of what all of them are, at most", async () => {
    const writer = await aWriter(store);
    await each(writer, 1024, 1n);
    appendedOf(await inTime(writer.append(anAppend()).outcome));
    const { pair } = await store.get(keys.marks);
    const all = pair!.value.length;
    expect(all).toBeGreaterThan(100_000);
    store.bytes = 0;
    store.txns = 0;
    for (let id = 2n; id <= 500n; id++) {
      appendedOf(await inTime(writer.append(anAppend().by(nameOf(Number(id % 7n)), id)).outcome));
    }
    expect(store.bytes / store.txns).toBeLessThan(all / 10);
  });

  it("all outlive take-over and trim", async () => {
    await each(await aWriter(store), 1024, 1n);
    const second = await aWriter(store);
    await each(second, 100, 5n);
    await trim(store, keys, 1125n);
    const third = await aWriter(store);
    for (const index of [0, 50, 99, 100, 500, 1023]) {
      const id = index < 100 ? 5n : 1n;
      const retry = await inTime(third.append(anAppend().by(nameOf(index), id)).outcome);
      expect(appendedOf(retry)).toMatchObject({ isDuplicate: true });
      expect(await inTime(resolveFromStore(store, keys, nameOf(index), 0n))).toMatchObject({ highest: id });
    }
    const old = await inTime(third.append(anAppend().by(nameOf(7), 1n)).outcome);
    expect(errorOf(old).reason).toBe("OPERATION_ID_USED");
  });
});

describe("marks", () => {
  it("are those of the last operations, whatever was put when, and through every take-over", async () => {
    const dice = new Dice(7);
    const last = new Map<string, bigint>();
    for (let reign = 0; reign < 6; reign++) {
      const writer = await aWriter(store);
      for (let round = 0; round < 40; round++) {
        const sent = Array.from({ length: 1 + dice.below(40) }, () => {
          const writerId = nameOf(dice.below(dice.chance(0.5) ? 10 : 300));
          const operationId = (last.get(writerId) ?? 0n) + 1n;
          last.set(writerId, operationId);
          return writer.append(anAppend().by(writerId, operationId));
        });
        for (const { outcome } of sent) appendedOf(await inTime(outcome));
      }
      const marks = await inTime(restoreMarks(store, keys, testClock, await head()));
      for (const [writerId, operationId] of last) expect(marks.highestOf(writerId)).toBe(operationId);
    }
    const { pair } = await store.get(keys.marks);
    expect(fromBinary(WriterMarksSchema, pair!.value).generation).toBeGreaterThan(5n);
  });

  it("are all in the head, as in version 0.1, while they are few", async () => {
    await each(await aWriter(store), 20, 1n);
    expect((await store.get(keys.marks)).pair).toBeUndefined();
    expect(await head()).toMatchObject({ marksGeneration: 0n, writers: { length: 20 } });
  });

  it("of a head of version 0.1 are taken over", async () => {
    await each(await aWriter(store), 300, 3n);
    const marks = await inTime(restoreMarks(store, keys, testClock, await head()));
    expect((await store.get(keys.marks)).pair).toBeUndefined();
    expect(await head()).toMatchObject({ marksGeneration: 0n, writers: { length: 300 } });
    const writer = await aWriter(store);
    appendedOf(await inTime(writer.append(anAppend().by("new", 1n)).outcome));
    expect((await head()).writers).toHaveLength(1);
    expect((await store.get(keys.marks)).pair).toBeDefined();
    const after = await inTime(restoreMarks(store, keys, testClock, await head()));
    for (let index = 0; index < 300; index++) {
      expect(after.resolve(nameOf(index), 0n)).toEqual(marks.resolve(nameOf(index), 0n));
    }
  });
});
