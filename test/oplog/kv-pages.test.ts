import { beforeEach, expect, test } from "vitest";
import { systemClock } from "../../src/oplog/clock.js";
import { firstOf, pagesOf, wholeRange } from "../../src/oplog/kv-pages.js";
import { StoreUnreachableError } from "../../src/oplog/kv-store.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";

let inner: MemoryKvStore;
let store: FaultyKvStore;
beforeEach(async () => {
  inner = new MemoryKvStore({ clock: systemClock, pageBytesMax: 40 });
  store = new FaultyKvStore(inner);
  for (const key of ["/a/1", "/a/2", "/a/3", "/a/4", "/b"]) {
    await store.txn({ compares: [], writes: [{ kind: "put", key, value: Buffer.alloc(15) }] });
  }
});

const range = { from: "/a/", to: "/a0" };

test("a whole range is read also where a page holds less than was asked for", async () => {
  expect((await wholeRange(store, range)).pairs.map(({ key }) => key)).toEqual(["/a/1", "/a/2", "/a/3", "/a/4"]);
});

test("pages come with what was asked for at most, and the last one tells that it is the last", async () => {
  const pages: [number, boolean][] = [];
  for await (const { pairs, more } of pagesOf(inner, { ...range, pairsMax: 3, bytesMax: 1_000 })) {
    pages.push([pairs.length, more]);
  }
  expect(pages).toEqual([
    [2, true],
    [2, false],
  ]);
});

test("the revision is that of the first page: what is written meanwhile comes with a watch from there", async () => {
  const { revision } = await inner.get("/a/1");
  const pages = pagesOf(inner, { ...range, pairsMax: 1 });
  expect((await pages.next()).value?.revision).toBe(revision);
  await inner.txn({ compares: [], writes: [{ kind: "put", key: "/a/0", value: Buffer.alloc(1) }] });
  expect((await wholeRange(inner, range)).revision).toBe(revision + 1n);
});

test("a page that nobody waits for may fail", async () => {
  for await (const { pairs } of pagesOf(store, { ...range, pairsMax: 1 })) {
    expect(pairs).toHaveLength(1);
    store.goAway();
    break;
  }
  await expect(wholeRange(store, range)).rejects.toThrow(StoreUnreachableError);
});

test("the first pair is the first of the range, or none", async () => {
  expect((await firstOf(store, { from: "/a/2\0", to: "/a0" }))?.key).toBe("/a/3");
  expect(await firstOf(store, { from: "/c", to: "/d" })).toBeUndefined();
});
