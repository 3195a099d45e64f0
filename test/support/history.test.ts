import { expect, it } from "vitest";
import { History, type LoggedEntry, type Sequence } from "./history.js";

const OP = 1;
const entry = (text: string) => ({ opType: OP, key: `key of ${text}`, payload: Buffer.from(text) });

/** Three operations of two writers under two terms, seen by one subscriber; `change` is what went wrong. */
function historyWith(change: (entries: LoggedEntry[]) => LoggedEntry[], seen = change): History {
  const history = new History();
  history.sent("w1", 1n, [entry("a"), entry("b")]);
  history.sent("w2", 1n, [entry("c")]);
  history.sent("w1", 2n, [entry("d"), entry("e")]);
  history.sent("w2", 2n, [entry("never answered")]);
  history.sent("w2", 3n, [entry("refused")]);
  history.refused("w2", 3n);
  history.acknowledged("w1", 1n, { firstSequenceId: 1n, lastSequenceId: 2n, term: 1n });
  history.acknowledged("w2", 1n, { firstSequenceId: 3n, lastSequenceId: 3n, term: 1n });
  history.acknowledged("w1", 2n, { firstSequenceId: 4n, lastSequenceId: 5n, term: 2n });
  for (const logged of change(good())) history.log.add(logged);
  for (const logged of seen(good())) history.subscriber("s").add(logged);
  return history;
}

function good(): LoggedEntry[] {
  return ["a", "b", "c", "d", "e"].map((text, index) => ({
    ...entry(text),
    sequenceId: BigInt(index + 1),
    term: index < 3 ? 1n : 2n,
  }));
}

const unchanged = (entries: LoggedEntry[]): LoggedEntry[] => entries;
const at = (id: number, sequence: LoggedEntry[], change: Partial<LoggedEntry>): LoggedEntry[] =>
  sequence.map((logged) => (logged.sequenceId === BigInt(id) ? { ...logged, ...change } : logged));

it("finds nothing wrong with a good history", () => {
  expect(historyWith(unchanged).violations()).toEqual([]);
});

it("accepts an operation of unknown outcome in the log, and a retry with the same answer", () => {
  const history = historyWith((entries) => [...entries, { ...entry("never answered"), sequenceId: 6n, term: 2n }]);
  history.acknowledged("w1", 1n, { firstSequenceId: 1n, lastSequenceId: 2n, term: 1n });
  expect(history.violations()).toEqual([]);
});

it.each<[string, (entries: LoggedEntry[]) => LoggedEntry[], RegExp]>([
  ["a lost acknowledgement", (entries) => entries.slice(0, 3), /lost acknowledged operations: operation 2 of w1/],
  [
    "a duplicate",
    (entries) => [...entries, { ...entry("c"), sequenceId: 6n, term: 2n }],
    /entries that are in the log twice: 6/,
  ],
  ["an id that is used twice", (entries) => [...entries, entries.at(-1)!], /breaks in what the log has: 5 where 6/],
  [
    "a hole",
    (entries) => entries.filter(({ sequenceId }) => sequenceId !== 3n),
    /breaks in what the log has: 4 where 3/,
  ],
  [
    "a reorder",
    (entries) => at(2, at(1, entries, entry("b")), entry("a")),
    /torn operations: operation 1 of w1|elsewhere than acknowledged/,
  ],
  ["a changed content", (entries) => at(3, entries, { payload: Buffer.from("C") }), /entries nobody sent: 3/],
  [
    "a lower term after a higher",
    (entries) => at(5, entries, { term: 1n }),
    /lower terms after higher: 1 after 2 at 5/,
  ],
  ["another term than acknowledged", (entries) => at(4, at(5, entries, { term: 3n }), { term: 3n }), /elsewhere than/],
  [
    "a refused entry",
    (entries) => [...entries, { ...entry("refused"), sequenceId: 6n, term: 2n }],
    /refused entries in the log: operation 3 of w2/,
  ],
  [
    "half of an operation",
    (entries) => [...entries.slice(0, 4), { ...entry("never answered"), sequenceId: 5n, term: 2n }],
    /torn operations: operation 2 of w1/,
  ],
])("catches %s in the log", (_what, change, problem) => {
  expect(historyWith(change).violations().join("\n")).toMatch(problem);
});

it.each<[string, (entries: LoggedEntry[]) => LoggedEntry[], RegExp]>([
  ["a hole", (entries) => entries.filter(({ sequenceId }) => sequenceId !== 2n), /breaks in what subscriber s has/],
  [
    "a repeat",
    (entries) => [...entries.slice(0, 2), ...entries.slice(1)],
    /breaks in what subscriber s has: 2 where 3/,
  ],
  ["a late start", (entries) => entries.slice(1), /breaks in what subscriber s has: 2 where 1/],
  ["a missing end", (entries) => entries.slice(0, 4), /ends of subscriber s: 4, the log ends at 5/],
  ["another content", (entries) => at(3, entries, entry("x")), /entries that are different for subscriber s: 3/],
  ["another term", (entries) => at(3, entries, { term: 2n }), /entries that are different for subscriber s: 3/],
  [
    "an entry that is not durable",
    (entries) => [...entries, { ...entry("never answered"), sequenceId: 6n, term: 2n }],
    /entries that only subscriber s has: 6/,
  ],
])("catches %s at a subscriber", (_what, change, problem) => {
  expect(historyWith(unchanged, change).violations().join("\n")).toMatch(problem);
});

it("catches a retry that is answered with other ids", () => {
  const history = historyWith(unchanged);
  history.acknowledged("w2", 1n, { firstSequenceId: 4n, lastSequenceId: 4n, term: 1n });
  expect(history.violations().join("\n")).toMatch(/two answers: operation 1 of w2/);
});

it("gives sequences the same hash only if ids, terms and contents are the same", () => {
  const hashOf = (change: (entries: LoggedEntry[]) => LoggedEntry[]) => {
    const sequence: Sequence = new History().subscriber("s");
    for (const logged of change(good())) sequence.add(logged);
    return sequence.hash;
  };
  expect(hashOf(unchanged)).toBe(hashOf(unchanged));
  expect(hashOf((entries) => at(3, entries, { term: 2n }))).not.toBe(hashOf(unchanged));
  expect(hashOf((entries) => at(3, entries, entry("x")))).not.toBe(hashOf(unchanged));
});
