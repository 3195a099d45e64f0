import { describe, expect, it } from "vitest";
import { OutcomeUnknownError } from "../../src/oplog/append-errors.js";
import { ShuttingDownError } from "../../src/oplog/errors.js";
import { NotPrimaryError } from "../../src/oplog/leadership-errors.js";
import {
  courseOf,
  isForgettable,
  next,
  type PrimaryEvent,
  type PrimaryState,
  type Reign,
  roleOf,
  type Standing,
  UNCLAIMED,
} from "../../src/writing/primary-state.js";

const other = new NotPrimaryError("b", "b:7070", 9n);
const stalled = new OutcomeUnknownError("", 0n, "stalled");
const stopped = new ShuttingDownError();
const writer: Reign = { term: 3n, isElected: false };
const elected: Reign = { term: 3n, isElected: true };
const later: Reign = { term: 4n, isElected: false };

/** One of each standing; those that hold a term hold 3. */
const STANDINGS = {
  none: { kind: "none" },
  preparing: { kind: "preparing", term: 3n, candidate: "c" },
  leading: { kind: "leading", writer },
  "leading elected": { kind: "leading", writer: elected },
  ended: { kind: "ended", term: 3n, error: stalled },
  fenced: { kind: "fenced", error: other },
} satisfies Record<string, Standing<Reign>>;

const EVENTS = {
  "claim begun by append": { kind: "claim begun", by: "append" },
  "claim begun outright": { kind: "claim begun", by: "outright" },
  claimed: { kind: "claimed", term: 4n },
  won: { kind: "won", term: 4n, candidate: "d" },
  opened: { kind: "opened", writer: later },
  "claim failed": { kind: "claim over", refusal: undefined },
  "claim refused": { kind: "claim over", refusal: other },
  "writer fenced": { kind: "writer ended", writer, end: { kind: "fenced", error: other } },
  "writer stalled": { kind: "writer ended", writer, end: { kind: "stalled", error: stalled } },
  "writer stopped": { kind: "writer ended", writer, end: { kind: "stopped", error: stopped } },
  "writer broken": { kind: "writer ended", writer, end: { kind: "data loss", error: stalled } },
  "elected writer fenced": { kind: "writer ended", writer: elected, end: { kind: "fenced", error: other } },
  "elected writer stalled": { kind: "writer ended", writer: elected, end: { kind: "stalled", error: stalled } },
  "stepped down": { kind: "stepped down", term: 3n, refusal: other },
  "stepped down from another term": { kind: "stepped down", term: 2n, refusal: other },
  adopted: { kind: "adopted" },
  "log deleted": { kind: "log deleted" },
  draining: { kind: "draining" },
} satisfies Record<string, PrimaryEvent<Reign>>;

type StandingName = keyof typeof STANDINGS;
type EventName = keyof typeof EVENTS;

const standingNames = Object.keys(STANDINGS) as StandingName[];
const eventNames = Object.keys(EVENTS) as EventName[];
const CLAIMING = ["no", "by append", "outright"] as const;

const preparing: Standing<Reign> = { kind: "preparing", term: 4n, candidate: "d" };
const opened: Standing<Reign> = { kind: "leading", writer: later };
const fenced: Standing<Reign> = { kind: "fenced", error: other };
const none: Standing<Reign> = { kind: "none" };
const endedBy = (error: typeof stalled | typeof stopped): Standing<Reign> => ({ kind: "ended", term: 3n, error });

/** For each standing what each event makes of it, whatever is being claimed; what is not named leaves it as it is. */
const TABLE: Record<StandingName, Partial<Record<EventName, Standing<Reign>>>> = {
  none: { won: preparing, opened },
  preparing: { won: preparing, opened, "stepped down": fenced },
  leading: {
    won: preparing,
    opened,
    "writer fenced": fenced,
    "writer stalled": none,
    "writer stopped": endedBy(stopped),
    "writer broken": endedBy(stalled),
    "stepped down": fenced,
  },
  "leading elected": {
    won: preparing,
    opened,
    "elected writer fenced": fenced,
    "elected writer stalled": endedBy(stalled),
    "stepped down": fenced,
  },
  ended: { won: preparing, opened, "stepped down": fenced, adopted: none, "log deleted": none },
  fenced: { won: preparing, opened, "log deleted": none },
};

function claimingAfter(claiming: PrimaryState<Reign>["claiming"], event: EventName) {
  if (event === "claim begun by append") return "by append";
  if (event === "claim begun outright") return "outright";
  if (event === "claim failed" || event === "claim refused") return "no";
  return event === "opened" && claiming === "by append" ? "no" : claiming;
}

function heldAfter(standing: Standing<Reign>, event: EventName): bigint {
  if (event === "claimed" || event === "won") return 4n;
  if (event === "adopted") return 0n;
  return event === "log deleted" && standing.kind === "none" ? 0n : 3n;
}

const aState = (standing: Standing<Reign>, more: Partial<PrimaryState<Reign>> = {}): PrimaryState<Reign> => ({
  standing,
  claiming: "no",
  heldTerm: 3n,
  isDraining: false,
  ...more,
});

describe("by what right a sidecar writes", () => {
  it.each(standingNames.flatMap((standing) => eventNames.map((event) => [standing, event] as const)))(
    "%s × %s",
    (standingName, eventName) => {
      for (const claiming of CLAIMING) {
        const before = aState(STANDINGS[standingName], { claiming });
        const isRefusedClaim = eventName === "claim refused" && claiming === "by append";
        const standing = isRefusedClaim ? fenced : (TABLE[standingName][eventName] ?? before.standing);
        expect(next(before, EVENTS[eventName]), `claiming: ${claiming}`).toEqual({
          standing,
          claiming: claimingAfter(claiming, eventName),
          heldTerm: heldAfter(standing, eventName),
          isDraining: eventName === "draining",
        });
      }
    },
  );

  it("has a row for every standing", () => {
    const kinds = new Set(Object.values(STANDINGS).map(({ kind }) => kind));
    expect(kinds).toEqual(new Set(["none", "preparing", "leading", "ended", "fenced"]));
    expect(Object.keys(TABLE)).toEqual(standingNames);
  });

  it("tells writers of one term apart", () => {
    const twin: Reign = { ...writer };
    const before = aState({ kind: "leading", writer: twin });
    expect(next(before, EVENTS["writer fenced"])).toBe(before);
  });
});

describe("an append", () => {
  const course = (standing: StandingName, more: Partial<PrimaryState<Reign>> = {}, claimsByAppend = true) =>
    courseOf(aState(STANDINGS[standing], more), claimsByAppend);

  it.each([
    ["none", "claim"],
    ["preparing", "refuse"],
    ["leading", "write"],
    ["leading elected", "write"],
    ["ended", "refuse"],
    ["fenced", "refuse by who leads"],
  ] as const)("of a sidecar that is %s: %s", (standing, kind) => {
    expect(course(standing).kind).toBe(kind);
  });

  it.each(standingNames.filter((name) => !name.startsWith("leading")))("waits for a claim: %s", (standing) => {
    expect(course(standing, { claiming: "by append" }).kind).toBe("join the claim");
    expect(course(standing, { claiming: "outright" }).kind).toBe("await the claim");
  });

  it("is written under the term that is held while another one is claimed", () => {
    expect(course("leading", { claiming: "outright" })).toEqual({ kind: "write", writer });
  });

  it.each(standingNames)("is refused by a sidecar that drains: %s", (standing) => {
    for (const claiming of CLAIMING) {
      expect(course(standing, { claiming, isDraining: true })).toMatchObject({ error: { reason: "SHUTTING_DOWN" } });
    }
  });

  it("claims nothing where leaders are elected, unless the term was this sidecar's own", () => {
    expect(course("none", { heldTerm: 0n }, false)).toMatchObject({ kind: "refuse by who leads" });
    expect(course("none", { heldTerm: 3n }, false)).toEqual({ kind: "claim" });
    expect(course("none", { heldTerm: 0n }, true)).toEqual({ kind: "claim" });
  });

  it("is told for whom the sidecar prepares", () => {
    expect(course("preparing")).toMatchObject({ error: { reason: "NOT_READY", facts: { candidate: "c", term: 3n } } });
  });
});

describe("what is told of it", () => {
  it.each([
    ["none", "standby"],
    ["preparing", "preparing"],
    ["leading", "primary"],
    ["ended", "standby"],
    ["fenced", "fenced"],
  ] as const)("%s has the role %s", (standing, role) => {
    expect(roleOf(aState(STANDINGS[standing]))).toBe(role);
  });

  it("is not that of one fenced where no term was ever held", () => {
    expect(roleOf(aState(STANDINGS.fenced, { heldTerm: 0n }))).toBe("standby");
  });

  it("may be forgotten only where no term was held and none is claimed", () => {
    expect(isForgettable(UNCLAIMED)).toBe(true);
    expect(isForgettable(aState(STANDINGS.fenced, { heldTerm: 0n }))).toBe(true);
    expect(isForgettable(aState(STANDINGS.none))).toBe(false);
    expect(isForgettable({ ...UNCLAIMED, claiming: "by append" })).toBe(false);
  });
});
