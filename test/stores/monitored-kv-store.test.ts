import { beforeEach, expect, it } from "vitest";
import { type KvStore, StoreRefusedError, StoreUnreachableError } from "../../src/oplog/kv-store.js";
import { silentLogger } from "../../src/oplog/logger.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { MonitoredKvStore } from "../../src/stores/monitored-kv-store.js";
import { VirtualTime } from "../support/virtual-time.js";

let time: VirtualTime;
let inner: KvStore;
let changes: boolean[];
let store: MonitoredKvStore;
beforeEach(() => {
  time = new VirtualTime();
  inner = new MemoryKvStore({ clock: time.clock });
  changes = [];
  const observer = { operation() {}, reachable() {} };
  store = new MonitoredKvStore(inner, time.clock, silentLogger, observer, (isReachable) => changes.push(isReachable));
});

/** A call that fails after so long. */
async function failing(ms: number, error = new StoreUnreachableError("no answer")): Promise<void> {
  inner.get = async () => {
    time.passBusy(ms);
    throw error;
  };
  await store.get("a").catch(() => undefined);
}

it("counts an outage from when the first call that found no answer was made", async () => {
  await store.status();
  await time.pass(1000);
  await failing(400);
  expect(store.health).toMatchObject({ isReachable: false, unreachableMs: 400 });
  await time.pass(600);
  await failing(300);
  expect(store.health.unreachableMs).toBe(1300);
});

it("does not take the status that one member tells for an answer of the store", async () => {
  await store.status();
  await failing(100);
  await store.status();
  expect(store.health.isReachable).toBe(false);
  await store.page({ from: "a", to: "b", limit: 1, bytesMax: 1 });
  expect(store.health.isReachable).toBe(true);
  expect(changes).toEqual([true, false, true]);
});

it("takes a refusal for an answer", async () => {
  await store.status();
  await failing(100);
  await failing(0, new StoreRefusedError("permission denied"));
  await store.status();
  expect(store.health.isReachable).toBe(true);
});
