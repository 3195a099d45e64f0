import { expect, it } from "vitest";
import { LeadershipHistory, type Revision } from "./leadership-history.js";

const elected = (term: number, owner: string) => ({ term, owner, isElected: true });
const key = (id: string, term: number) => ({ id, term, nonce: `campaign of ${id}` });
/** Of a term whose first entry has that id, too; of a later one, for which nothing was written. */
const leading = (candidate: string, term: number, atMs: number) => ({
  candidate,
  term,
  atMs,
  next: term,
  applied: term - 1,
});
const record = (id: number, term: number) => [{ first: id, last: id, term }];

/** An unelected term; a lease that runs out; a hand-over from b to a; a second term of a. */
const GOOD: readonly Revision[] = [
  { revision: 1, term: { term: 1, owner: "s", isElected: false } },
  { revision: 2, records: record(1, 1) },
  { revision: 3, term: elected(2, "a"), leader: key("a", 2) },
  { revision: 4, records: record(2, 2) },
  { revision: 5, leader: null },
  { revision: 6, term: elected(3, "b"), leader: key("b", 3) },
  { revision: 7, records: record(3, 3) },
  { revision: 8, successor: "a" },
  { revision: 9, term: elected(4, "a"), leader: key("a", 4), successor: null },
  { revision: 10, records: record(4, 4) },
  { revision: 11, term: elected(5, "a"), leader: key("a", 5) },
  { revision: 12, records: record(5, 5) },
];

function historyOf(revisions: readonly Revision[]): LeadershipHistory {
  const history = new LeadershipHistory();
  for (const revision of revisions) history.committed(revision);
  history.leading(leading("process a", 2, 100));
  history.promised("process a", 2, 150);
  history.promised("process a", 2, 250);
  history.promised("process a", 2, 200);
  history.leading(leading("process b", 3, 300));
  return history;
}

const without = (revision: number) => GOOD.filter((each) => each.revision !== revision);
const at = (revision: number, change: Partial<Revision>) =>
  GOOD.map((each) => (each.revision === revision ? { ...each, ...change } : each));

it("finds nothing wrong with a good history", () => {
  expect(historyOf(GOOD).violations()).toEqual([]);
});

it.each<[string, readonly Revision[], RegExp]>([
  ["a term that does not rise", at(6, { term: elected(2, "b"), leader: key("b", 2) }), /do not rise: 2 after 2/],
  ["revisions that go back", [...GOOD, { revision: 3 }], /revisions out of order: 3/],
  ["a record of a fenced term", at(7, { records: record(3, 2) }), /not the newest: 3 of term 2 in 3 at revision 7/],
  [
    "a record after the lease has run out",
    at(4, { leader: null }).map((each) => (each.revision === 5 ? { revision: 5, records: record(2, 2) } : each)),
    /outside of their leadership: 2 of term 2 at revision 5/,
  ],
  [
    "a record between two leaders",
    [...GOOD, { revision: 13, leader: null }, { revision: 14, records: record(6, 5) }],
    /outside of their leadership: 6 of term 5 at revision 14/,
  ],
  [
    "a record while somebody is invited to lead",
    GOOD.flatMap((each) => (each.revision === 8 ? [each, { revision: 8.5, records: record(4, 3) }] : [each])),
    /while somebody is invited to lead: 4 at revision 8.5/,
  ],
  ["a hole between records", at(10, { records: record(5, 4) }), /records out of order: 5 after 3/],
  ["a leader key over that of another", without(5), /put over another's: term 3 of b over term 2 of a at revision 6/],
  ["a leader key without an invitation", without(8), /put over another's: term 4 of a over term 3 of b/],
  ["an invitation that is not used up", at(9, { successor: "a" }), /put over another's: term 4 of a/],
  ["an invitation of somebody else", at(8, { successor: "c" }), /put over another's: term 4 of a/],
  ["a leader key of another term", at(6, { leader: key("b", 4) }), /without their term: term 4 of b/],
  ["a leader key of somebody else", at(6, { leader: key("c", 3) }), /without their term: term 3 of c/],
  ["a leader key without a term", [...GOOD, { revision: 13, leader: key("a", 5) }], /without their term: term 5 of a/],
])("catches %s", (_what, revisions, problem) => {
  expect(historyOf(revisions).violations().join("\n")).toMatch(problem);
});

const givesUp: [string, (history: LeadershipHistory, atMs: number) => void][] = [
  ["has left", (history, atMs) => history.left("process b", atMs)],
  ["has given it up", (history, atMs) => history.gaveUp(3, atMs)],
];

it.each(givesUp)("catches a leading within the time that was promised to another, unless that one %s", (_how, end) => {
  const history = historyOf(GOOD);
  history.promised("process b", 3, 450);
  history.leading(leading("process a", 4, 400));
  expect(history.violations()).toEqual([
    expect.stringMatching(/overlaps: term 4 of process a began 50\.0 ms before the end of term 3 of process b/),
  ]);
  end(history, 410);
  expect(history.violations()).toEqual([expect.stringMatching(/began 10\.0 ms before/)]);
  end(history, 390);
  expect(history.violations()).toEqual([]);
});

it("lets a candidate follow itself at once", () => {
  const history = historyOf(GOOD);
  history.leading(leading("process a", 4, 400));
  history.promised("process a", 4, 700);
  history.leading(leading("process a", 5, 500));
  expect(history.violations()).toEqual([]);
});

it("catches two leaders of a term, and one whose term is not in the store", () => {
  const history = historyOf(GOOD);
  history.leading(leading("process c", 3, 400));
  history.leading(leading("process c", 9, 500));
  expect(history.violations().join("\n")).toMatch(
    /two leaders: 3 of process b and process c[\s\S]*nobody was elected.*9/,
  );
});

it.each([
  ["has not applied everything", { next: 5, applied: 3 }, /began elsewhere: term 5 of process a, with 3 applied/],
  ["begins later than it was told", { next: 4, applied: 3 }, /was to begin at 4 and began at 5/],
])("catches a leader that %s", (_what, begins, problem) => {
  const history = historyOf(GOOD);
  history.leading({ ...leading("process a", 5, 500), ...begins });
  expect(history.violations().join("\n")).toMatch(problem);
});
