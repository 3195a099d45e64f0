import { expect, it } from "vitest";
import { deletionRivalry } from "./deletion-rivalry.js";
import { useFakeTime } from "./support.js";

useFakeTime();

const SEEDS = 150;
const STEPS = 300;

it("sidecars that write, follow and delete one log through broken networks lose nothing of the log that is there, and bring nothing back", async () => {
  const sum = { logs: 0, commits: 0, acknowledged: 0, unknown: 0, notCommitted: 0, seen: 0 };
  for (let seed = 1; seed <= SEEDS; seed++) {
    const { violations, ...counts } = await deletionRivalry(seed, STEPS);
    expect(violations, `seed ${seed}`).toEqual([]);
    for (const [name, count] of Object.entries(counts)) sum[name as keyof typeof sum] += count;
  }
  // What was meant to happen did.
  expect(sum.logs).toBeGreaterThan(SEEDS * 3);
  expect(sum.commits).toBeGreaterThan(SEEDS * 10);
  expect(sum.acknowledged).toBeGreaterThan(SEEDS * 10);
  expect(sum.unknown).toBeGreaterThan(SEEDS / 10);
  expect(sum.notCommitted).toBeGreaterThan(SEEDS / 2);
  expect(sum.seen).toBeGreaterThan(SEEDS * 10);
}, 240_000);
