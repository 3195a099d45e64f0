import { beforeEach, describe, expect, it } from "vitest";
import { type Clock, systemClock } from "../../src/oplog/clock.js";
import {
  BEGINNING,
  type LifeEvent,
  type LifeState,
  next,
  PHASES,
  reasonOf,
  type Sight,
  seen,
} from "../../src/standby/life-cycle.js";
import { CHANGES_MAX, LifeRecord } from "../../src/standby/life-record.js";

/** One of each state; the first load goes to 10. */
const STATES = {
  connecting: BEGINNING,
  bootstrapping: { kind: "bootstrapping", loadTo: 10n },
  "catching up": { kind: "catching up", loadTo: 10n },
  following: { kind: "following", loadTo: 10n },
  reconnecting: { kind: "reconnecting", loadTo: 10n },
  promoting: { kind: "promoting", final: 20n, loadTo: 10n },
  "promoting unreached": { kind: "promoting", final: 20n, loadTo: undefined },
  promoted: { kind: "promoted", loadTo: 10n },
  "promoted unreached": { kind: "promoted", loadTo: undefined },
  failed: { kind: "failed", because: "broken", isOtherHistory: false },
} satisfies Record<string, LifeState>;

const EVENTS = {
  level: { kind: "level", head: 12n },
  "behind in the first load": { kind: "behind", applied: 9n, head: 12n },
  "behind after the first load": { kind: "behind", applied: 10n, head: 12n },
  unconfirmed: { kind: "unconfirmed", ageMs: 1001 },
  won: { kind: "won", final: 21n },
  leads: { kind: "leads" },
  "stepped down": { kind: "stepped down" },
  failed: { kind: "failed", because: "a hole", isOtherHistory: false },
} satisfies Record<string, LifeEvent>;

type StateName = keyof typeof STATES;
type EventName = keyof typeof EVENTS;

const load = (kind: "bootstrapping" | "catching up" | "following" | "reconnecting", loadTo = 10n): LifeState => ({
  kind,
  loadTo,
});
const promoting = (loadTo: bigint | undefined): LifeState => ({ kind: "promoting", final: 21n, loadTo });
const promoted = (loadTo: bigint | undefined): LifeState => ({ kind: "promoted", loadTo });
const broken: LifeState = { kind: "failed", because: "a hole", isOtherHistory: false };

/** For each state what each event, in the order of EVENTS, makes of it; "same" = nothing. */
const TABLE: Record<StateName, readonly (LifeState | "same")[]> = {
  connecting: [
    load("following", 12n),
    load("bootstrapping", 12n),
    load("bootstrapping", 12n),
    "same",
    promoting(undefined),
    "same",
    "same",
    broken,
  ],
  bootstrapping: [
    load("following"),
    "same",
    load("catching up"),
    load("reconnecting"),
    promoting(10n),
    "same",
    "same",
    broken,
  ],
  "catching up": [
    load("following"),
    load("bootstrapping"),
    "same",
    load("reconnecting"),
    promoting(10n),
    "same",
    "same",
    broken,
  ],
  following: [
    "same",
    load("bootstrapping"),
    load("catching up"),
    load("reconnecting"),
    promoting(10n),
    "same",
    "same",
    broken,
  ],
  reconnecting: [
    load("following"),
    load("bootstrapping"),
    load("catching up"),
    "same",
    promoting(10n),
    "same",
    "same",
    broken,
  ],
  promoting: ["same", "same", "same", "same", promoting(10n), promoted(10n), load("catching up"), broken],
  "promoting unreached": ["same", "same", "same", "same", promoting(undefined), promoted(undefined), BEGINNING, broken],
  promoted: ["same", "same", "same", "same", promoting(10n), "same", load("catching up"), broken],
  "promoted unreached": ["same", "same", "same", "same", promoting(undefined), "same", BEGINNING, broken],
  failed: ["same", "same", "same", "same", "same", "same", "same", "same"],
};

const stateNames = Object.keys(STATES) as StateName[];
const eventNames = Object.keys(EVENTS) as EventName[];

describe("the life of a view", () => {
  it.each(stateNames.flatMap((state) => eventNames.map((event) => [state, event] as const)))(
    "%s × %s",
    (stateName, eventName) => {
      const state = STATES[stateName];
      const expected = TABLE[stateName][eventNames.indexOf(eventName)];
      expect(expected).toBeDefined();
      expect(next(state, EVENTS[eventName])).toEqual(expected === "same" ? state : expected);
    },
  );

  it("has a row for every phase", () => {
    expect(new Set(Object.values(STATES).map(({ kind }) => kind))).toEqual(new Set(PHASES));
    for (const row of Object.values(TABLE)) expect(row).toHaveLength(eventNames.length);
  });

  it("goes on with the first load where a break of the store or an abandoned promotion came in between", () => {
    const at = (applied: bigint): LifeEvent => ({ kind: "behind", applied, head: 15n });
    for (const between of [[EVENTS.unconfirmed], [EVENTS.won, EVENTS["stepped down"]]]) {
      const events = [at(0n), ...between, at(9n), at(15n - 1n), { kind: "level" as const, head: 15n }];
      const phases: string[] = [];
      events.reduce<LifeState>((state, event) => {
        const after = next(state, event);
        phases.push(after.kind);
        return after;
      }, BEGINNING);
      expect(phases[0]).toBe("bootstrapping");
      expect(phases.slice(-3)).toEqual(["bootstrapping", "bootstrapping", "following"]);
    }
  });

  it.each([
    ["the head has never been read", { isReached: false }, "unconfirmed"],
    ["the head was confirmed a heartbeat ago", { headAgeMs: 1000 }, "level"],
    ["the head was confirmed longer ago than a heartbeat", { headAgeMs: 1001 }, "unconfirmed"],
    ["one entry is missing", { applied: 6n }, "behind"],
    ["one is missing, and the head is not confirmed", { applied: 6n, headAgeMs: 1001 }, "unconfirmed"],
  ])("is seen from where the view and the log stand: %s", (_, sight, kind) => {
    const level: Sight = { isReached: true, applied: 7n, head: 7n, headAgeMs: 0 };
    expect(seen({ ...level, ...sight }, 1000).kind).toBe(kind);
  });

  it("says why it has changed, with the numbers", () => {
    expect(reasonOf("connecting", EVENTS["behind in the first load"])).toMatch(/1 to 12/);
    expect(reasonOf("following", EVENTS["behind in the first load"])).toMatch(/9 of 12/);
    expect(reasonOf("following", EVENTS.unconfirmed)).toMatch(/1001 ms/);
    expect(reasonOf("promoting", EVENTS["stepped down"])).toMatch(/abandoned/);
    expect(reasonOf("promoted", EVENTS["stepped down"])).toMatch(/no longer/);
    expect(reasonOf("following", EVENTS.failed)).toBe("a hole");
  });
});

describe("the record of a life", () => {
  let nowMs: number;
  let sight: Sight;
  let told: string[];
  let logged: Record<string, unknown>[];
  let record: LifeRecord;

  beforeEach(() => {
    nowMs = 5000;
    sight = { isReached: false, applied: 0n, head: 0n, headAgeMs: 0 };
    told = [];
    logged = [];
    const clock: Clock = { ...systemClock, wallMs: () => 1_700_000_000_000 + nowMs, monotonicMs: () => nowMs };
    const log = (facts: object) => void logged.push({ ...facts });
    record = new LifeRecord({
      log: "orders",
      clock,
      logger: { debug: log, info: log, warn: log, error: log },
      heartbeatMs: 1000,
      sight: () => sight,
      onPhase: (to, from) => told.push(from === undefined ? to : `${from} → ${to}`),
    });
  });

  const see = (applied: bigint, head: bigint, headAgeMs = 0) => {
    sight = { isReached: true, applied, head, headAgeMs };
    record.look();
  };
  const path = () => record.changes.map(({ from, to }) => `${from} → ${to}`);

  it("tells, logs and keeps each change with its time, its numbers and its reason", () => {
    see(0n, 3n);
    nowMs += 40;
    see(3n, 3n);
    expect(told).toEqual(["connecting", "connecting → bootstrapping", "bootstrapping → following"]);
    expect(record.changes).toEqual([
      {
        from: "connecting",
        to: "bootstrapping",
        atWallMs: 1_700_000_005_000,
        applied: 0n,
        head: 3n,
        reason: "the log has been reached: 1 to 3 is to be loaded",
      },
      {
        from: "bootstrapping",
        to: "following",
        atWallMs: 1_700_000_005_040,
        applied: 3n,
        head: 3n,
        reason: "everything up to 3 has been applied",
      },
    ]);
    expect(logged.at(-1)).toEqual({
      event: "standby_phase",
      log: "orders",
      from: "bootstrapping",
      to: "following",
      applied: "3",
      head: "3",
      reason: "everything up to 3 has been applied",
    });
  });

  it("is true when it is asked, though nobody has looked in between", () => {
    see(3n, 3n);
    expect(record.now.kind).toBe("following");
    sight = { ...sight, headAgeMs: 1001 };
    expect(record.now.kind).toBe("reconnecting");
    expect(path()).toEqual(["connecting → following", "following → reconnecting"]);
  });

  it("leaves out that a follower of a busy log is behind for moments, which the phase tells all the same", () => {
    see(3n, 3n);
    for (let head = 4n; head < 100n; head++) {
      see(head - 1n, head);
      expect(record.now.kind).toBe("catching up");
      nowMs += 900;
      see(head, head);
      expect(record.now.kind).toBe("following");
    }
    expect(path()).toEqual(["connecting → following"]);
  });

  it("dates one that stays behind from when it began", () => {
    see(3n, 3n);
    see(3n, 4n);
    nowMs += 1000;
    see(3n, 9n);
    expect(record.changes.at(-1)).toMatchObject({ to: "catching up", atWallMs: 1_700_000_005_000, head: 4n });
    see(9n, 9n);
    expect(path()).toEqual(["connecting → following", "following → catching up", "catching up → following"]);
  });

  it("holds no more than the newest changes", () => {
    for (let index = 0; index < CHANGES_MAX; index++) {
      see(3n, 3n);
      see(3n, 3n, 1001);
    }
    expect(record.changes).toHaveLength(CHANGES_MAX);
    expect(told).toHaveLength(1 + 2 * CHANGES_MAX);
    expect(record.changes.at(-1)).toMatchObject({ from: "following", to: "reconnecting" });
  });

  it("says failed for ever", () => {
    see(3n, 3n);
    record.take({ kind: "failed", because: "a hole", isOtherHistory: false });
    see(4n, 4n);
    record.take({ kind: "won", final: 4n });
    expect(record.now).toEqual({ kind: "failed", because: "a hole", isOtherHistory: false });
  });
});
