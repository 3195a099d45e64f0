import { describe, expect, it } from "vitest";
import { type Clock, systemClock } from "../../src/oplog/clock.js";
import { ObjectLeases } from "../../src/standby/object-leases.js";
import { aState, event, hex, leased, type Operation, put, TIMESTAMP_MS } from "./support.js";

const HOUR_MS = 3_600_000;
const DEFAULT_MS = 60_000;
/** When the objects were put. */
const PUT_MS = TIMESTAMP_MS;

function aLeasedState(defaultMs: number | undefined, ...operations: Operation[]) {
  const log = aState();
  log.applyAt(PUT_MS, ...operations);
  /** Time passes by it; a step is no time. */
  const wall = {
    ms: PUT_MS,
    steppedMs: 0,
    step(ms: number) {
      this.ms += ms;
      this.steppedMs += ms;
    },
  };
  const clock: Clock = { ...systemClock, wallMs: () => wall.ms, monotonicMs: () => wall.ms - wall.steppedMs };
  const leases = new ObjectLeases(log.state, clock, defaultMs);
  return { ...log, leases, wall, endOf: (key: string) => leases.endOf(log.state.leaseOf(Buffer.from(key))!) };
}

describe("the lease of an object", () => {
  const own = 10_000;
  it.each<
    [what: string, leaseMs: number, defaultMs: number | undefined, promotedAfterMs: number | undefined, end: number]
  >([
    ["of its own, at a standby", own, DEFAULT_MS, undefined, PUT_MS + own],
    ["of its own, still valid at the promotion", own, DEFAULT_MS, own - 1, PUT_MS + own],
    ["of its own, run out at the promotion", own, DEFAULT_MS, own, PUT_MS + own + DEFAULT_MS],
    ["of its own, run out long before", own, DEFAULT_MS, HOUR_MS, PUT_MS + HOUR_MS + DEFAULT_MS],
    ["of its own, without a default", own, undefined, undefined, PUT_MS + own],
    ["of its own, run out, without a default", own, undefined, HOUR_MS, PUT_MS + own],
    ["by default, at a standby", 0, DEFAULT_MS, undefined, PUT_MS + DEFAULT_MS],
    ["by default, not run out at the promotion", 0, DEFAULT_MS, 5, PUT_MS + 5 + DEFAULT_MS],
    ["by default, run out at the promotion", 0, DEFAULT_MS, HOUR_MS, PUT_MS + HOUR_MS + DEFAULT_MS],
    ["without any", 0, undefined, undefined, 0],
    ["without any, after a promotion", 0, undefined, HOUR_MS, 0],
  ])("%s", (_, leaseMs, defaultMs, promotedAfterMs, end) => {
    const { endOf, wall, leases } = aLeasedState(defaultMs, leased("a", leaseMs));
    if (promotedAfterMs !== undefined) {
      wall.ms += promotedAfterMs;
      leases.promote();
      wall.ms += HOUR_MS;
    }
    expect(endOf("a")).toBe(end);
  });

  it.each([
    ["its own length", own, own],
    ["the default", 0, DEFAULT_MS],
  ])("put by a clock that was years ahead is %s, from the promotion", (_, leaseMs, lasts) => {
    const { endOf, wall, leases } = aLeasedState(DEFAULT_MS, leased("a", leaseMs));
    wall.ms = PUT_MS - 1000 * 24 * HOUR_MS;
    leases.promote();
    expect(endOf("a")).toBe(wall.ms + lasts);
  });

  it.each([
    ["its own", 1000, 1000],
    ["the default", 0, DEFAULT_MS],
  ])(
    "put after a promotion is %s, counted from its entry, though the clock has gone back since",
    (_, leaseMs, lasts) => {
      const { leases, wall, applyAt, endOf } = aLeasedState(DEFAULT_MS, put("old"));
      wall.ms += HOUR_MS;
      leases.promote();
      wall.step(-HOUR_MS);
      applyAt(PUT_MS, leased("a", leaseMs));
      expect(leases.nowMs).toBe(PUT_MS);
      expect(endOf("a")).toBe(PUT_MS + lasts);
      expect(endOf("old")).toBe(PUT_MS + HOUR_MS + DEFAULT_MS);
    },
  );

  it("is that of the last PUT_END, and no part of the state hash", () => {
    const { endOf, apply, state } = aLeasedState(DEFAULT_MS, leased("a", 1000), put("b"));
    const before = hex(state.stateHash);
    state.renewLease(Buffer.from("b"), PUT_MS + HOUR_MS);
    expect(hex(state.stateHash)).toBe(before);
    apply(put("a"), leased("b", 7));
    expect([endOf("a"), endOf("b")]).toEqual([PUT_MS + DEFAULT_MS, PUT_MS + 7]);
  });

  it("follows from the log again once this sidecar leads no more", () => {
    const { leases, wall, endOf } = aLeasedState(DEFAULT_MS, put("a"));
    wall.ms += HOUR_MS;
    leases.demote(leases.promote());
    expect(endOf("a")).toBe(PUT_MS + DEFAULT_MS);
  });
});

describe("a promotion", () => {
  it("is not ended by the end of the one before", () => {
    const { leases, wall, endOf } = aLeasedState(DEFAULT_MS, put("a"));
    const before = leases.promote();
    wall.ms += HOUR_MS;
    leases.promote();
    leases.demote(before);
    expect(endOf("a")).toBe(wall.ms + DEFAULT_MS);
  });
});

describe("time", () => {
  it("is the wall clock, never earlier than the newest entry, whatever that is", () => {
    const { leases, wall, applyAt } = aLeasedState(DEFAULT_MS, put("a"));
    wall.ms = PUT_MS + 5;
    expect(leases.nowMs).toBe(PUT_MS + 5);
    applyAt(PUT_MS + 1000, event(""));
    expect(leases.nowMs).toBe(PUT_MS + 1000);
    wall.step(-HOUR_MS);
    expect(leases.nowMs).toBe(PUT_MS + 1000);
  });
});

describe("a wall clock that steps ahead", () => {
  /** How long each lease lasts from now on, in time that passes. */
  const leftOf = (log: ReturnType<typeof aLeasedState>, ...keys: string[]) => {
    const { nowMs } = log.leases;
    return keys.map((key) => log.endOf(key) - nowMs);
  };

  it("shortens no lease of what was put before, and lengthens none of what is put since", () => {
    const log = aLeasedState(DEFAULT_MS, put("inherited"), leased("own", HOUR_MS));
    const { leases, wall, applyAt } = log;
    leases.promote();
    wall.ms += 1000;
    applyAt(wall.ms, put("default"), leased("short", 5000));
    leases.renew(["inherited"], 2 * HOUR_MS);
    wall.ms += 1000;
    wall.step(HOUR_MS);
    applyAt(wall.ms, put("since"));
    wall.ms += 1000;
    expect(leftOf(log, "inherited", "own", "default", "short", "since")).toEqual([
      2 * HOUR_MS - 2000,
      HOUR_MS - 3000,
      DEFAULT_MS - 2000,
      3000,
      DEFAULT_MS - 1000,
    ]);
    leases.renew(["short", "since"], 2 * DEFAULT_MS);
    wall.ms += 1000;
    expect(leftOf(log, "short", "since")).toEqual([2 * DEFAULT_MS - 1000, 2 * DEFAULT_MS - 1000]);
  });

  it("more than once shortens none either", () => {
    const log = aLeasedState(DEFAULT_MS, put("a"));
    const { leases, wall, applyAt } = log;
    leases.promote();
    for (let round = 0; round < 3; round++) {
      wall.step(HOUR_MS);
      wall.ms += 1000;
      applyAt(wall.ms, put(`b${round}`));
      leases.renew(["a"], 1);
    }
    const [first, ...others] = leftOf(log, "a", "b0", "b1", "b2");
    expect(first).toBe(DEFAULT_MS - 3000);
    others.forEach((left, round) => {
      expect(left).toBeGreaterThanOrEqual(DEFAULT_MS - (2 - round) * 1000);
    });
    expect(others.at(-1)).toBe(DEFAULT_MS);
  });

  it("back to where it was before shortens none of what was put meanwhile", () => {
    const log = aLeasedState(DEFAULT_MS, event(""));
    const { leases, wall, applyAt } = log;
    leases.promote();
    wall.ms += 2 * HOUR_MS;
    wall.step(-HOUR_MS);
    applyAt(wall.ms, put("a"));
    expect(leftOf(log, "a")).toEqual([DEFAULT_MS]);
    wall.ms += 1000;
    wall.step(HOUR_MS);
    expect(leftOf(log, "a")).toEqual([DEFAULT_MS - 1000]);
  });

  it("by less than half a second is none, however often the time is read", () => {
    const log = aLeasedState(DEFAULT_MS, put("a"));
    log.leases.promote();
    for (let read = 0; read < 1000; read++) {
      log.wall.step(read % 2 === 0 ? 400 : -400);
      expect(leftOf(log, "a")[0]).toBeGreaterThanOrEqual(DEFAULT_MS - 400);
    }
    expect(leftOf(log, "a")).toEqual([DEFAULT_MS]);
  });

  it("counts no more after the next promotion", () => {
    const log = aLeasedState(DEFAULT_MS, leased("a", 2 * HOUR_MS));
    const before = log.leases.promote();
    log.wall.step(HOUR_MS);
    expect(leftOf(log, "a")).toEqual([2 * HOUR_MS]);
    log.leases.demote(before);
    expect(leftOf(log, "a")).toEqual([HOUR_MS]);
    log.leases.promote();
    expect(leftOf(log, "a")).toEqual([HOUR_MS]);
  });
});

describe("a renewal", () => {
  it("counts from now, never shortens, and tells what is not held", () => {
    const { leases, wall, endOf } = aLeasedState(DEFAULT_MS, put("a"), leased("b", HOUR_MS));
    leases.promote();
    wall.ms += 40_000;
    expect(leases.renew(["a", "b", "c"], DEFAULT_MS)).toEqual(["c"]);
    expect([endOf("a"), endOf("b")]).toEqual([wall.ms + DEFAULT_MS, PUT_MS + HOUR_MS]);
    leases.renew(["a"], 1);
    expect(endOf("a")).toBe(wall.ms + DEFAULT_MS);
  });

  it("does not shorten what a promotion has granted", () => {
    const { leases, wall, endOf } = aLeasedState(DEFAULT_MS, leased("a", 10));
    wall.ms += HOUR_MS;
    leases.promote();
    leases.renew(["a"], 1);
    expect(endOf("a")).toBe(wall.ms + DEFAULT_MS);
  });

  it("granted here holds at the next promotion here, unless the default lease is longer", () => {
    const { leases, wall, endOf } = aLeasedState(DEFAULT_MS, put("a"), put("b"), put("c"), leased("d", HOUR_MS + 3));
    const before = leases.promote();
    leases.renew(["a"], 2 * HOUR_MS);
    leases.renew(["b"], HOUR_MS + 3);
    leases.demote(before);
    wall.ms += HOUR_MS;
    leases.promote();
    const anew = wall.ms + DEFAULT_MS;
    expect(["a", "b", "c", "d"].map(endOf)).toEqual([PUT_MS + 2 * HOUR_MS, anew, anew, PUT_MS + HOUR_MS + 3]);
  });

  it("outlives memory being tidied up", () => {
    const { leases, endOf, apply } = aLeasedState(DEFAULT_MS, put("a"));
    leases.renew(["a"], HOUR_MS);
    const large = "x".repeat(500_000);
    for (let round = 0; round < 60; round++) apply(put(`large ${round % 2}`, large));
    expect(endOf("a")).toBe(PUT_MS + HOUR_MS);
  });

  it("comes too late for a key whose removal is being written, until that has failed or been applied", () => {
    const { leases, apply, state } = aLeasedState(DEFAULT_MS, put("a"), put("b"));
    leases.removing([Buffer.from("a")]);
    expect(leases.renew(["a", "b"], 1)).toEqual(["a"]);
    leases.removed(state.applied + 1);
    expect(leases.renew(["a", "b"], 1)).toEqual(["a"]);
    apply(put("a"));
    expect(leases.renew(["a", "b"], 1)).toEqual([]);
    leases.removing([Buffer.from("a")]);
    leases.removalFailed();
    expect(leases.renew(["a", "b"], 1)).toEqual([]);
  });
});
