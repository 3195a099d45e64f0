import { getEventListeners } from "node:events";
import { beforeEach, describe, expect, it } from "vitest";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { LeaseKeeper } from "../../src/promotion/lease-keeper.js";
import { inTime, passTime, testClock, theFakeTime, useFakeTime } from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";

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
