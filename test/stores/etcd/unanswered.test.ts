import { afterEach, expect, test } from "vitest";
import { StoreUnreachableError, WatchLostError } from "../../../src/oplog/kv-store.js";
import { EtcdKvStore } from "../../../src/stores/etcd/etcd-kv-store.js";
import type { EtcdLogger } from "../../../src/stores/etcd/options.js";
import { type EtcdServer, etcdBinaries, startEtcd, startEtcdCluster } from "../../support/etcd.js";
import { type FaultProxy, startFaultProxy } from "../../support/fault-proxy.js";
import { waitFor, within } from "../../support/wait.js";
import { put } from "../contract-kit.js";
import { WatchRecorder } from "../watch-recorder.js";

/** What every call below may take; none is to need it. */
const requestTimeoutMs = 20_000;
/** Asked after 250 ms, silent for 750 ms; and a slow machine. */
const NOTICED_MS_MAX = 3_000;
const ELECTION_MS = 500;

const binaries = await etcdBinaries();

const releases: (() => unknown)[] = [];
afterEach(async () => {
  for (const release of releases.splice(0).toReversed()) await release();
});

test("a write at a silent member is given up with its outcome unknown, and the next goes elsewhere", async () => {
  const { store, proxies } = await behindTwoProxies();
  await store.txn({ compares: [], writes: [put("/a", "1")] });
  proxies[0].blackHole(true);
  const refused = store.txn({ compares: [], writes: [put("/a", "2")] });
  await expect(within(refused, { deadlineMs: NOTICED_MS_MAX, what: "the write to end" })).rejects.toThrow(
    /no answer: the member is silent/,
  );
  await store.txn({ compares: [], writes: [put("/a", "3")] });
  expect((await store.get("/a")).pair?.value.toString()).toBe("3");
});

test("a read at a silent member is answered by another", async () => {
  const { store, proxies } = await behindTwoProxies();
  await store.get("/a");
  proxies[0].blackHole(true);
  await within(store.get("/a"), { deadlineMs: NOTICED_MS_MAX, what: "the read to be answered" });
});

test("a watch at a silent member is lost as soon as a call finds out", async () => {
  const { store, proxies } = await behindTwoProxies();
  const { revision } = await store.get("/a");
  const watch = await WatchRecorder.start(store, { from: "/", to: "0", startRevision: revision + 1n });
  proxies[0].blackHole(true);
  await store.get("/a");
  expect(await within(watch.ended, { deadlineMs: 1_000, what: "the watch to end" })).toBeInstanceOf(WatchLostError);
});

test("a keepalive at a silent member is given up, and the next goes elsewhere", async () => {
  const { store, proxies } = await behindTwoProxies();
  const { leaseId } = await store.grantLease(60_000);
  await store.keepLeaseAlive(leaseId);
  proxies[0].blackHole(true);
  const refused = store.keepLeaseAlive(leaseId);
  await expect(within(refused, { deadlineMs: NOTICED_MS_MAX, what: "the keepalive to end" })).rejects.toThrow(
    /gave no answer: the member is silent/,
  );
  await within(store.keepLeaseAlive(leaseId), { deadlineMs: NOTICED_MS_MAX, what: "the lease to be kept" });
});

test("a keepalive that is late is waited for, and the next goes elsewhere", async () => {
  const left: object[] = [];
  const { store, proxies } = await behindTwoProxies({ info: () => undefined, warn: (fields) => left.push(fields) });
  const { leaseId } = await store.grantLease(60_000);
  await store.keepLeaseAlive(leaseId);
  proxies[0].delay(300);
  await store.keepLeaseAlive(leaseId, { deadlineMs: 1_200 });
  expect(left).toMatchObject([{ because: "no answer: a keepalive is late", next: proxies[1].endpoint }]);
  const passed = proxies[1].stats.toServerBytes;
  await store.keepLeaseAlive(leaseId);
  expect(proxies[1].stats.toServerBytes).toBeGreaterThan(passed);
});

test("a standstill of this process is not taken for silence of a member", async () => {
  const { store, proxies } = await behindTwoProxies();
  const { revision } = await store.get("/a");
  const watch = await WatchRecorder.start(store, { from: "/", to: "0", startRevision: revision + 1n });
  proxies[0].delay(200);
  const write = store.txn({ compares: [], writes: [put("/a", "1")] });
  const sentMs = performance.now();
  // Its member is asked by then, and the answer under way.
  await waitFor(() => performance.now() > sentMs + 300, { what: "the inquiry" });
  const stillUntilMs = performance.now() + 900;
  while (performance.now() < stillUntilMs);
  expect((await write).succeeded).toBe(true);
  await watch.waitForEvents(1);
});

test("a silent member is not gone back to while there is another", async () => {
  const left: { readonly next?: string }[] = [];
  const server = await aServer();
  const proxies = [await proxyTo(server), await proxyTo(server), await proxyTo(server)] as const;
  const logger = { info: () => undefined, warn: (fields: object) => left.push(fields) };
  const store = opened(
    proxies.map(({ endpoint }) => endpoint),
    logger,
  );
  await Promise.all([store.get("/a"), store.grantLease(60_000)]);
  proxies[0].blackHole(true);
  await store.get("/a");
  await proxies[1].refuse(true);
  await store.get("/a");
  await proxies[1].refuse(false);
  await proxies[2].refuse(true);
  // It has connections of its own, of which that to the silent member stands, and is not sent to a second one.
  await store.grantLease(60_000);
  expect(left.map(({ next }) => next)).toEqual([1, 2, 1].map((index) => proxies[index]!.endpoint));
});

test("a member that is the only one is waited for", async () => {
  const server = await aServer();
  const store = opened([server.endpoint]);
  await store.get("/a");
  server.pause();
  const write = store.txn({ compares: [], writes: [put("/a", "1")] });
  const pausedMs = performance.now();
  await waitFor(() => performance.now() > pausedMs + 2_000, { what: "a pause longer than an inquiry" });
  server.resume();
  expect((await write).succeeded).toBe(true);
});

test.each(binaries)(
  "what a lost leader of etcd $version has taken along is given up once there is another",
  {
    timeout: 60_000,
  },
  async (binary) => {
    const args = ["--heartbeat-interval", "50", "--election-timeout", String(ELECTION_MS)];
    const members = await startEtcdCluster(binary, 3, args);
    releases.push(() => Promise.all(members.map((member) => member.stop())));
    const leader = await leaderOf(members);
    const [first, last] = members.filter((member) => member !== leader);
    const left: object[] = [];
    const logger = { info: () => undefined, warn: (fields: object) => left.push(fields) };
    const store = opened(
      [first!, leader, last!].map(({ endpoint }) => endpoint),
      logger,
    );
    const write = (value: string) => store.txn({ compares: [], writes: [put("/a", value)] });
    await write("1");
    const { leaseId } = await store.grantLease(60_000);
    await store.keepLeaseAlive(leaseId);

    leader.pause();
    const wait = { deadlineMs: 2 * ELECTION_MS + NOTICED_MS_MAX, what: "the calls to end" };
    const options = { deadlineMs: requestTimeoutMs };
    const ends = await within(Promise.allSettled([write("2"), store.keepLeaseAlive(leaseId, options)]), wait);
    for (const end of ends) {
      expect(end).toMatchObject({ status: "rejected", reason: expect.any(StoreUnreachableError) });
      expect(end).toMatchObject({ reason: { message: expect.stringMatching(/no answer: leader changed$/) } });
    }
    await within(Promise.all([write("3"), store.keepLeaseAlive(leaseId)]), wait);
    // Which may have been for the very member that stands still.
    expect(left).toEqual([]);
  },
);

async function behindTwoProxies(logger?: EtcdLogger) {
  const server = await aServer();
  const proxies: readonly [FaultProxy, FaultProxy] = [await proxyTo(server), await proxyTo(server)];
  const endpoints = proxies.map(({ endpoint }) => endpoint);
  return { proxies, store: opened(endpoints, logger) };
}

async function aServer(): Promise<EtcdServer> {
  const server = await startEtcd({ binary: binaries[0]! });
  releases.push(() => server.stop());
  return server;
}

async function proxyTo(server: EtcdServer): Promise<FaultProxy> {
  const proxy = await startFaultProxy(server.port);
  releases.push(() => proxy.close());
  return proxy;
}

function opened(endpoints: readonly string[], logger?: EtcdLogger): EtcdKvStore {
  const store = new EtcdKvStore({ endpoints, requestTimeoutMs, ...(logger && { logger }) });
  releases.push(() => store.close());
  return store;
}

async function leaderOf(members: readonly EtcdServer[]): Promise<EtcdServer> {
  const claims = await Promise.all(members.map((member) => member.leads()));
  return members[claims.indexOf(true)]!;
}
