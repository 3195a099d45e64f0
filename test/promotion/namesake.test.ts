import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { beforeEach, describe, expect, it } from "vitest";
import { CandidateEntrySchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import { CandidateExistsError } from "../../src/oplog/leadership-errors.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { inTime, keysOf, passTime, testClock, until, useFakeTime } from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";
import { type Entrant, Side, TTL_MS } from "./side.js";

useFakeTime();

const keys = keysOf();
let inner: MemoryKvStore;
let store: FaultyKvStore;
beforeEach(() => {
  inner = new MemoryKvStore({ clock: testClock });
  store = new FaultyKvStore(inner);
});

async function entryOf(id: string) {
  const { pair } = await inner.get(keys.candidate(id));
  return pair && { ...fromBinary(CandidateEntrySchema, pair.value), modRevision: pair.modRevision };
}

async function forgetEntryOf(id: string): Promise<void> {
  await inner.txn({ compares: [], writes: [{ kind: "delete", key: keys.candidate(id) }] });
}

async function isListed(id: string): Promise<void> {
  let isThere = false;
  await until(() => {
    void entryOf(id).then((entry) => {
      isThere = entry !== undefined;
    });
    return isThere;
  }, `"${id}" to be listed`);
}

/** Of a candidate that has died, whose lease runs on for so long. */
async function leaveEntry(id: string, endpoint: string, ttlMs: number): Promise<bigint> {
  const { leaseId } = await inner.grantLease(ttlMs);
  const value = toBinary(CandidateEntrySchema, create(CandidateEntrySchema, { id, endpoint, nonce: Buffer.alloc(16) }));
  await inner.txn({ compares: [], writes: [{ kind: "put", key: keys.candidate(id), value, leaseId }] });
  return leaseId;
}

const endOf = (...entrants: Entrant[]) => Promise.all(entrants.map((each) => each.resign()));

describe("a candidate that is elsewhere already", () => {
  async function withNamesake() {
    const here = new Side("a", inner);
    const leader = await here.leader("l");
    const first = await here.standby("w");
    const entry = await entryOf("w");
    const second = await new Side("b", store).standby("w");
    return { here, leader, first, entry, second };
  }

  it("keeps its entry when a namesake comes and goes, and can be handed over to", async () => {
    const { here, first, entry, second } = await withNamesake();
    await passTime(TTL_MS / 2);
    await second.resign();
    await passTime(2 * TTL_MS);
    expect(await entryOf("w")).toEqual(entry);
    await inTime(here.campaigns.handOver("log", "w", 2000));
    await first.hears("leading");
    await first.resign();
  });

  it("is not outdone by a namesake, which is refused once it is seen to live", async () => {
    const { leader, first, entry, second } = await withNamesake();
    const enteredMs = testClock.monotonicMs();
    const refusal = await inTime(second.ended);
    expect(refusal).toBeInstanceOf(CandidateExistsError);
    expect((refusal as Error).message).toContain('"w" is campaigning for log "log" with endpoint a:7070');
    expect(testClock.monotonicMs() - enteredMs).toBeGreaterThan(TTL_MS / 2);
    expect(testClock.monotonicMs() - enteredMs).toBeLessThan(2 * TTL_MS + 2000);
    expect(second.kinds).toEqual(["waiting"]);
    expect(await entryOf("w")).toEqual(entry);
    await endOf(leader, first);
  });

  it("leads when its turn comes, and not the namesake that waits to be told", async () => {
    const { leader, first, second } = await withNamesake();
    await leader.resign();
    await first.hears("leading");
    expect(second.kinds).not.toContain("prepare");
    await endOf(first, second);
  });
});

it("a candidate goes on in the place of a namesake that has died", async () => {
  await leaveEntry("w", "elsewhere:7070", 10_000);
  const entrant = new Side("a", store).enter("w");
  await entrant.hears("waiting");
  await passTime(9000);
  expect(entrant.kinds).toEqual(["waiting"]);
  await entrant.hears("leading");
  expect(await entryOf("w")).toMatchObject({ endpoint: "a:7070" });
  await entrant.resign();
});

it("a namesake that has died is not taken for alive when etcd gives every lease its whole time", async () => {
  const leaseId = await leaveEntry("w", "elsewhere:7070", 10_000);
  const entrant = new Side("a", store).enter("w");
  await passTime(8000);
  await inner.keepLeaseAlive(leaseId);
  await passTime(9000);
  expect(entrant.kinds).toEqual(["waiting"]);
  await entrant.hears("leading");
  await entrant.resign();
});

describe("a candidate that comes back to the same endpoint", () => {
  it("is taken as soon as it was told that it has lost, though its lease cannot be given up yet", async () => {
    const side = new Side("a", store);
    const before = await side.leader("w");
    store.goAway();
    await until(() => before.kinds.at(-1) === "lost", "the loss");
    expect(before.end).toBeUndefined();
    const after = side.enter("w");
    await inTime(before.ended);
    expect(() => side.enter("w")).toThrow(CandidateExistsError);
    store.comeBack();
    await after.hears("leading");
    await after.resign();
  });

  it("is taken to resign when its sidecar stops, like the one before it", async () => {
    const side = new Side("a", store);
    const before = await side.leader("w");
    store.goAway();
    await until(() => before.kinds.at(-1) === "lost", "the loss");
    const after = side.enter("w");
    await inTime(side.campaigns.drain());
    expect(before.end).toMatchObject({ reason: "store unreachable" });
    expect(after.end).toMatchObject({ reason: "resigned" });
  });

  it("takes its entry over at once", async () => {
    await leaveEntry("w", "a:7070", 60_000);
    const entrant = new Side("a", store).enter("w");
    await passTime(100);
    expect(entrant.kinds).toContain("leading");
    await entrant.resign();
  });

  it("is left in peace by the one before, which is listed again when it has gone", async () => {
    const leader = await new Side("l", inner).leader("l");
    const before = await new Side("a", inner).standby("w");
    const after = await new Side("a", store).standby("w");
    const entry = await entryOf("w");
    await passTime(2 * TTL_MS);
    expect(await entryOf("w")).toEqual(entry);
    await after.resign();
    await isListed("w");
    await endOf(leader, before);
  });
});

describe("a candidate whose entry is lost is listed again", () => {
  it("while it waits", async () => {
    const leader = await new Side("l", inner).leader("l");
    const waiting = await new Side("a", store).standby("w");
    // Of this it learns by looking again.
    store.dropWatchEvents();
    await forgetEntryOf("w");
    await isListed("w");
    await endOf(leader, waiting);
  });

  it.each([true, false])("while it holds the log (ready: %s)", async (isReady) => {
    const entrant = new Side("a", store).enter("w", { needsHandshake: true, readyTimeoutMs: 600_000 });
    await entrant.hears("prepare");
    if (isReady) {
      entrant.ready(0n);
      await entrant.hears("leading");
    }
    await forgetEntryOf("w");
    await isListed("w");
    await entrant.resign();
    expect(await entryOf("w")).toBeUndefined();
  });
});
