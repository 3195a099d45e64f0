import { beforeEach, describe, expect, it, vi } from "vitest";
import { systemClock } from "../../src/oplog/clock.js";
import { FaultyKvStore } from "../../src/oplog/faulty-kv-store.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { appendedOf, inTime, keysOf, until, useFakeTime } from "../replication/support.js";
import { type Entrant, refusalOf, Side } from "./side.js";

useFakeTime();

const keys = keysOf();
let inner: MemoryKvStore;
let store: FaultyKvStore;
beforeEach(() => {
  inner = new MemoryKvStore({ clock: systemClock });
  store = new FaultyKvStore(inner);
});

/** Lost, and never told that it leads. */
async function neverLed(entrant: Entrant): Promise<void> {
  expect(await inTime(entrant.ended)).toMatchObject({ reason: "fenced" });
  expect(entrant.kinds).toEqual(["prepare", "lost"]);
}

describe("a candidate whose term is taken while it prepares", () => {
  it("is told no Leading and no promise, though the news of it is late", async () => {
    const candidate = new Side("a", store).enter("a", { needsHandshake: true });
    await candidate.hears("prepare");
    const other = new Side("c", inner);
    store.dropWatchEvents();
    await inTime(other.log.primary.claimByToken(7n, { id: "t", endpoint: "" }));
    appendedOf(await other.append());
    candidate.ready(0n);
    await neverLed(candidate);
  });

  it("does not wait for its answer when the news comes", async () => {
    const candidate = new Side("a", store).enter("a", { needsHandshake: true, readyTimeoutMs: 600_000 });
    await candidate.hears("prepare");
    await inTime(new Side("c", inner).log.primary.claimByToken(7n, { id: "t", endpoint: "" }));
    await neverLed(candidate);
  });

  it("is told no Leading when another candidate leads after its lease was dropped", async () => {
    const candidate = new Side("a", store).enter("a", { needsHandshake: true, ttlMs: 30_000 });
    await candidate.hears("prepare");
    const other = await new Side("c", inner).standby("c");
    store.dropWatchEvents();
    await inner.revokeLease((await inner.get(keys.leader)).pair!.leaseId);
    await other.hears("lease renewed");
    candidate.ready(0n);
    await neverLed(candidate);
    await other.resign();
  });
});

it("Resign and HandOver are refused as NOT_READY while the candidate prepares", async () => {
  const side = new Side("a", store);
  const candidate = side.enter("a", { needsHandshake: true });
  await candidate.hears("prepare");
  const notReady = { reason: "NOT_READY" };
  expect(await refusalOf(side.campaigns.resign("log"))).toMatchObject(notReady);
  expect(await refusalOf(side.campaigns.handOver("log", "b", 1000))).toMatchObject(notReady);
  await candidate.resign();
});

it("a view that has failed cannot campaign, and ends the candidacy that waits", async () => {
  const leading = new Side("a", inner);
  const leader = await leading.leader("a");
  const side = new Side("b", store, { hasView: true });
  const waiting = await side.standby("b");
  vi.spyOn(side.view.state, "apply").mockImplementation(() => {
    throw new Error("the state is broken");
  });
  appendedOf(await leading.append());
  await until(() => side.view.phase === "failed", "the view to fail");
  expect(() => side.enter("c")).toThrow(expect.objectContaining({ reason: "VIEW_FAILED" }));
  const { terms } = leader;
  await leader.resign();
  expect(await inTime(waiting.ended)).toMatchObject({ reason: "VIEW_FAILED" });
  expect((await inTime(leading.log.readLeadership())).term?.term).toBe(terms[0]);
});
