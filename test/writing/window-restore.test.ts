import { beforeEach, describe, expect, it } from "vitest";
import { Codec } from "../../src/gen/oplog/store/v1/store_pb.js";
import { type KeyValue, type Page, type PageRequest, StoreUnreachableError } from "../../src/oplog/kv-store.js";
import { DataLossError } from "../../src/oplog/log-errors.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { encodeRecord } from "../../src/oplog/record.js";
import { decodeHead } from "../../src/stored/decode.js";
import { openRecord } from "../../src/stored/history.js";
import { trim } from "../../src/stored/trim.js";
import { restoreWindow, WindowReader } from "../../src/writing/window-restore.js";
import { aLog } from "../following/followers.js";
import { anAppend, anIdentity, appendedOf, aWriter, inTime, keysOf, testClock, useFakeTime } from "../log/support.js";

useFakeTime();

const keys = keysOf();
let store: MemoryKvStore;
let reader: WindowReader;
beforeEach(() => {
  store = new MemoryKvStore({ clock: testClock });
  reader = new WindowReader(store, keys, testClock);
});

const head = async () => decodeHead((await store.get(keys.head)).pair!);
const everything = async () =>
  (await store.page({ from: keys.allFrom, to: keys.allTo, limit: 1000, bytesMax: 1024 * 1024 })).pairs;
const clear = () => store.txn({ compares: [], writes: [{ kind: "delete-range", from: keys.allFrom, to: keys.allTo }] });

/** By "w", each an operation of its own. */
async function append(count: number, from = 1, text = ""): Promise<void> {
  const { append: send, abort } = await inTime(aWriter(store, { identity: anIdentity() }));
  for (let id = from; id < from + count; id++)
    appendedOf(await inTime(send(anAppend().by("w", BigInt(id)).saying(`${text}${id}`)).outcome));
  abort();
}

async function restore(pairs: readonly KeyValue[]): Promise<void> {
  await clear();
  const writes = pairs.map(({ key, value }) => ({ kind: "put" as const, key, value }));
  await store.txn({ compares: [], writes });
}

describe("a window that is read again", () => {
  it("knows nothing of a log that was replaced", async () => {
    await append(20);
    expect((await inTime(reader.read(await head()))).resolve("w", 15n).outcome).toBe("committed");
    await clear();
    await append(3, 1, "another ");
    const again = await inTime(reader.read(await head()));
    const afresh = await inTime(restoreWindow(store, keys, testClock, await head()));
    for (const id of [1n, 3n, 15n, 20n]) expect(again.resolve("w", id)).toEqual(afresh.resolve("w", id));
  });

  it("knows nothing of what was rolled back with the log", async () => {
    await append(5);
    const backup = await everything();
    await append(15, 6);
    await inTime(reader.read(await head()));
    await restore(backup);
    const again = await inTime(reader.read(await head()));
    const afresh = await inTime(restoreWindow(store, keys, testClock, await head()));
    for (const id of [1n, 5n, 15n, 20n]) expect(again.resolve("w", id)).toEqual(afresh.resolve("w", id));
  });
});

describe("records that do not continue each other", () => {
  /** The log as it went on after the first five operations, and as it could have gone on. */
  async function twoHistories() {
    await append(5);
    const backup = await everything();
    await append(5, 6);
    const one = await everything();
    await restore(backup);
    await append(5, 6, "another ");
    return { one, other: await everything() };
  }

  const isLate = (key: string) => key === keys.head || (key >= keys.record(8n) && key < keys.recordsTo);
  /** The records from 8 on, and the head, of the one; the rest of the other. */
  const mixed = ({ one, other }: Awaited<ReturnType<typeof twoHistories>>) => [
    ...other.filter(({ key }) => !isLate(key)),
    ...one.filter(({ key }) => isLate(key)),
  ];

  it("are found: the log has two histories in one store", async () => {
    await restore(mixed(await twoHistories()));
    await expect(inTime(reader.read(await head()))).rejects.toMatchObject({
      reason: "HISTORY_DIVERGED",
      facts: { sequence_id: 7n },
    });
  });

  it("are told to who appends, and nothing is written", async () => {
    await restore(mixed(await twoHistories()));
    const told: string[] = [];
    const log = aLog(store, { onDiverged: (_log, error) => told.push(error.reason) });
    const refusal = inTime(log.append(anAppend().by("w", 11n).build()));
    await expect(refusal).rejects.toMatchObject({ reason: "HISTORY_DIVERGED", facts: { sequence_id: 7n } });
    expect(told).toEqual(["HISTORY_DIVERGED"]);
    expect((await head()).lastSequenceId).toBe(10n);
  });

  it("are found where they overlap", async () => {
    await append(5);
    const pairs = await everything();
    const record = pairs.find(({ key }) => key === keys.record(3n))!;
    const { header } = openRecord(keys, record, undefined);
    const widened = encodeRecord({ ...header, firstSequenceId: 2n }, Buffer.alloc(0), Codec.NONE);
    await restore(pairs.map((pair) => (pair === record ? { ...pair, value: widened } : pair)));
    await expect(inTime(reader.read(await head()))).rejects.toThrow(/overlap: 2\.\.3 where 3 comes next/);
  });

  it("are found when one of them is gone, unless the log was trimmed up to there", async () => {
    await append(10);
    await store.txn({ compares: [], writes: [{ kind: "delete", key: keys.record(4n) }] });
    await expect(inTime(reader.read(await head()))).rejects.toThrow(DataLossError);
    await trim(store, keys, 6n);
    expect((await inTime(reader.read(await head()))).resolve("w", 8n).outcome).toBe("committed");
  });

  it("are found when the head does not continue the last one", async () => {
    const { one, other } = await twoHistories();
    await restore([...other.filter(({ key }) => key !== keys.head), ...one.filter(({ key }) => key === keys.head)]);
    await expect(inTime(reader.read(await head()))).rejects.toMatchObject({ reason: "HISTORY_DIVERGED" });
  });

  it.each(["as long as before", "longer"])(
    "are found when what was read before is of another history, and the log is %s",
    async (length) => {
      const { one, other } = await twoHistories();
      await restore(one);
      await inTime(reader.read(await head()));
      await restore(other);
      if (length === "longer") await append(3, 11);
      await expect(inTime(reader.read(await head()))).rejects.toMatchObject({
        reason: "HISTORY_DIVERGED",
        facts: { sequence_id: 10n },
      });
      // Once that has been told, and the store adopted, the reader goes by what the store has.
      const again = await inTime(reader.read(await head()));
      expect(again.resolve("w", 10n)).toMatchObject({ outcome: "committed" });
    },
  );
});

describe("a store that answers a read from the past", () => {
  class StaleStore extends MemoryKvStore {
    stale = 0;
    hidden = "";

    override async page(request: PageRequest): Promise<Page> {
      const result = await super.page(request);
      if (this.stale === 0) return result;
      this.stale--;
      return { ...result, pairs: result.pairs.filter(({ key }) => key < this.hidden) };
    }
  }

  it("is asked again, so that what is in the log is not called not committed", async () => {
    const past = new StaleStore({ clock: testClock });
    store = past;
    reader = new WindowReader(store, keys, testClock);
    await append(20);
    past.hidden = keys.record(18n);
    past.stale = 3;
    const window = await inTime(reader.read(await head()));
    expect(past.stale).toBe(0);
    for (const id of [1n, 17n, 19n, 20n]) expect(window.resolve("w", id).outcome).toBe("committed");
  });

  it("and goes on doing so is not believed", async () => {
    const past = new StaleStore({ clock: testClock });
    store = past;
    reader = new WindowReader(store, keys, testClock);
    await append(20);
    past.hidden = keys.record(18n);
    past.stale = Number.POSITIVE_INFINITY;
    await expect(inTime(reader.read(await head()))).rejects.toThrow(StoreUnreachableError);
  });
});
