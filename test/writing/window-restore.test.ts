import { beforeEach, describe, expect, it } from "vitest";
import { type KeyValue, type Page, type PageRequest, StoreUnreachableError } from "../../src/oplog/kv-store.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { decodeHead } from "../../src/stored/decode.js";
import { restoreWindow, WindowReader } from "../../src/writing/window-restore.js";
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
