import { afterEach, beforeEach, expect, test } from "vitest";
import { StoreRefusedError } from "../../../src/oplog/kv-store.js";
import { EtcdKvStore } from "../../../src/stores/etcd/etcd-kv-store.js";
import { FakeEtcd } from "./fake-etcd.js";

let etcd: FakeEtcd;
let store: EtcdKvStore;
beforeEach(async () => {
  etcd = await FakeEtcd.start("3.5.1");
  store = new EtcdKvStore({ endpoints: [etcd.endpoint] });
});
afterEach(async () => {
  await store.close();
  etcd.stop();
});

test("every call to a version that corrupts data is refused with the reason", async () => {
  const watch = store.watch({ from: "/a", to: "/b", startRevision: 1n }, new AbortController().signal);
  const calls = [
    () => store.get("/a"),
    () => store.page({ from: "/a", to: "/b", limit: 1, bytesMax: 1024 * 1024 }),
    () => store.txn({ compares: [], writes: [] }),
    () => store.grantLease(1_000),
    () => store.keepLeaseAlive(1n),
    () => store.leaseTimeLeft(1n),
    () => store.revokeLease(1n),
    () => store.status(),
    () => watch[Symbol.asyncIterator]().next(),
  ];
  for (const call of calls) {
    const refusal = await call().catch((error: unknown) => error);
    expect(refusal).toBeInstanceOf(StoreRefusedError);
    expect(String(refusal)).toMatch(/3\.5\.1.*different data.*Upgrade/);
  }
  expect(etcd.calls.range).toBe(0);
});

test("an upgrade is noticed by the next call, and then the version is not asked for again", async () => {
  await expect(store.get("/a")).rejects.toThrow(StoreRefusedError);
  etcd.version = "3.5.33";
  const { status } = etcd.calls;
  for (let call = 0; call < 5; call++) expect((await store.get("/a")).revision).toBe(7n);
  expect(etcd.calls).toEqual({ status: status + 1, range: 5 });
});

test("status judges the version anew", async () => {
  etcd.version = "3.6.16";
  expect(await store.status()).toEqual({ version: "3.6.16", sizeBytes: 0 });
  await store.get("/a");
  etcd.version = "3.5.0";
  await expect(store.status()).rejects.toThrow(StoreRefusedError);
  await expect(store.get("/a")).rejects.toThrow(StoreRefusedError);
});

test("every call demands a member that has a leader", async () => {
  etcd.version = "3.6.16";
  await store.get("/a");
  await store.status();
  const { status, range } = etcd.calls;
  expect(etcd.leadersAskedFor).toEqual(Array.from({ length: status + range }, () => "true"));
});
