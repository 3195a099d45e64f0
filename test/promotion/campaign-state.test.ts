import { describe, expect, it } from "vitest";
import { CampaignLife } from "../../src/promotion/campaign-life.js";
import {
  BEGINNING,
  CAMPAIGN_KINDS,
  type CampaignEnding,
  type CampaignEvent,
  type CampaignState,
  lostIn,
  next,
} from "../../src/promotion/campaign-state.js";
import type { Lost } from "../../src/promotion/messages.js";

const before: Lost = { reason: "silent", message: "what came first" };

const STATES = {
  entering: BEGINNING,
  "entering again": { kind: "entering", after: "store unreachable" },
  waiting: { kind: "waiting" },
  invited: { kind: "invited" },
  won: { kind: "won" },
  leading: { kind: "leading" },
  stalled: { kind: "stalled" },
  finishing: { kind: "finishing", why: "what came first" },
  outlasting: { kind: "outlasting", ending: before },
  "outlasting an error": { kind: "outlasting", ending: "failed" },
  over: { kind: "over", ending: before },
  "over by an error": { kind: "over", ending: "failed" },
} satisfies Record<string, CampaignState>;

const EVENTS = {
  granted: { kind: "granted" },
  "lease expired": { kind: "lease lost", loss: "expired" },
  "lease not renewed": { kind: "lease lost", loss: "store unreachable" },
  invited: { kind: "invited" },
  "not its turn": { kind: "not its turn" },
  won: { kind: "won" },
  late: { kind: "late", missing: "1 of 2" },
  leads: { kind: "leads" },
  stalled: { kind: "stalled" },
  stopped: { kind: "stopped", why: "elsewhere" },
  taken: { kind: "taken", reason: "fenced", message: "b leads" },
  "handed over": { kind: "taken", reason: "handed over", message: "b leads" },
  vacated: { kind: "vacated" },
  resigned: { kind: "resigned", why: "done" },
  silent: { kind: "silent", why: "no sign" },
  settled: { kind: "settled" },
  failed: { kind: "failed" },
} satisfies Record<string, CampaignEvent>;

type StateName = keyof typeof STATES;
type EventName = keyof typeof EVENTS;

const stateNames = Object.keys(STATES) as StateName[];
const eventNames = Object.keys(EVENTS) as EventName[];

const over = (ending: CampaignEnding): CampaignState => ({ kind: "over", ending });
const overBy = (reason: Lost["reason"], message: string) => over({ reason, message });
const outlasting = (reason: Lost["reason"], message: string): CampaignState => ({
  kind: "outlasting",
  ending: { reason, message },
});

const UNLED = "the lease was lost before the candidate could lead";
const EXPIRED = "the lease has run out";
const UNREACHABLE = "the store could not be reached to renew the lease";

/** Whatever the candidate has not been promised is over at once. */
const ENDS_UNPROMISED: Partial<Record<EventName, CampaignState>> = {
  resigned: overBy("resigned", "done"),
  silent: overBy("silent", "no sign"),
  failed: over("failed"),
};

/** Whoever has a term may lose it. */
const LOSES_TERM: Partial<Record<EventName, CampaignState>> = {
  taken: overBy("fenced", "b leads"),
  "handed over": overBy("handed over", "b leads"),
  vacated: overBy("expired", EXPIRED),
};

const LOSES_LEASE_UNLED: Partial<Record<EventName, CampaignState>> = {
  "lease expired": overBy("expired", UNLED),
  "lease not renewed": overBy("store unreachable", UNLED),
};

const LOSES_LEASE_LEADING: Partial<Record<EventName, CampaignState>> = {
  "lease expired": overBy("expired", EXPIRED),
  "lease not renewed": overBy("store unreachable", UNREACHABLE),
};

const LOSES_LEASE_WAITING: Partial<Record<EventName, CampaignState>> = {
  "lease expired": { kind: "entering", after: "expired" },
  "lease not renewed": { kind: "entering", after: "store unreachable" },
};

const MAY_BE_RELIED_ON: Partial<Record<EventName, CampaignState>> = {
  silent: outlasting("silent", "no sign"),
  failed: { kind: "outlasting", ending: "failed" },
};

/** For each state what each event makes of it; what is not named leaves it as it is. */
const TABLE: Record<StateName, Partial<Record<EventName, CampaignState>>> = {
  entering: { ...ENDS_UNPROMISED, granted: { kind: "waiting" }, won: overBy("expired", UNLED) },
  "entering again": { ...ENDS_UNPROMISED, granted: { kind: "waiting" }, won: overBy("store unreachable", UNLED) },
  waiting: { ...ENDS_UNPROMISED, ...LOSES_LEASE_WAITING, invited: { kind: "invited" }, won: { kind: "won" } },
  invited: {
    ...ENDS_UNPROMISED,
    ...LOSES_LEASE_WAITING,
    "not its turn": { kind: "waiting" },
    late: { kind: "waiting" },
    won: { kind: "won" },
  },
  won: {
    ...ENDS_UNPROMISED,
    ...LOSES_LEASE_UNLED,
    ...LOSES_TERM,
    late: overBy("not ready", "1 of 2"),
    leads: { kind: "leading" },
  },
  leading: {
    ...MAY_BE_RELIED_ON,
    ...LOSES_LEASE_LEADING,
    ...LOSES_TERM,
    stalled: { kind: "stalled" },
    stopped: overBy("resigned", "elsewhere"),
    resigned: { kind: "finishing", why: "done" },
  },
  stalled: {
    ...MAY_BE_RELIED_ON,
    ...LOSES_LEASE_UNLED,
    ...LOSES_TERM,
    late: outlasting("not ready", "1 of 2"),
    leads: { kind: "leading" },
    resigned: overBy("resigned", "done"),
  },
  finishing: {
    ...LOSES_LEASE_LEADING,
    ...LOSES_TERM,
    settled: overBy("resigned", "what came first"),
    failed: over("failed"),
  },
  outlasting: {
    ...LOSES_TERM,
    "lease expired": over(before),
    "lease not renewed": over(before),
    resigned: over(before),
    settled: over(before),
    failed: { kind: "outlasting", ending: "failed" },
  },
  "outlasting an error": {
    "lease expired": over("failed"),
    "lease not renewed": over("failed"),
    taken: over("failed"),
    "handed over": over("failed"),
    vacated: over("failed"),
    resigned: over("failed"),
    settled: over("failed"),
  },
  over: {},
  "over by an error": {},
};

describe("the life of a candidate", () => {
  it.each(stateNames.flatMap((state) => eventNames.map((event) => [state, event] as const)))(
    "%s × %s",
    (stateName, eventName) => {
      const state = STATES[stateName];
      expect(next(state, EVENTS[eventName])).toEqual(TABLE[stateName][eventName] ?? state);
    },
  );

  it("has a row for every kind of state", () => {
    expect(new Set(Object.values(STATES).map(({ kind }) => kind))).toEqual(new Set(CAMPAIGN_KINDS));
    expect(Object.keys(TABLE)).toEqual(stateNames);
  });

  it.each(stateNames)("%s: comes to its end, whatever it waits for, once it is told to", (stateName) => {
    const asked = next(STATES[stateName], EVENTS.resigned);
    expect(next(asked, EVENTS.settled).kind).toBe("over");
  });

  it.each([
    ["leading", undefined],
    ["stalled", undefined],
    ["finishing", { reason: "resigned", message: "what came first" }],
    ["outlasting", before],
    ["outlasting an error", undefined],
    ["over", before],
    ["over by an error", undefined],
  ] as const)("%s: says why it does not go on", (stateName, lost) => {
    expect(lostIn(STATES[stateName])).toEqual(lost);
  });
});

describe("work for a state", () => {
  const aLife = (...events: EventName[]) => {
    const life = new CampaignLife();
    for (const event of events) life.take(EVENTS[event]);
    return life;
  };

  it("goes on through the kinds that it is for, and is stopped before another one is acted upon", () => {
    const life = aLife("granted");
    const waits = life.during("waiting", "invited");
    const waiting = life.during("waiting");
    const seen: string[] = [];
    waits.addEventListener("abort", () => seen.push(life.kind));
    life.take(EVENTS.invited);
    expect([waiting.aborted, waits.aborted]).toEqual([true, false]);
    life.take(EVENTS.late);
    expect(waits.aborted).toBe(false);
    life.take(EVENTS.won);
    expect(seen).toEqual(["won"]);
  });

  it("is not taken up again when the state comes back", () => {
    const life = aLife("granted", "won", "leads");
    const first = life.during("leading");
    life.take(EVENTS.stalled);
    life.take(EVENTS.leads);
    expect(first.aborted).toBe(true);
    expect(life.during("leading").aborted).toBe(false);
  });

  it("is stopped from the start when the state is another one", () => {
    expect(aLife("granted", "won").during("leading", "finishing").aborted).toBe(true);
  });

  it("shares one signal, so that asking again leaves nothing behind", () => {
    const life = aLife("granted", "won", "leads");
    expect(life.during("leading")).toBe(life.during("leading"));
  });
});
