import { expect, test } from "vitest";
import {
  CompactedError,
  type KvStore,
  LeaseNotFoundError,
  StoreRefusedError,
  WatchLostError,
} from "../../src/oplog/kv-store.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { WatchRecorder } from "../stores/watch-recorder.js";
import { VirtualTime } from "../support/virtual-time.js";
import { waitFor, within } from "../support/wait.js";

function put(store: KvStore, key: string, value: Uint8Array = Buffer.from("x"), leaseId = 0n) {
  return store.txn({ compares: [], writes: [{ kind: "put", key, value, leaseId }] });
}

test("the first revision is 1, and transactions that change nothing take none", async () => {
  const store = new MemoryKvStore({ clock: new VirtualTime().clock });
  expect((await store.get("a")).revision).toBe(0n);
  expect((await put(store, "a")).revision).toBe(1n);
  await store.txn({ compares: [], writes: [{ kind: "delete", key: "absent" }] });
  await store.txn({ compares: [{ key: "a", modRevision: 7n }], writes: [{ kind: "delete", key: "a" }] });
  expect((await store.get("a")).revision).toBe(1n);
});

test("a lease runs out exactly when its TTL has passed on the clock", async () => {
  const time = new VirtualTime();
  const store = new MemoryKvStore({ clock: time.clock });
  const { leaseId } = await store.grantLease(1_000);
  await put(store, "a", Buffer.from("x"), leaseId);
  time.nowMs = 999;
  expect(await store.leaseTimeLeft(leaseId)).toBe(1);
  await store.keepLeaseAlive(leaseId);
  time.nowMs = 1_998;
  expect(await store.leaseTimeLeft(leaseId)).toBe(1);
  expect((await store.get("a")).pair?.leaseId).toBe(leaseId);
  time.nowMs = 1_999;
  const { pair, revision } = await store.get("a");
  expect(pair).toBeUndefined();
  expect(revision).toBe(2n);
  expect(await store.leaseTimeLeft(leaseId)).toBeUndefined();
  await expect(store.keepLeaseAlive(leaseId)).rejects.toThrow(LeaseNotFoundError);
});

test("expireLeases deletes without a call, so that watches see it", async () => {
  const time = new VirtualTime();
  const store = new MemoryKvStore({ clock: time.clock });
  const { leaseId } = await store.grantLease(1_000);
  await put(store, "a", Buffer.from("x"), leaseId);
  const watch = await WatchRecorder.start(store, { from: "a", to: "b", startRevision: 2n });
  time.nowMs = 1_000;
  store.expireLeases();
  expect(await watch.waitForEvents(1)).toEqual([{ kind: "delete", key: "a", modRevision: 2n }]);
  await watch.stop();
});

test("a TTL that is no positive whole number is refused", async () => {
  const store = new MemoryKvStore({ clock: new VirtualTime().clock });
  for (const ttlMs of [0, -1, 1.5, Number.NaN]) {
    await expect(store.grantLease(ttlMs)).rejects.toThrow(StoreRefusedError);
  }
});

test("keys that are empty, too long or not ASCII are refused", async () => {
  const store = new MemoryKvStore({ clock: new VirtualTime().clock });
  for (const key of ["", "x".repeat(1_025), "clé"]) {
    await expect(put(store, key)).rejects.toThrow(StoreRefusedError);
    await expect(store.get(key)).rejects.toThrow(StoreRefusedError);
  }
});

test("a range is cut at its bytes", async () => {
  const store = new MemoryKvStore({ clock: new VirtualTime().clock, pageBytesMax: 130 });
  for (const key of ["a", "b", "c"]) await put(store, key, Buffer.alloc(60));
  const first = await store.page({ from: "a", to: "z", limit: 10, bytesMax: 1024 * 1024 });
  expect(first.pairs.map((pair) => pair.key)).toEqual(["a", "b"]);
  expect(first.more).toBe(true);
  const second = await store.page({ from: "b\0", to: "z", limit: 10, bytesMax: 1024 * 1024 });
  expect(second.pairs.map((pair) => pair.key)).toEqual(["c"]);
  expect(second.more).toBe(false);
});

test("a watch that the history has outrun is lost, and the memory stays bounded", async () => {
  const store = new MemoryKvStore({ clock: new VirtualTime().clock, historyBytesMax: 10_000 });
  await put(store, "a");
  let isReading = false;
  let proceed = () => {};
  const reading = (async () => {
    for await (const { events } of store.watch(
      { from: "a", to: "z", startRevision: 1n },
      new AbortController().signal,
    )) {
      if (events.length === 0) continue;
      isReading = true;
      await new Promise<void>((resolve) => {
        proceed = resolve;
      });
    }
  })();
  const ended = reading.then(
    () => undefined,
    (error: unknown) => error,
  );
  await waitFor(() => isReading, { what: "the consumer to be busy" });
  for (let index = 0; index < 100; index++) await put(store, "a", Buffer.alloc(1_000));
  proceed();
  expect(await within(ended, { what: "the watch to end" })).toBeInstanceOf(WatchLostError);
  const early = WatchRecorder.open(store, { from: "a", to: "z", startRevision: 2n });
  expect(await within(early.ended, { what: "the watch to end" })).toBeInstanceOf(CompactedError);
});

test("a quiet watch keeps up with a history that turns over", async () => {
  const store = new MemoryKvStore({ clock: new VirtualTime().clock, historyBytesMax: 10_000 });
  const watch = await WatchRecorder.start(store, { from: "b", to: "c", startRevision: 1n });
  for (let index = 0; index < 300; index++) await put(store, "a", Buffer.alloc(1_000));
  await put(store, "b");
  await watch.waitForEvents(1);
  expect(await watch.stop()).toBeUndefined();
});

test("a watch that lags behind a compaction learns of it", async () => {
  const store = new MemoryKvStore({ clock: new VirtualTime().clock });
  for (let index = 0; index < 3; index++) await put(store, "a");
  const iterator = store.watch({ from: "a", to: "z", startRevision: 1n }, new AbortController().signal);
  await iterator.next();
  store.compact(3n);
  await expect(iterator.next()).rejects.toThrow(CompactedError);
});
