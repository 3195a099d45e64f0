import { expect, it } from "vitest";
import { rivalry } from "./rivalry.js";
import { useFakeTime } from "./support.js";

useFakeTime();

const SEEDS = 400;
const STEPS = 400;

it("two sidecars that fight over one log through broken networks lose, double and reorder nothing, and no answer to a question turns out false", async () => {
  let commits = 0;
  let terms = 0;
  let unknown = 0;
  let resolved = 0;
  let notCommitted = 0;
  for (let seed = 1; seed <= SEEDS; seed++) {
    const verdict = await rivalry(seed, STEPS);
    expect(verdict.violations, `seed ${seed}`).toEqual([]);
    commits += verdict.commits;
    terms += verdict.terms;
    unknown += verdict.unknown;
    resolved += verdict.resolved;
    notCommitted += verdict.notCommitted;
  }
  // What was meant to happen did: records, changes of leader, and outcomes that nobody could know.
  expect(commits).toBeGreaterThan(SEEDS * 10);
  expect(terms).toBeGreaterThan(SEEDS * 3);
  expect(unknown).toBeGreaterThan(SEEDS / 10);
  expect(resolved).toBeGreaterThan(10_000);
  expect(notCommitted).toBeGreaterThan(resolved / 10);
}, 240_000);
