import { expect, it } from "vitest";
import { rivalry } from "./rivalry.js";
import { useFakeTime } from "./support.js";

useFakeTime();

const SEEDS = 300;
const STEPS = 400;

it("two sidecars that fight over one log through broken networks lose, double and reorder nothing", async () => {
  let commits = 0;
  let terms = 0;
  let unknown = 0;
  for (let seed = 1; seed <= SEEDS; seed++) {
    const verdict = await rivalry(seed, STEPS);
    expect(verdict.violations, `seed ${seed}`).toEqual([]);
    commits += verdict.commits;
    terms += verdict.terms;
    unknown += verdict.unknown;
  }
  // What was meant to happen did: records, changes of leader, and outcomes that nobody could know.
  expect(commits).toBeGreaterThan(SEEDS * 10);
  expect(terms).toBeGreaterThan(SEEDS * 3);
  expect(unknown).toBeGreaterThan(SEEDS / 10);
});
