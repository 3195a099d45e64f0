import { expect, it } from "vitest";
import { LOG_AHEAD_MS_MAX, logTimeMs } from "../../src/oplog/log-time.js";

const NOW_MS = 1_800_000_000_000;

it.each([
  ["goes with the clock", NOW_MS, NOW_MS - 1, NOW_MS],
  ["stands still while the clock is behind", NOW_MS, NOW_MS + 5, NOW_MS + 5],
  ["stands still for a day at most", NOW_MS, NOW_MS + LOG_AHEAD_MS_MAX, NOW_MS + LOG_AHEAD_MS_MAX],
  ["goes back to the clock where it is ahead by more", NOW_MS, NOW_MS + LOG_AHEAD_MS_MAX + 1, NOW_MS],
  ["does not go back to a clock that was never set", 5000, NOW_MS, NOW_MS],
])("the time of a log %s", (_, wallMs, newestMs, expected) => {
  expect(logTimeMs(wallMs, newestMs)).toBe(expected);
});
