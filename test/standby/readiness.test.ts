import { describe, expect, it } from "vitest";
import { assess, type BlockerKind, type ReadinessFacts } from "../../src/standby/readiness.js";

const PROMOTABLE: ReadinessFacts = {
  life: { kind: "following", loadTo: 10n },
  applied: 12n,
  headSeen: 12n,
  headAgeMs: 20,
  appliedPerSecond: undefined,
  head: 12n,
  unread: undefined,
  refusal: undefined,
  damage: undefined,
  contradiction: undefined,
  missing: undefined,
  silence: undefined,
  lease: undefined,
  divergences: [],
  claim: undefined,
};

const LEASE = { holder: "master-a", leftMs: 3200 };
const CLAIM = { holder: "keeper", token: 7n };
const SILENCE = { delivered: 9n, elapsedMs: 8000 };

const CASES: [string, Partial<ReadinessFacts>, BlockerKind[]][] = [
  ["nothing is in the way", {}, []],
  ["more has been applied than the head that was read", { applied: 13n, headSeen: 13n }, []],
  ["newer entries have come since the head was read", { headSeen: 14n }, []],
  ["the log is empty", { applied: 0n, headSeen: 0n, head: 0n }, []],
  ["somebody leads", { lease: LEASE }, ["lease held"]],
  ["somebody leads for good", { lease: { holder: "x", leftMs: undefined } }, ["lease held"]],
  ["the log goes by tokens", { claim: CLAIM }, ["leadership by token"]],
  [
    "the log goes by tokens, and the lease of an elected leader has not run out yet",
    { claim: CLAIM, lease: LEASE },
    ["lease held", "leadership by token"],
  ],
  [
    "an entry is missing, and the log goes by tokens",
    { applied: 11n, claim: CLAIM },
    ["not caught up", "leadership by token"],
  ],
  ["an entry is missing here", { applied: 11n }, ["not caught up"]],
  ["an entry is missing, and somebody leads", { applied: 11n, lease: LEASE }, ["not caught up", "lease held"]],
  ["the first load runs", { life: { kind: "bootstrapping", loadTo: 10n }, applied: 4n }, ["bootstrapping"]],
  ["the watch is silent", { applied: 9n, silence: SILENCE }, ["tail silent", "not caught up"]],
  ["entries are missing in the store", { applied: 9n, missing: { first: 10n, last: 11n } }, ["gap", "not caught up"]],
  [
    "entries are missing, so that no watch runs",
    { applied: 9n, missing: { first: 10n, last: 11n }, silence: SILENCE },
    ["gap", "not caught up"],
  ],
  [
    "the head could not be read",
    { head: undefined, unread: { because: "away", elapsedMs: 8000 } },
    ["store unreachable"],
  ],
  ["only the lease could not be read", { unread: { because: "away", elapsedMs: 8000 } }, ["store unreachable"]],
  [
    "the head could not be read, and more was known of",
    { head: undefined, headSeen: 20n, unread: { because: "away", elapsedMs: 8000 } },
    ["store unreachable", "not caught up"],
  ],
  ["the view has lost the store", { life: { kind: "reconnecting", loadTo: 1n } }, ["store unreachable"]],
  [
    "the view has not reached the log",
    { life: { kind: "connecting" }, applied: 0n },
    ["store unreachable", "not caught up"],
  ],
  ["the view has failed", { life: { kind: "failed", because: "a hole", isOtherHistory: false } }, ["failed"]],
  ["what was read is damaged", { damage: "no term" }, ["failed"]],
  ["the store has another log", { contradiction: "another log" }, ["history diverged"]],
  [
    "the view has failed, for the store has another history",
    { life: { kind: "failed", because: "another history", isOtherHistory: true }, contradiction: "another history" },
    ["history diverged"],
  ],
  [
    "the view has failed, and the store has gone back",
    { life: { kind: "failed", because: "a hole", isOtherHistory: false }, contradiction: "the head is 5" },
    ["failed", "history diverged"],
  ],
  ["a candidate here is about to lead", { life: { kind: "promoting", final: 12n, loadTo: 1n } }, ["promoted"]],
  ["the store refuses", { refusal: "no space left" }, ["store refuses"]],
  [
    "the store refuses, and somebody leads",
    { refusal: "no space left", lease: LEASE },
    ["store refuses", "lease held"],
  ],
  [
    "a candidate here leads, and the store refuses",
    { life: { kind: "promoted", loadTo: 1n }, lease: LEASE, refusal: "no space left" },
    ["store refuses", "promoted", "lease held"],
  ],
  [
    "everything is wrong",
    {
      life: { kind: "bootstrapping", loadTo: 10n },
      applied: 4n,
      damage: "no term",
      contradiction: "another log",
      unread: { because: "away", elapsedMs: 1 },
      missing: { first: 5n, last: 5n },
      lease: LEASE,
      claim: CLAIM,
    },
    ["failed", "history diverged", "store unreachable", "gap", "bootstrapping", "lease held", "leadership by token"],
  ],
];

describe("the verdict", () => {
  it.each(CASES)("when %s", (_, facts, kinds) => {
    const { verdict, blockers } = assess({ ...PROMOTABLE, ...facts });
    expect(blockers.map(({ kind }) => kind)).toEqual(kinds);
    const isOnlyLease = kinds.length === 1 && kinds[0] === "lease held";
    expect(verdict).toBe(kinds.length === 0 ? "promotable" : isOnlyLease ? "standing by" : "not promotable");
  });

  it.each<[string, Partial<ReadinessFacts>, BlockerKind[]]>([
    ["a candidate here leads", { lease: LEASE }, ["promoted", "lease held"]],
    [
      "an entry of its own is just being written",
      { lease: LEASE, head: 13n },
      ["not caught up", "promoted", "lease held"],
    ],
    ["its lease has just run out", {}, ["promoted"]],
  ])("is that it leads when %s", (_, facts, kinds) => {
    const life = { kind: "promoted", loadTo: 1n } as const;
    const { verdict, blockers } = assess({ ...PROMOTABLE, life, ...facts });
    expect(blockers.map(({ kind }) => kind)).toEqual(kinds);
    expect(verdict).toBe("leading");
  });

  const only = (facts: Partial<ReadinessFacts>) => assess({ ...PROMOTABLE, ...facts }).blockers[0];

  it("tells how far behind, and for how long at the present rate", () => {
    expect(only({ applied: 2n, appliedPerSecond: 4 })).toEqual({
      kind: "not caught up",
      message: "applied 2 < head 12",
      applied: 2n,
      head: 12n,
      leftMs: 2500,
    });
    expect(only({ applied: 2n })).not.toHaveProperty("leftMs");
  });

  it("tells how much of the first load is done, and counts what came after it", () => {
    const facts = { life: { kind: "bootstrapping", loadTo: 10n } as const, applied: 4n, appliedPerSecond: 8 };
    expect(only(facts)).toEqual({
      kind: "bootstrapping",
      message: "the first load is at 40 %: applied 4 of 10, the head is 12",
      applied: 4n,
      head: 12n,
      leftMs: 1000,
    });
  });

  it("tells what is missing, since when the watch is silent, and who leads", () => {
    expect(only({ applied: 9n, missing: { first: 10n, last: 11n } })).toEqual({
      kind: "gap",
      message: "10 to 11 are missing after 9, and there are later ones",
      missing: { first: 10n, last: 11n },
    });
    expect(only({ applied: 9n, silence: SILENCE })).toEqual({
      kind: "tail silent",
      message: "the watch has brought nothing new for 8.0 s: it stands at 9, and the head is 12",
      applied: 9n,
      head: 12n,
      elapsedMs: 8000,
    });
    expect(only({ lease: LEASE })).toEqual({
      kind: "lease held",
      message: '"master-a" holds the lease of the leader for 3.2 s more unless it is renewed',
      holder: "master-a",
      leftMs: 3200,
    });
    expect(only({ claim: CLAIM })).toEqual({
      kind: "leadership by token",
      message: 'the log is claimed by tokens, the last one 7 of "keeper": nobody is elected',
      holder: "keeper",
    });
  });

  it("tells for how long the store has been silent", () => {
    expect(only({ head: undefined, unread: { because: "the store does not answer", elapsedMs: 8000 } })).toEqual({
      kind: "store unreachable",
      message: "the store does not answer (8.0 s by now)",
      elapsedMs: 8000,
    });
    expect(only({ life: { kind: "reconnecting", loadTo: 1n }, headAgeMs: 2000 })).toMatchObject({ elapsedMs: 2000 });
  });
});
