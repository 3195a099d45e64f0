import { getEventListeners } from "node:events";
import { beforeEach, describe, expect, it } from "vitest";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { LeaseKeeper } from "../../src/promotion/lease-keeper.js";
import { Dice, inTime, passTime, testClock, theFakeTime, useFakeTime } from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";
import { FAIR, Network, type Weather } from "./network.js";

useFakeTime();

const TTL_MS = 3000;
let store: FaultyKvStore;
beforeEach(() => {
  store = new FaultyKvStore(new MemoryKvStore({ clock: testClock }));
});

async function aKeeper() {
  const keeper = await LeaseKeeper.grant(store, testClock, TTL_MS);
  let renewals = 0;
  const done = keeper.run(() => {
    renewals++;
  });
  return { keeper, done, renewals: () => renewals };
}

describe("a lease that is kept", () => {
  it("is renewed three times per TTL, and never lost while the store answers", async () => {
    const { keeper, done, renewals } = await aKeeper();
    await passTime(10 * TTL_MS);
    expect(keeper.lost.aborted).toBe(false);
    expect(renewals()).toBeGreaterThanOrEqual(29);
    await inTime(keeper.close());
    await inTime(done);
  });

  it("counts as lost before it can have run out in the store, when the store goes away", async () => {
    const { keeper, done } = await aKeeper();
    await passTime(TTL_MS);
    store.goAway();
    const until = keeper.validUntilMs;
    await inTime(done);
    expect(keeper.lost.reason).toBe("store unreachable");
    expect(testClock.monotonicMs()).toBeGreaterThanOrEqual(until);
    store.comeBack();
    expect(await store.leaseTimeLeft(keeper.leaseId)).toBeGreaterThan(0);
  });

  it("survives an absence of the store that is shorter than what is left of it", async () => {
    const { keeper, done } = await aKeeper();
    store.goAway();
    await passTime(TTL_MS / 2);
    store.comeBack();
    await passTime(3 * TTL_MS);
    expect(keeper.lost.aborted).toBe(false);
    await inTime(keeper.close());
    await inTime(done);
  });

  it("is lost as expired when the store has dropped it", async () => {
    const { keeper, done } = await aKeeper();
    await store.revokeLease(keeper.leaseId);
    await inTime(done);
    expect(keeper.lost.reason).toBe("expired");
  });

  it("that is closed is revoked, and leaves no timer and no listener", async () => {
    const { keeper, done } = await aKeeper();
    await passTime(TTL_MS);
    await inTime(keeper.close());
    await inTime(done);
    expect(await store.leaseTimeLeft(keeper.leaseId)).toBeUndefined();
    expect(keeper.lost.aborted).toBe(false);
    expect(theFakeTime().timers).toBe(0);
    expect(getEventListeners(keeper.lost, "abort")).toHaveLength(0);
  });
});

describe("a store that is slow", () => {
  const SHORT_MS = 1000;

  async function aSlowStore(seed: number, weather: Partial<Weather>) {
    const inner = new MemoryKvStore({ clock: testClock });
    const machine = { name: "a", pausedUntilMs: 0, isDead: false };
    const network = new Network(inner, theFakeTime(), new Dice(seed), machine);
    const keeper = await inTime(LeaseKeeper.grant(network, testClock, SHORT_MS));
    network.weather = { ...FAIR, ...weather };
    return { inner, keeper, done: keeper.run(() => undefined) };
  }

  /** The answer of a renewal takes up to twice as long: there and back. */
  it.each([100, 200, 250, 300])("keeps its lease with up to %d ms each way, of a TTL of 1 s", async (latencyMsMax) => {
    const { keeper, done } = await aSlowStore(1, { latencyMsMax });
    await passTime(100 * SHORT_MS);
    expect(keeper.lost.aborted).toBe(false);
    keeper.close();
    await inTime(done);
  });

  it("is never believed for longer than it holds the lease, whatever is late or lost", async () => {
    let lost = 0;
    let believedMs = 0;
    for (let seed = 1; seed <= 100; seed++) {
      const weather = { latencyMsMax: 100 + 5 * seed, lostRequest: 0.1, lostReply: 0.1, lateRequest: 0.2 };
      const { inner, keeper, done } = await aSlowStore(seed, weather);
      for (let step = 0; step < 400 && !keeper.lost.aborted; step++) {
        await passTime(13);
        if (keeper.lost.aborted || keeper.validUntilMs <= testClock.monotonicMs()) continue;
        believedMs += 13;
        const held = { seed, step, leftMs: await inner.leaseTimeLeft(keeper.leaseId) };
        expect(held).toEqual({ seed, step, leftMs: expect.any(Number) });
        expect(held.leftMs).toBeGreaterThanOrEqual(keeper.validUntilMs - testClock.monotonicMs());
      }
      if (keeper.lost.aborted) lost++;
      keeper.close();
      await inTime(done);
    }
    expect(lost).toBeGreaterThan(10);
    expect(believedMs).toBeGreaterThan(100_000);
  });
});
