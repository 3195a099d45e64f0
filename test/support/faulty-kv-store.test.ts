import { beforeEach, expect, test } from "vitest";
import { systemClock } from "../../src/oplog/clock.js";
import {
  CompactedError,
  StoreRefusedError,
  StoreUnreachableError,
  type TxnRequest,
  WatchLostError,
} from "../../src/oplog/kv-store.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { WatchRecorder } from "../stores/watch-recorder.js";
import { FaultyKvStore } from "./faulty-kv-store.js";
import { within } from "./wait.js";

let store: FaultyKvStore;
beforeEach(() => {
  store = new FaultyKvStore(new MemoryKvStore({ clock: systemClock }));
});

const putting = (key: string, value = "x"): TxnRequest => ({
  compares: [],
  writes: [{ kind: "put", key, value: Buffer.from(value) }],
});
const writes = (key: string) => (request: TxnRequest) =>
  request.writes.some((write) => write.kind === "put" && write.key === key);
const readValue = async (key: string) => (await store.get(key)).pair?.value.toString();

test("a failed transaction is not applied, and the one after it is", async () => {
  store.failNextTxns(1);
  await expect(store.txn(putting("a"))).rejects.toThrow(StoreUnreachableError);
  expect(await readValue("a")).toBeUndefined();
  expect((await store.txn(putting("a"))).succeeded).toBe(true);
});

test("a transaction whose reply is lost is applied", async () => {
  store.loseNextReplies(1);
  await expect(store.txn(putting("a"))).rejects.toThrow(StoreUnreachableError);
  expect(await readValue("a")).toBe("x");
});

test("a refused transaction is not applied", async () => {
  store.refuseNextTxns(1);
  await expect(store.txn(putting("a"))).rejects.toThrow(StoreRefusedError);
  expect(await readValue("a")).toBeUndefined();
});

test("faults are used up in the order they were set", async () => {
  store.passNextTxns(1);
  store.refuseNextTxns(1);
  store.failNextTxns(1);
  expect((await store.txn(putting("a"))).succeeded).toBe(true);
  await expect(store.txn(putting("b"))).rejects.toThrow(StoreRefusedError);
  await expect(store.txn(putting("c"))).rejects.toThrow(StoreUnreachableError);
});

test("a fault waits for the transaction that its filter picks", async () => {
  store.failNextTxns(1, writes("b"));
  expect((await store.txn(putting("a"))).succeeded).toBe(true);
  await expect(store.txn(putting("b"))).rejects.toThrow(StoreUnreachableError);
  expect((await store.txn(putting("b"))).succeeded).toBe(true);
});

test("a held transaction fails for its caller and is applied later, once", async () => {
  const held = store.holdNextTxn();
  await expect(store.txn(putting("a", "late"))).rejects.toThrow(StoreUnreachableError);
  expect(await readValue("a")).toBeUndefined();
  expect(await held.arrived).toMatchObject({ writes: [{ key: "a" }] });
  const result = await held.applyNow();
  expect(result.succeeded).toBe(true);
  expect(await readValue("a")).toBe("late");
  await store.txn(putting("a", "newer"));
  expect(await held.applyNow()).toBe(result);
  expect(await readValue("a")).toBe("newer");
});

test("a held transaction is compared when it is applied", async () => {
  const held = store.holdNextTxn();
  const create = { ...putting("a", "late"), compares: [{ key: "a", modRevision: 0n }] };
  await expect(store.txn(create)).rejects.toThrow(StoreUnreachableError);
  await store.txn(putting("a", "first"));
  expect((await held.applyNow()).succeeded).toBe(false);
  expect(await readValue("a")).toBe("first");
});

test("a hung transaction keeps its caller waiting until the deadline, and is not applied", async () => {
  const hung = store.hangNextTxn();
  const txn = store.txn(putting("a"));
  txn.catch(() => undefined);
  await hung.arrived;
  const waiting = Symbol("waiting");
  expect(await Promise.race([txn, Promise.resolve(waiting)])).toBe(waiting);
  hung.timeOut();
  await expect(txn).rejects.toThrow(StoreUnreachableError);
  expect(await readValue("a")).toBeUndefined();
});

test("a hung transaction can be answered", async () => {
  const hung = store.hangNextTxn();
  const txn = store.txn(putting("a"));
  await hung.answer();
  expect((await txn).succeeded).toBe(true);
  expect(await readValue("a")).toBe("x");
});

test("a store that is away serves nothing until it comes back", async () => {
  const watch = await WatchRecorder.start(store, { from: "a", to: "z", startRevision: 1n });
  store.goAway();
  expect(await within(watch.ended, { what: "the watch to end" })).toBeInstanceOf(WatchLostError);
  const calls = [
    () => store.get("a"),
    () => store.page({ from: "a", to: "z", limit: 1, bytesMax: 1024 * 1024 }),
    () => store.txn(putting("a")),
    () => store.grantLease(1_000),
    () => store.keepLeaseAlive(1n),
    () => store.leaseTimeLeft(1n),
    () => store.revokeLease(1n),
    () => store.status(),
  ];
  for (const call of calls) await expect(call()).rejects.toThrow(StoreUnreachableError);
  const late = WatchRecorder.open(store, { from: "a", to: "z", startRevision: 1n });
  expect(await within(late.ended, { what: "the watch to end" })).toBeInstanceOf(WatchLostError);
  store.comeBack();
  expect((await store.txn(putting("a"))).succeeded).toBe(true);
});

test("reads and leases can fail alone", async () => {
  store.failReads();
  store.failLeases();
  await expect(store.get("a")).rejects.toThrow(StoreUnreachableError);
  await expect(store.page({ from: "a", to: "z", limit: 1, bytesMax: 1024 * 1024 })).rejects.toThrow(
    StoreUnreachableError,
  );
  await expect(store.grantLease(1_000)).rejects.toThrow(StoreUnreachableError);
  expect((await store.txn(putting("a"))).succeeded).toBe(true);
  store.failReads(false);
  store.failLeases(false);
  expect(await readValue("a")).toBe("x");
  expect((await store.grantLease(1_000)).ttlMs).toBe(1_000);
});

test("broken and compacted watches say so, and new ones can be opened", async () => {
  const start = () => WatchRecorder.start(store, { from: "a", to: "z", startRevision: 1n });
  const broken = await start();
  store.breakWatches();
  expect(await within(broken.ended, { what: "the watch to end" })).toBeInstanceOf(WatchLostError);
  const compacted = await start();
  store.compactUnderWatches();
  expect(await within(compacted.ended, { what: "the watch to end" })).toBeInstanceOf(CompactedError);
  const healthy = await start();
  await store.txn(putting("a"));
  await healthy.waitForEvents(1);
  expect(await healthy.stop()).toBeUndefined();
});

test("dropped watch events leave no sign", async () => {
  const watch = await WatchRecorder.start(store, { from: "a", to: "z", startRevision: 1n });
  await store.txn(putting("a"));
  await watch.waitForEvents(1);
  store.dropWatchEvents();
  await store.txn(putting("b"));
  await new Promise(setImmediate);
  store.dropWatchEvents(false);
  await store.txn(putting("c"));
  const events = await watch.waitForEvents(2);
  expect(events.map((event) => (event.kind === "put" ? event.pair.key : event.key))).toEqual(["a", "c"]);
  expect(await watch.stop()).toBeUndefined();
});

test("calls are counted, whatever became of them", async () => {
  store.failNextTxns(1);
  await expect(store.txn(putting("a"))).rejects.toThrow(StoreUnreachableError);
  await store.txn(putting("a"));
  await store.get("a");
  await store.grantLease(1_000);
  expect(store.calls).toEqual({ txns: 2, reads: 1, leases: 1, watches: 0 });
});
