import { randomBytes } from "node:crypto";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, expect, it } from "vitest";
import { systemClock } from "../../src/oplog/clock.js";
import { storeAnchorKey } from "../../src/oplog/keys.js";
import { StoreReplacedError } from "../../src/oplog/kv-store.js";
import { silentLogger } from "../../src/oplog/logger.js";
import { AnchoredKvStore } from "../../src/stored/anchored-kv-store.js";
import { EtcdKvStore } from "../../src/stores/etcd/etcd-kv-store.js";
import { type EtcdServer, etcdBinaries, startEtcd } from "../support/etcd.js";
import { makeTempDir } from "../support/temp-dir.js";
import { waitFor } from "../support/wait.js";
import { put, write } from "./contract-kit.js";

const binary = (await etcdBinaries()).find(({ version }) => version.startsWith("3.4"))!;
const KEY = storeAnchorKey("/oplog");

const releases: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const release of releases.splice(0).toReversed()) await release();
});

async function anEtcd(): Promise<EtcdServer> {
  const etcd = await startEtcd({ binary });
  releases.push(() => etcd.stop());
  return etcd;
}

/** The store of one sidecar. */
function aStore(...servers: EtcdServer[]): AnchoredKvStore {
  const store = new AnchoredKvStore({
    open: () => new EtcdKvStore({ endpoints: servers.map(({ endpoint }) => endpoint), requestTimeoutMs: 1000 }),
    key: KEY,
    sidecarId: "a",
    clock: systemClock,
    logger: silentLogger,
  });
  releases.push(() => store.close());
  return store;
}

async function aBackup(etcd: EtcdServer): Promise<string> {
  const { path } = await makeTempDir("etcd-backup");
  releases.push(() => rm(path, { recursive: true, force: true }));
  const file = join(path, randomBytes(4).toString("hex"));
  await etcd.saveSnapshot(file);
  return file;
}

/** What reading comes to: through all failures of a restart, until the store answers or is refused. */
async function verdictOf(store: AnchoredKvStore): Promise<string> {
  let verdict = "";
  const judge = async () => {
    const answer = await store.status().then(
      () => "used",
      (error: unknown) => (error instanceof StoreReplacedError ? error.message : ""),
    );
    verdict = answer;
    return answer !== "";
  };
  await waitFor(judge, { deadlineMs: 20_000, what: "the store to be used or refused" });
  return verdict;
}

/** Refused also where the first answers leave it open. */
async function refusalOf(store: AnchoredKvStore): Promise<string> {
  const refusal = async () => {
    const verdict = await verdictOf(store);
    return verdict === "used" ? undefined : verdict;
  };
  const verdict = (await waitFor(refusal, { what: "the store to be refused" })) ?? "";
  await expect(store.get("/oplog/a")).rejects.toThrow(StoreReplacedError);
  await expect(store.txn({ compares: [], writes: [put("/oplog/a")] })).rejects.toThrow(StoreReplacedError);
  return verdict;
}

it("is used as long as the same cluster answers, through restarts", async () => {
  const etcd = await anEtcd();
  const store = aStore(etcd);
  await write(store, put("/oplog/a", "1"));
  await etcd.restart();
  expect(await verdictOf(store)).toBe("used");
  expect((await aStore(etcd).get("/oplog/a")).pair?.value.toString()).toBe("1");
});

it.each([
  ["of the same id", "etcd-cluster", [], /older data: .* went back from \d+ to \d+/],
  ["of another id", "restored", [], /belongs to cluster|were written in store/],
])("restored from a backup as a cluster %s under a running sidecar is refused", async (_, token, args, problem) => {
  const etcd = await anEtcd();
  const store = aStore(etcd);
  await write(store, put("/oplog/a", "1"));
  const backup = await aBackup(etcd);
  for (let each = 0; each < 20; each++) await write(store, put("/oplog/a", "2"));
  await etcd.restoreSnapshot(backup, { token, args });
  expect(await refusalOf(store)).toMatch(problem);
});

it("restored as a cluster of another id while no sidecar ran is refused until it is adopted", async () => {
  const etcd = await anEtcd();
  await write(aStore(etcd), put("/oplog/a", "1"));
  await etcd.restoreSnapshot(await aBackup(etcd), { token: "restored" });
  const store = aStore(etcd);
  expect(await refusalOf(store)).toMatch(/were written in store [0-9a-f]+, and the one that answers is [0-9a-f]+/);
  await store.adopt();
  expect((await store.get("/oplog/a")).pair?.value.toString()).toBe("1");
  expect(await verdictOf(aStore(etcd))).toBe("used");
});

it("that was adopted at one sidecar is taken by another one that knew it before", async () => {
  const etcd = await anEtcd();
  const [store, other] = [aStore(etcd), aStore(etcd)];
  let adoptions = 0;
  other.onAdopted = () => adoptions++;
  await write(store, put("/oplog/a", "1"));
  await other.get("/oplog/a");
  const backup = await aBackup(etcd);
  for (let each = 0; each < 20; each++) await write(other, put("/oplog/a", "2"));
  await etcd.restoreSnapshot(backup);
  await refusalOf(other);
  await store.adopt();
  expect(await verdictOf(other)).toBe("used");
  expect(adoptions).toBe(1);
  expect((await other.get("/oplog/a")).pair?.value.toString()).toBe("1");
});

it("emptied under a running sidecar is refused", async () => {
  const etcd = await anEtcd();
  const store = aStore(etcd);
  for (let each = 0; each < 20; each++) await write(store, put("/oplog/a", "2"));
  await etcd.wipe();
  expect(await refusalOf(store)).toMatch(
    /^the store is empty.* \(the data of etcd .* went back from \d+ to 1\).*oplogctl adopt/,
  );
});

it("emptied is refused also when others have written more there since than there was", async () => {
  const etcd = await anEtcd();
  const store = aStore(etcd);
  await write(store, put("/oplog/a", "1"));
  await etcd.wipe();
  const plain = new EtcdKvStore({ endpoints: [etcd.endpoint] });
  releases.push(() => plain.close());
  for (let each = 0; each < 30; each++) await write(plain, put(`/x/${each}`, ""));
  expect(await refusalOf(store)).toMatch(/^the store is empty, or another one: it holds none of the logs/);
});

it("whose keys were deleted, or that was begun anew by others, is refused until it is adopted", async () => {
  const etcd = await anEtcd();
  const store = aStore(etcd);
  await write(store, put("/oplog/a", "1"));
  const plain = new EtcdKvStore({ endpoints: [etcd.endpoint] });
  releases.push(() => plain.close());
  await plain.txn({ compares: [], writes: [{ kind: "delete-range", from: "/", to: "0" }] });
  expect(await refusalOf(store)).toMatch(/it holds none of the logs/);
  await aStore(etcd).get("/oplog/a");
  expect(await refusalOf(store)).toMatch(/it holds none of the logs|begun anew/);
  await store.adopt();
  expect(await verdictOf(store)).toBe("used");
});

it("put back to before it was adopted, with keys alone, is refused as older data", async () => {
  const etcd = await anEtcd();
  const store = aStore(etcd);
  await write(store, put("/oplog/a", "1"));
  const { pair } = await store.get(KEY);
  await store.adopt();
  const plain = new EtcdKvStore({ endpoints: [etcd.endpoint] });
  releases.push(() => plain.close());
  await write(plain, { kind: "put", key: KEY, value: pair!.value });
  expect(await refusalOf(store)).toMatch(/before it was adopted/);
});

it("is not changed for another cluster of the same list, and used again when it is back", async () => {
  const [etcd, stranger] = [await anEtcd(), await anEtcd()];
  const store = aStore(etcd, stranger);
  await write(store, put("/oplog/a", "1"));
  await etcd.kill();
  expect(await refusalOf(store)).toMatch(/is empty, or another one/);
  await etcd.start();
  await etcd.healthy();
  expect(await verdictOf(store)).toBe("used");
  const { pairs } = await new EtcdKvStore({ endpoints: [stranger.endpoint] }).page({
    from: "/",
    to: "0",
    limit: 10,
    bytesMax: 1000,
  });
  expect(pairs).toEqual([]);
});
