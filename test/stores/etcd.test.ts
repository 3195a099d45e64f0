import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { promisify } from "node:util";
import { afterEach, describe, expect, test } from "vitest";
import {
  type KvStore,
  StoreRefusedError,
  StoreUnreachableError,
  type WatchEvent,
  WatchLostError,
} from "../../src/oplog/kv-store.js";
import { EtcdKvStore } from "../../src/stores/etcd/etcd-kv-store.js";
import type { EtcdOptions } from "../../src/stores/etcd/options.js";
import { type EtcdBinary, type EtcdServer, etcdBinaries, startEtcd, startEtcdCluster } from "../support/etcd.js";
import { type FaultProxy, startFaultProxy } from "../support/fault-proxy.js";
import { waitFor, within } from "../support/wait.js";
import { kvStoreContract } from "./contract.js";
import { endOf, put, uniqueRoot, write } from "./contract-kit.js";
import { describeEvent, WatchRecorder } from "./watch-recorder.js";

const MIB = 1024 * 1024;
const binaries = await etcdBinaries();

/** Released after each test, the last one first. */
const releases: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const release of releases.splice(0).toReversed()) await release();
});

for (const binary of binaries) {
  kvStoreContract(`etcd ${binary.version}`, async () => {
    const server = await startEtcd({ binary });
    const opened: EtcdKvStore[] = [];
    const open = () => {
      const store = new EtcdKvStore({ endpoints: [server.endpoint] });
      opened.push(store);
      return store;
    };
    return {
      store: open(),
      reopen: async () => {
        await opened[0]!.close();
        await server.restart();
        return open();
      },
      compact: (revision) => server.compact(revision),
      cleanup: async () => {
        await Promise.all(opened.map((store) => store.close()));
        await server.stop();
      },
    };
  });

  describe(`etcd ${binary.version} behind a bad link`, () => badLink(binary));
  describe(`etcd ${binary.version} itself`, () => serverFacts(binary));
  describe(`etcd ${binary.version} with TLS`, () => tlsFacts(binary));
}

describe(`clusters of etcd ${binaries[0]!.version}`, () => clusterFacts(binaries[0]!));

function badLink(binary: EtcdBinary): void {
  test("is unreachable while it refuses connections, and used once it does not", async () => {
    const { proxy, store } = await proxied(binary);
    await proxy.refuse(true);
    await expect(store.get("/a")).rejects.toThrow(/ECONNREFUSED/);
    await expect(store.txn({ compares: [], writes: [put("/a")] })).rejects.toThrow(StoreUnreachableError);
    await proxy.refuse(false);
    await waitFor(() => store.get("/a").catch(ignoreUnreachable), { what: "the store to be reached" });
  });

  test("a call that is not answered rejects at its deadline", async () => {
    const { proxy, store } = await proxied(binary);
    await store.get("/a");
    proxy.blackHole(true);
    const startedAt = performance.now();
    await expect(store.get("/a", { deadlineMs: 300 })).rejects.toThrow(StoreUnreachableError);
    await expect(store.keepLeaseAlive(1n, { deadlineMs: 300 })).rejects.toThrow(StoreUnreachableError);
    expect(performance.now() - startedAt).toBeLessThan(3_000);
    proxy.blackHole(false);
    await waitFor(() => store.get("/a").catch(ignoreUnreachable), { what: "the store to be reached" });
  });

  test("a slow link makes calls slow, not wrong", async () => {
    const { proxy, store } = await proxied(binary);
    const revision = await write(store, put("/a", "1"));
    proxy.delay(50);
    const startedAt = performance.now();
    expect((await store.get("/a")).pair?.modRevision).toBe(revision);
    expect(performance.now() - startedAt).toBeGreaterThan(95);
  });

  test("a write whose reply is lost is of unknown outcome, and was applied once", async () => {
    const { server, proxy, store } = await proxied(binary);
    const direct = opened({ endpoints: [server.endpoint] });
    const before = await write(store, put("/a", "0"));
    proxy.swallowReplies(true);
    const outcome = store.txn({ compares: [], writes: [put("/a", "1")] }).catch((error: unknown) => error);
    await waitFor(async () => (await direct.get("/a")).pair?.value.toString() === "1", { what: "the write" });
    proxy.swallowReplies(false);
    expect(await outcome).toBeInstanceOf(StoreUnreachableError);
    expect((await direct.get("/a")).pair?.modRevision).toBe(before + 1n);
  });

  test("a link that is cut every 50 ms loses and doubles nothing for a reader that resumes", async () => {
    const { server, proxy, store } = await proxied(binary);
    const direct = opened({ endpoints: [server.endpoint] });
    const root = uniqueRoot();
    const count = 2_000;
    const first = await write(direct, put(`${root}0`));
    const seen: string[] = [];
    const watches = { started: 0 };
    const abort = new AbortController();
    const reading = resumingReader(store, root, first, seen, watches, abort.signal);
    proxy.cutEvery(50);
    for (let index = 1; index < count; index++) await write(direct, put(root + index));
    await waitFor(() => seen.length >= count, { deadlineMs: 20_000, what: "all events" });
    abort.abort();
    await within(reading, { what: "the reader to end" });
    expect(seen).toEqual(Array.from({ length: count }, (_, index) => `put ${index}=`));
    expect(watches.started).toBeGreaterThan(3);
  });

  test("a watch on a link that is cut is lost, and the store serves on", async () => {
    const { proxy, store } = await proxied(binary);
    const watch = await watchAll(store);
    proxy.cutAll();
    expect(await within(watch.ended, { what: "the watch to end" })).toBeInstanceOf(WatchLostError);
    await waitFor(() => store.get("/a").catch(ignoreUnreachable), { what: "the store to be reached" });
  });
}

function serverFacts(binary: EtcdBinary): void {
  test("a restart ends the watch and keeps the data", async () => {
    const { server, store } = await alone(binary);
    const revision = await write(store, put("/a", "kept"));
    const watch = await watchAll(store);
    await server.restart();
    expect(await within(watch.ended, { what: "the watch to end" })).toBeInstanceOf(WatchLostError);
    const { pair } = (await waitFor(() => store.get("/a").catch(ignoreUnreachable), { what: "the store" }))!;
    expect(pair?.modRevision).toBe(revision);
  });

  test("history beyond 4 MiB arrives whole, the events of a revision together", async () => {
    const { store } = await alone(binary);
    const value = randomBytes(10_000);
    const writes = Array.from({ length: 100 }, (_, index) => put(`/a/${index}`, value));
    const revisions: bigint[] = [];
    for (let round = 0; round < 12; round++) revisions.push(await write(store, ...writes));
    const watch = await WatchRecorder.start(store, { from: "/a/", to: "/a0", startRevision: revisions[0]! });
    await watch.waitForEvents(1_200);
    expect(watch.changes.map((batch) => [batch.revision, batch.events.length])).toEqual(
      revisions.map((revision) => [revision, 100]),
    );
    await watch.stop();
  });

  test("a range beyond what one message may hold comes in smaller pages", { timeout: 60_000 }, async () => {
    const { store } = await alone(binary);
    const value = randomBytes(MIB);
    const keys = Array.from({ length: 70 }, (_, index) => `/a/${String(index).padStart(2, "0")}`);
    for (const key of keys) await write(store, put(key, value));
    const { pairs, more } = await store.page({ from: "/a/", to: "/a0", limit: 10_000, bytesMax: 1024 * 1024 });
    expect(pairs.map((pair) => pair.key)).toEqual(keys.slice(0, pairs.length));
    expect({ some: pairs.length > 0, more }).toEqual({ some: true, more: true });
  });

  test("ending one watch leaves the other and the lease alone", async () => {
    const { store } = await alone(binary);
    const [one, other] = [await watchAll(store), await watchAll(store)];
    const { leaseId } = await store.grantLease(60_000);
    const pending = store.keepLeaseAlive(leaseId);
    await one.stop();
    await pending;
    await write(store, put("/a", "1"));
    await other.waitForEvents(1);
    expect(await other.stop()).toBeUndefined();
  });

  test("writes, watches and leases have connections of their own", async () => {
    const { proxy, store } = await proxied(binary);
    await store.status();
    const { accepted } = proxy.stats;
    await store.get("/a");
    const watch = await watchAll(store);
    await store.grantLease(60_000);
    expect(proxy.stats.accepted).toBe(accepted + 3);
    await watch.stop();
  });

  test("a full database refuses writes and still reads and deletes", { timeout: 60_000 }, async () => {
    const { store } = await alone(binary, ["--quota-backend-bytes", String(16 * MIB)]);
    const fill = async () => {
      for (let index = 0; index < 64; index++) await write(store, put(`/a/${index}`, randomBytes(MIB)));
    };
    await expect(fill()).rejects.toThrow(StoreRefusedError);
    await expect(store.txn({ compares: [], writes: [put("/b")] })).rejects.toThrow(/defragment/);
    await expect(store.grantLease(10_000)).rejects.toThrow(StoreRefusedError);
    expect((await store.get("/a/0")).pair?.value.length).toBe(MIB);
    await write(store, { kind: "delete", key: "/a/0" });
    expect((await store.get("/a/0")).pair).toBeUndefined();
  });

  test("a wrong password is refused, and the right one outlives the member's memory of its tokens", async () => {
    const { server } = await alone(binary);
    await server.ask("/v3/auth/user/add", { name: "root", password: "secret" });
    await server.ask("/v3/auth/user/grant", { user: "root", role: "root" });
    await server.ask("/v3/auth/enable", {});
    const endpoints = [server.endpoint];
    await expect(opened({ endpoints }).get("/a")).rejects.toThrow(StoreRefusedError);
    await expect(
      opened({ endpoints, username: "root", password: { read: () => "wrong", version: 0 } }).get("/a"),
    ).rejects.toThrow(/password/);
    const store = opened({ endpoints, username: "root", password: { read: () => "secret", version: 0 } });
    await write(store, put("/a", "1"));
    await server.restart();
    await waitFor(() => store.get("/a").catch(ignoreUnreachable), { what: "the store to be reached" });
    await write(store, put("/a", "2"));
    const watch = await watchAll(store);
    await write(store, put("/a", "3"));
    await watch.waitForEvents(1);
    await watch.stop();
  });
}

function tlsFacts(binary: EtcdBinary): void {
  test("is used over TLS if it is who the given authority says, and else it is told why not", async () => {
    const server = await started({ binary, tls: true });
    const endpoints = [server.endpoint];
    const store = opened({ endpoints, tls: { ca: await server.certificate() } });
    await write(store, put("/a", "1"));
    const watch = await watchAll(store);
    await watch.stop();
    await expect(opened({ endpoints }).get("/a")).rejects.toThrow(/certificate/);
  });
}

function clusterFacts(binary: EtcdBinary): void {
  test("a silent link is noticed by a watch, though nothing is written", { timeout: 60_000 }, async () => {
    const { proxy, store } = await proxied(binary);
    const watch = await watchAll(store);
    proxy.blackHole(true);
    const end = await within(watch.ended, { deadlineMs: 20_000, what: "the watch to end" });
    expect(end).toBeInstanceOf(WatchLostError);
  });

  test("an endpoint that refuses or is silent is left for the next", async () => {
    const server = await started({ binary });
    const proxies = [await proxyTo(server), await proxyTo(server)] as const;
    const store = opened({ endpoints: proxies.map((proxy) => proxy.endpoint) });
    await proxies[0].refuse(true);
    await write(store, put("/a", "1"));
    expect(proxies[1].openLinks).toBeGreaterThan(0);
    await proxies[0].refuse(false);
    proxies[1].blackHole(true);
    expect((await store.get("/a")).pair?.value.toString()).toBe("1");
    await write(store, put("/a", "2"));
  });

  test("a write of unknown outcome is not sent to another endpoint", async () => {
    const server = await started({ binary });
    const proxies = [await proxyTo(server), await proxyTo(server)] as const;
    const store = opened({ endpoints: proxies.map((proxy) => proxy.endpoint) });
    const before = await write(store, put("/a", "0"));
    proxies[0].swallowReplies(true);
    await expect(store.txn({ compares: [], writes: [put("/a", "1")] }, { deadlineMs: 500 })).rejects.toThrow(
      StoreUnreachableError,
    );
    const { pair } = await store.get("/a");
    expect([pair?.value.toString(), pair?.modRevision]).toEqual(["1", before + 1n]);
  });

  test("a member without a leader ends its watches and answers nothing", { timeout: 60_000 }, async () => {
    const servers = await startEtcdCluster(binary, 3);
    releases.push(async () => {
      for (const server of servers) await server.stop();
    });
    const store = opened({ endpoints: [servers[0]!.endpoint] });
    const watch = await watchAll(store);
    await Promise.all([servers[1]!.kill(), servers[2]!.kill()]);
    const end = await within(watch.ended, { deadlineMs: 20_000, what: "the watch to end" });
    expect(String(end)).toMatch(/WatchLostError.*no leader/);
    await expect(store.status()).rejects.toThrow(StoreUnreachableError);
  });

  test("a member that is cut off is left for those that have a leader, for writes too", {
    timeout: 60_000,
  }, async () => {
    const servers = await startEtcdCluster(binary, 3);
    releases.push(async () => {
      for (const server of servers) await server.stop();
    });
    const store = opened({ endpoints: servers.map((server) => server.endpoint) });
    await write(store, put("/a", "1"));
    await servers[0]!.kill();
    const rewrite = () => write(store, put("/a", "2")).catch(ignoreUnreachable);
    await waitFor(rewrite, { deadlineMs: 20_000, what: "a write to succeed" });
  });

  test("after close the process can end", async () => {
    const { endpoint } = await started({ binary });
    const module = new URL("../../src/stores/etcd/etcd-kv-store.ts", import.meta.url).href;
    const script = `
      const { EtcdKvStore } = await import(${JSON.stringify(module)});
      const store = new EtcdKvStore({ endpoints: [${JSON.stringify(endpoint)}, "127.0.0.1:1"] });
      await store.grantLease(60_000);
      for await (const batch of store.watch({ from: "a", to: "b", startRevision: 1n }, new AbortController().signal)) break;
      await store.close();
      console.log("closed");`;
    const args = ["--import", "tsx", "--input-type=module", "--eval", script];
    const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 20_000 });
    expect(stdout.trim()).toBe("closed");
  });
}

function opened(options: EtcdOptions): EtcdKvStore {
  const store = new EtcdKvStore(options);
  releases.push(() => store.close());
  return store;
}

async function started(options: Parameters<typeof startEtcd>[0]): Promise<EtcdServer> {
  const server = await startEtcd(options);
  releases.push(() => server.stop());
  return server;
}

async function proxyTo(server: EtcdServer): Promise<FaultProxy> {
  const proxy = await startFaultProxy(server.port);
  releases.push(() => proxy.close());
  return proxy;
}

async function alone(binary: EtcdBinary, args: readonly string[] = []) {
  const server = await started({ binary, args });
  return { server, store: opened({ endpoints: [server.endpoint] }) };
}

async function proxied(binary: EtcdBinary) {
  const server = await started({ binary });
  const proxy = await proxyTo(server);
  return { server, proxy, store: opened({ endpoints: [proxy.endpoint] }) };
}

async function watchAll(store: KvStore): Promise<WatchRecorder> {
  const { revision } = await store.get("/a");
  return WatchRecorder.start(store, { from: "/", to: "0", startRevision: revision + 1n });
}

function ignoreUnreachable(error: unknown): undefined {
  if (!(error instanceof StoreUnreachableError)) throw error;
}

/** What a tail does: watches from the revision after the last event, again and again. */
async function resumingReader(
  store: KvStore,
  root: string,
  from: bigint,
  seen: string[],
  watches: { started: number },
  signal: AbortSignal,
): Promise<void> {
  let startRevision = from;
  while (!signal.aborted) {
    try {
      for await (const { revision, events } of store.watch({ from: root, to: endOf(root), startRevision }, signal)) {
        if (events.length === 0) watches.started += 1;
        seen.push(...events.map((event: WatchEvent) => describeEvent(event, root)));
        startRevision = revision + 1n;
      }
    } catch (error) {
      if (!(error instanceof WatchLostError)) throw error;
    }
  }
}
