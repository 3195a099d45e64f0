import { beforeEach, describe, expect, it, vi } from "vitest";
import type { KvStore } from "../../src/oplog/kv-store.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { readOrigin } from "../../src/stored/history.js";
import { appendedOf, inTime, keysOf, testClock, until, useFakeTime } from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";
import { aLogger } from "../support/logged-lines.js";
import { type Entrant, refusalOf, Side } from "./side.js";

useFakeTime();

const keys = keysOf();
let inner: MemoryKvStore;
let store: FaultyKvStore;
beforeEach(() => {
  inner = new MemoryKvStore({ clock: testClock });
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

describe("while the candidate prepares", () => {
  it("HandOver is refused as NOT_READY", async () => {
    const side = new Side("a", store);
    const candidate = side.enter("a", { needsHandshake: true });
    await candidate.hears("prepare");
    expect(await refusalOf(side.campaigns.handOver("log", "b", 1000))).toMatchObject({ reason: "NOT_READY" });
    await candidate.resign();
  });

  it("Resign ends its term, and leaves the log vacant and the sidecar as one that does not lead", async () => {
    const before = new Side("c", inner);
    const leader = await before.leader("c");
    appendedOf(await before.append());
    const side = new Side("a", store);
    const candidate = await side.standby("a", { needsHandshake: true, readyTimeoutMs: 600_000 });
    await leader.resign();
    await candidate.hears("prepare");
    expect(await inTime(side.campaigns.resign("log"))).toEqual({ term: 2n, finalSequenceId: 1n });
    expect((await inner.get(keys.leader)).pair).toBeUndefined();
    expect(candidate.end).toMatchObject({ reason: "resigned" });
    expect(candidate.kinds).toEqual(["waiting", "prepare", "lost"]);
    expect(side.log.primary.preparing).toBeUndefined();
    expect(await refusalOf(side.send())).toMatchObject({ reason: "NOT_PRIMARY" });
  });

  it("Resign at the sidecar of a target that is only invited is for the leader", async () => {
    const from = new Side("a", store);
    const leader = await from.leader("a");
    const to = new Side("b", inner);
    const target = await to.standby("b", { needsHandshake: true });
    const handedOver = from.campaigns.handOver("log", "b", 2000);
    await target.hears("prepare");
    expect(await refusalOf(to.campaigns.resign("log"))).toMatchObject({
      reason: "NOT_PRIMARY",
      facts: { primary: "a" },
    });
    target.ready(0n);
    await inTime(handedOver);
    await inTime(leader.ended);
    await target.resign();
  });

  it("the log says so, and warns when it did not get ready", async () => {
    const { logger, lines } = aLogger();
    const candidate = new Side("a", store, { logger }).enter("a", { needsHandshake: true, readyTimeoutMs: 1500 });
    await inTime(candidate.ended);
    const facts = { log: "log", candidate: "a" };
    expect(lines).toContainEqual({
      level: "info",
      event: "campaign_preparing",
      message: expect.any(String),
      facts: { ...facts, term: "1", finalSequenceId: "0", isHandOver: false, readyTimeoutMs: 1500 },
    });
    expect(lines.at(-1)).toEqual({
      level: "warn",
      event: "campaign_ended",
      message: "no Ready came where 0 is the last, within 1500 ms",
      facts: { ...facts, reason: "not ready" },
    });
  });
});

it("says of a Ready that came before Prepare that it does not count", async () => {
  const before = new Side("c", inner);
  const leader = await before.leader("c");
  const candidate = await new Side("a", store).standby("a", { needsHandshake: true, readyTimeoutMs: 1000 });
  candidate.ready(0n);
  candidate.ready(0n);
  await leader.resign();
  expect(await inTime(candidate.ended)).toEqual({
    reason: "not ready",
    message: "no Ready came where 0 is the last (2 that came before Prepare do not count), within 1000 ms",
  });
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

describe("a candidate that tells the chain of what it has applied", () => {
  /** A leader with three entries of its own, whose chain is that of entry 3. */
  async function led(on: KvStore) {
    const side = new Side("a", on);
    const leader = await side.leader("a");
    for (let id = 1; id <= 3; id++) appendedOf(await side.append());
    const { chain } = await readOrigin(on, keys, 3n, undefined);
    return { side, leader, chain };
  }
  const OTHER = "0f".repeat(16);
  const diverged = { reason: "HISTORY_DIVERGED", facts: { sequence_id: 3n, yours: OTHER } };

  it("leads by the one that Prepare tells", async () => {
    const { leader, chain } = await led(inner);
    const candidate = await new Side("b", store).standby("b", { needsHandshake: true });
    await leader.resign();
    await candidate.hears("prepare");
    expect(candidate.told.at(-1)).toMatchObject({ kind: "prepare", final: { id: 3n, chain } });
    candidate.ready(3n, undefined, chain);
    await candidate.hears("leading");
    await candidate.resign();
  });

  it("of another history is refused, though it has the right number, and the next one leads", async () => {
    const { leader, chain } = await led(inner);
    const candidate = await new Side("b", store).standby("b", { needsHandshake: true });
    const next = await new Side("c", inner).standby("c", { needsHandshake: true });
    await leader.resign();
    const [first, second] = await Promise.race([
      candidate.hears("prepare").then(() => [candidate, next] as const),
      next.hears("prepare").then(() => [next, candidate] as const),
    ]);
    first.ready(3n, undefined, OTHER);
    expect(await inTime(first.ended)).toMatchObject({ ...diverged, facts: { ...diverged.facts, current: chain } });
    expect(first.kinds).not.toContain("leading");
    await second.hears("prepare");
    second.ready(3n, undefined, chain);
    await second.hears("leading");
    await second.resign();
  });

  it("of another history takes no log that is handed over, and the leader goes on", async () => {
    const { side, leader, chain } = await led(inner);
    const target = await new Side("b", store).standby("b", { needsHandshake: true });
    const refusal = refusalOf(side.campaigns.handOver("log", "b", 500));
    await target.hears("prepare");
    expect(target.told.at(-1)).toMatchObject({ kind: "prepare", final: { id: 3n, chain }, isHandOver: true });
    target.ready(3n, undefined, OTHER);
    expect(await inTime(target.ended)).toMatchObject(diverged);
    expect(await refusal).toMatchObject({ reason: "HAND_OVER_ABANDONED" });
    expect(appendedOf(await side.append())).toMatchObject({ first: 4n });
    await leader.resign();
  });

  it("does not lead beside a view that holds other entries by the same numbers", async () => {
    const { leader, chain } = await led(inner);
    const side = new Side("b", store, { hasView: true });
    const candidate = await side.standby("b", { needsHandshake: true });
    await until(() => side.view.applied === 3, "the view to apply");
    side.view.appliedChain = OTHER;
    await leader.resign();
    await candidate.hears("prepare");
    candidate.ready(3n, undefined, chain);
    expect(await inTime(candidate.ended)).toMatchObject(diverged);
  });
});
