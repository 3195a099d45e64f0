import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { expect, it } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import type { Oplogd } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";
import { aCandidateAt, type CampaignCall } from "./campaign-call.js";
import { aClientOf, anEtcd, anOplogd, atEnd, failureOf } from "./stage.js";

const LOG = "objects";
/** Eviction looks once a second. */
const DEFAULT_MS = 3_000;
const SHORT_MS = 500n;
const LONG_MS = 3_600_000n;
const SLACK_MS = 6_000;

interface Side {
  readonly oplogd: Oplogd;
  readonly client: OplogClient;
}

/** What was removed, as a subscriber of the standby sees it, with when the entry was stamped. */
type Removals = Map<string, number>;

it("objects whose leases have run out go by REMOVE entries that a standby sees; renewed ones stay", {
  timeout: 60_000,
}, async () => {
  const { leading, standby, removals, leader } = await start();
  const { term } = await leader.hears("leading");
  await putAll(leading, { short: SHORT_MS, default: 0n, renewed: SHORT_MS + 1_500n, long: LONG_MS });
  const { entry } = await leading.client.getEntry({ log: LOG, key: "default" });
  const putMs = Number(entry!.timestampMs);
  expect(Number(entry!.leaseUntilMs)).toBe(putMs + DEFAULT_MS);

  const renewal = { log: LOG, keys: ["renewed", "absent"], lease: durationFromMs(Number(LONG_MS)), term };
  expect((await leading.client.renewObjectLeases(renewal)).missingKeys).toEqual(["absent"]);
  expect(await failureOf(standby.client.renewObjectLeases({ ...renewal, term: undefined as never }))).toMatchObject({
    code: "FAILED_PRECONDITION",
    reason: "NOT_PRIMARY",
    metadata: { primary: "first", endpoint: leading.oplogd.target },
  });
  expect(await failureOf(leading.client.renewObjectLeases({ ...renewal, term: term + 1n }))).toMatchObject({
    code: "FAILED_PRECONDITION",
    reason: "STALE_TERM",
    metadata: { yours: String(term + 1n), current: String(term) },
  });

  await waitFor(() => removals.has("default"), { deadlineMs: DEFAULT_MS + SLACK_MS, what: "the default lease to end" });
  expect(removals.get("default")!).toBeGreaterThanOrEqual(putMs + DEFAULT_MS);
  expect(removals.get("short")!).toBeGreaterThanOrEqual(putMs + Number(SHORT_MS));
  expect([...removals.keys()].sort()).toEqual(["default", "short"]);
  expect((await standby.client.getEntry({ log: LOG, key: "renewed" })).entry).toBeDefined();
});

it("after a promotion an object without a valid lease of its own gets the default one anew", {
  timeout: 60_000,
}, async () => {
  const { leading, standby, removals, leader } = await start();
  await leader.hears("leading");
  await putAll(leading, { long: LONG_MS, default: 0n });
  const { entry } = await leading.client.getEntry({ log: LOG, key: "default" });
  const next = aCandidateAt(standby.oplogd, { log: LOG, id: "second" });
  await next.hears("waiting");
  await leading.oplogd.kill("SIGTERM");
  expect(leading.oplogd.exitCode).toBe(0);
  expect(await leader.lost()).toBe("RESIGNED");
  const promotedMs = Date.now();
  await next.hears("leading");
  const anew = await standby.client.getEntry({ log: LOG, key: "default" });
  expect(anew.entry!.leaseUntilMs).toBeGreaterThanOrEqual(entry!.leaseUntilMs);
  await waitFor(() => removals.has("default"), { deadlineMs: DEFAULT_MS + SLACK_MS, what: "the default lease to end" });
  expect(removals.get("default")!).toBeGreaterThanOrEqual(promotedMs + DEFAULT_MS - 1_000);
  expect([...removals.keys()]).toEqual(["default"]);
});

it("an object that is put again while it is being evicted survives", { timeout: 60_000 }, async () => {
  const { leading, removals, leader } = await start();
  await leader.hears("leading");
  const keys = Array.from({ length: 50 }, (_, index) => `again ${index}`);
  const expiring = Object.fromEntries(keys.map((key) => [key, 1n]));
  // Every put is followed by one with a long lease as soon as any REMOVE has been seen.
  for (let round = 0; round < 3; round++) {
    const before = removals.size;
    await putAll(leading, expiring);
    await waitFor(() => removals.size > before, { deadlineMs: SLACK_MS, what: "an eviction" });
    removals.clear();
    await putAll(leading, Object.fromEntries(keys.map((key) => [key, LONG_MS])));
    for (const key of keys) {
      expect((await leading.client.getEntry({ log: LOG, key })).entry, key).toBeDefined();
    }
  }
});

async function start(): Promise<{ leading: Side; standby: Side; removals: Removals; leader: CampaignCall }> {
  const etcd = await anEtcd();
  const args = ["--views", LOG, "--object-lease-default", `${DEFAULT_MS}ms`];
  const aSide = async (): Promise<Side> => {
    const oplogd = await anOplogd({ store: { etcd: etcd.endpoint }, args });
    return { oplogd, client: aClientOf(oplogd) };
  };
  const [leading, standby] = [await aSide(), await aSide()];
  const leader = aCandidateAt(leading.oplogd, { log: LOG, id: "first" });
  await leader.hears("leading");
  return { leading, standby, removals: removalsSeenBy(standby), leader };
}

function removalsSeenBy({ client }: Side): Removals {
  const removals: Removals = new Map();
  const over = new AbortController();
  const following = (async () => {
    const start = { case: "fromBeginning" as const, value: true };
    for await (const event of client.follow({ log: LOG, start }, { signal: over.signal })) {
      if (event.case !== "batch") continue;
      for (const { opType, key, timestampMs } of event.value.entries) {
        if (opType === OpType.REMOVE) removals.set(key, Number(timestampMs));
      }
    }
  })();
  atEnd(() => {
    over.abort();
    return following.catch(() => undefined);
  });
  return removals;
}

function putAll({ client }: Side, leases: Readonly<Record<string, bigint>>) {
  const entries = Object.entries(leases).map(([key, leaseMs]) => ({
    opType: OpType.PUT_END,
    key,
    payload: Buffer.from(key),
    leaseMs,
  }));
  return client.append({ log: LOG, entries });
}
