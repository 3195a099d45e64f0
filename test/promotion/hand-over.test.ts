import { beforeEach, describe, expect, it } from "vitest";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { Metrics } from "../../src/telemetry/metrics.js";
import { campaignObserver } from "../../src/telemetry/observers.js";
import { appendedOf, errorOf, inTime, keysOf, passTime, testClock, until, useFakeTime } from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";
import { aLogger } from "../support/logged-lines.js";
import { refusalOf, Side, type SideShape } from "./side.js";

useFakeTime();

const keys = keysOf();
const TIMEOUT_MS = 300;
let inner: MemoryKvStore;
/** The leader's way to it, and the target's. */
let store: FaultyKvStore;
let targetStore: FaultyKvStore;
beforeEach(() => {
  inner = new MemoryKvStore({ clock: testClock });
  store = new FaultyKvStore(inner);
  targetStore = new FaultyKvStore(inner);
});

/** A leader with one entry, and a standby that waits. */
async function twoSides({ hasView = false, needsHandshake = true } = {}, shape: SideShape = {}) {
  const from = new Side("a", store, shape);
  const leader = await from.leader("a");
  appendedOf(await from.append());
  const to = new Side("b", targetStore, { hasView, log: { headPollMs: 100 } });
  const target = await to.standby("b", { needsHandshake });
  if (hasView) await until(() => to.view.state.applied === 1, "the view to apply");
  return { from, to, leader, target };
}

describe("a standby that missed that its invitation was taken back", () => {
  async function missed(hasView: boolean) {
    const sides = await twoSides({ hasView });
    const { from, to, target } = sides;
    const refusal = refusalOf(from.campaigns.handOver("log", "b", TIMEOUT_MS));
    await target.hears("prepare");
    const stateHash = hasView ? Buffer.from(to.view.state.stateHash) : undefined;
    targetStore.dropWatchEvents();
    expect(await refusal).toMatchObject({ reason: "HAND_OVER_ABANDONED" });
    appendedOf(await from.append());
    return { ...sides, stateHash };
  }

  async function leadsNext({ leader, target }: Awaited<ReturnType<typeof missed>>): Promise<void> {
    await passTime(100);
    expect(target.end).toBeUndefined();
    targetStore.dropWatchEvents(false);
    await leader.resign();
    await target.hears("prepare", 2);
    target.ready(2n);
    await target.hears("leading");
    await target.resign();
  }

  it("is still a candidate when it has applied more since", async () => {
    const sides = await missed(false);
    sides.target.ready(2n);
    await leadsNext(sides);
  });

  it("is still a candidate when its view has another state by now", async () => {
    const sides = await missed(true);
    // Its view learns of the entry by polling.
    const { view } = sides.to;
    await until(() => view.state.applied === 2 || sides.target.end !== undefined, "the view to go on");
    sides.target.ready(1n, sides.stateHash);
    await leadsNext(sides);
  });
});

it("leaves no rejection unhandled when a key is damaged while the target prepares", async () => {
  const { from, leader, target } = await twoSides();
  const unhandled: unknown[] = [];
  const note = (error: unknown) => unhandled.push(error);
  process.on("unhandledRejection", note);
  try {
    const refusal = refusalOf(from.campaigns.handOver("log", "b", TIMEOUT_MS));
    await target.hears("prepare");
    await inner.txn({ compares: [], writes: [{ kind: "put", key: keys.successor, value: Buffer.alloc(3, 255) }] });
    await refusal;
    await passTime(1000);
    expect(unhandled).toEqual([]);
  } finally {
    process.off("unhandledRejection", note);
    await Promise.all([leader.resign(), target.resign()]);
  }
});

it("leaves the view promoted when the target is at the same sidecar", async () => {
  const side = new Side("a", store, { hasView: true });
  const leader = await side.leader("a");
  appendedOf(await side.append());
  const target = await side.standby("b");
  await inTime(side.campaigns.handOver("log", "b", 2000));
  await target.hears("leading");
  await inTime(leader.ended);
  await passTime(1000);
  expect(side.view?.phase).toBe("promoted");
  await target.resign();
  await passTime(1000);
  expect(side.view?.phase).toBe("following");
});

it("refuses what was held with who leads, when the target is at the same sidecar", async () => {
  const side = new Side("a", store);
  const leader = await side.leader("a");
  appendedOf(await side.append());
  const target = await side.standby("b", { needsHandshake: true });
  const handedOver = side.campaigns.handOver("log", "b", 2000);
  await target.hears("prepare");
  const held = await side.send();
  target.ready(1n);
  const { term } = await inTime(handedOver);
  expect(errorOf(await inTime(held.outcome))).toMatchObject({
    reason: "NOT_PRIMARY",
    facts: { primary: "b", term },
  });
  expect(await inTime(leader.ended)).toMatchObject({ reason: "handed over" });
  await target.hears("leading");
  await target.resign();
});

describe("what an earlier hand-over has left", () => {
  it("is taken back however long the store takes, and the next one succeeds", async () => {
    const { from, leader, target } = await twoSides();
    store.failNextTxns(100, ({ writes }) => writes.length === 1 && writes[0]!.kind === "delete");
    expect(await refusalOf(from.campaigns.handOver("log", "b", TIMEOUT_MS))).toMatchObject({
      reason: "HAND_OVER_ABANDONED",
    });
    expect((await inner.get(keys.successor)).pair).toBeUndefined();
    appendedOf(await from.append());
    expect(leader.end).toBeUndefined();
    const prepared = target.kinds.filter((kind) => kind === "prepare").length;
    const handedOver = from.campaigns.handOver("log", "b", TIMEOUT_MS);
    await target.hears("prepare", prepared + 1);
    target.ready(2n);
    expect(await inTime(handedOver)).toMatchObject({ finalSequenceId: 2n });
    await target.hears("leading");
    await target.resign();
  });

  it("is not in the way of the next", async () => {
    const { from, target } = await twoSides({ needsHandshake: false });
    await inner.txn({ compares: [], writes: [{ kind: "put", key: keys.successor, value: Buffer.alloc(0) }] });
    expect(await inTime(from.campaigns.handOver("log", "b", TIMEOUT_MS))).toMatchObject({ finalSequenceId: 1n });
    await target.hears("leading");
    await target.resign();
  });
});

describe("the log and the metrics tell", () => {
  async function observed(needsHandshake = true) {
    const { logger, lines } = aLogger();
    const metrics = new Metrics({
      version: "1",
      storeKind: "memory",
      requests: { bytes: 0, requests: 0 },
      output: { linesDropped: 0 },
    });
    const sides = await twoSides({ needsHandshake }, { logger, observer: campaignObserver(metrics) });
    const logged = () => lines.filter(({ event }) => event.startsWith("hand_over_"));
    const counted = async () =>
      (await metrics.registry.metrics()).split("\n").filter((line) => /^oplog_hand_over.*(_total|_count)\{/.test(line));
    return { ...sides, logged, counted };
  }

  const facts = { log: "log", candidate: "a", term: "1", target: "b" };
  const begun = {
    level: "info",
    event: "hand_over_begun",
    message: expect.any(String),
    facts: { ...facts, timeoutMs: TIMEOUT_MS },
  };

  it("a hand-over that is taken", async () => {
    const { from, leader, target, logged, counted } = await observed(false);
    const { heldMs } = await inTime(from.campaigns.handOver("log", "b", TIMEOUT_MS));
    const ids = { takenTerm: "2", finalSequenceId: "1" };
    expect(logged()).toEqual([
      begun,
      { level: "info", event: "hand_over_taken", message: expect.any(String), facts: { ...facts, ...ids, heldMs } },
    ]);
    expect(await counted()).toEqual([
      'oplog_hand_overs_total{log="log",outcome="taken"} 1',
      'oplog_hand_over_hold_duration_seconds_count{log="log",outcome="taken"} 1',
    ]);
    await inTime(leader.ended);
    await target.resign();
  });

  it("a hand-over whose target did not get ready", async () => {
    const { from, leader, target, logged, counted } = await observed();
    const refusal = await refusalOf(from.campaigns.handOver("log", "b", TIMEOUT_MS));
    const { heldMs } = logged()[1]!.facts as { heldMs: number };
    expect(heldMs).toBeGreaterThanOrEqual(TIMEOUT_MS);
    const message = `"b" had not taken over after ${heldMs} ms; the leader stays, and nothing was lost`;
    expect(refusal).toMatchObject({ message, facts: { held_ms: heldMs } });
    expect(logged()).toEqual([
      begun,
      { level: "warn", event: "hand_over_abandoned", message, facts: { ...facts, heldMs } },
    ]);
    expect(await counted()).toEqual([
      'oplog_hand_overs_total{log="log",outcome="abandoned"} 1',
      'oplog_hand_over_hold_duration_seconds_count{log="log",outcome="abandoned"} 1',
    ]);
    await Promise.all([leader.resign(), target.resign()]);
  });

  it("a hand-over whose target did not answer, for which appends were not held back", async () => {
    const { from, leader, target, logged, counted } = await observed();
    targetStore.goAway();
    const refusal = (await refusalOf(from.campaigns.handOver("log", "b", TIMEOUT_MS))) as Error;
    expect(refusal.message).toMatch(
      /^"b" did not answer the announcement within 3\d\d ms, and appends were not held back; the leader stays, /,
    );
    expect(refusal).toMatchObject({ facts: { held_ms: 0 } });
    expect(logged().at(-1)).toMatchObject({ event: "hand_over_abandoned", facts: { heldMs: 0 } });
    expect(await counted()).toEqual(['oplog_hand_overs_total{log="log",outcome="abandoned"} 1']);
    targetStore.comeBack();
    await Promise.all([leader.resign(), target.resign()]);
  });

  it("a hand-over that could not be announced", async () => {
    const { from, leader, target, logged } = await observed();
    store.failNextTxns(1, ({ writes }) => writes.some(({ kind }) => kind === "put"));
    const message = 'the hand-over to "b" could not be announced; the leader stays, and nothing was lost';
    expect(await refusalOf(from.campaigns.handOver("log", "b", TIMEOUT_MS))).toMatchObject({ message });
    expect(logged().at(-1)).toMatchObject({ event: "hand_over_abandoned", message });
    await Promise.all([leader.resign(), target.resign()]);
  });

  it("a hand-over that ended since the leadership went elsewhere", async () => {
    const { from, leader, target, logged, counted } = await observed();
    const refusal = refusalOf(from.campaigns.handOver("log", "b", TIMEOUT_MS));
    await target.hears("prepare");
    await inTime(new Side("c", inner).log.primary.claimByToken(7n, { id: "t", endpoint: "" }));
    expect(await refusal).toMatchObject({ reason: "NOT_PRIMARY" });
    expect(logged().at(-1)).toMatchObject({ level: "warn", event: "hand_over_failed" });
    expect(await counted()).toContain('oplog_hand_overs_total{log="log",outcome="failed"} 1');
    await Promise.all([leader.ended, target.ended].map((ended) => inTime(ended)));
  });

  it("nothing of one to a candidate that is not there", async () => {
    const { from, leader, target, logged, counted } = await observed();
    expect(await refusalOf(from.campaigns.handOver("log", "x", TIMEOUT_MS))).toMatchObject({
      reason: "CANDIDATE_NOT_FOUND",
    });
    expect(logged()).toEqual([]);
    expect(await counted()).toEqual([]);
    await Promise.all([leader.resign(), target.resign()]);
  });
});

it("does not say that the leader stays when its sidecar stops meanwhile", async () => {
  const { from, target } = await twoSides();
  const refusal = refusalOf(from.campaigns.handOver("log", "b", 20_000));
  await target.hears("prepare");
  const drained = from.campaigns.drain();
  expect(((await refusal) as Error).message).toMatch(
    /^"b" had not taken over after \d+ ms; the leader gives up: this sidecar stops$/,
  );
  await inTime(drained);
  await target.resign();
});
