/** The time of a log may be ahead of the clock of its leader by this much, as after a clock was put back. */
export const LOG_AHEAD_MS_MAX = 86_400_000;
/** 2020: a clock that shows an earlier time has not been set. */
const CLOCK_SET_FROM_MS = 1_577_836_800_000;

/**
 * The time that a leader gives to what it writes now: that of its clock, and not earlier than the entry before. But an
 * entry before that is more than a day ahead was written by the mistake of a clock; then the leader's own counts again.
 */
export function logTimeMs(wallMs: number, newestMs: number): number {
  const isMistaken = newestMs - wallMs > LOG_AHEAD_MS_MAX && wallMs >= CLOCK_SET_FROM_MS;
  return isMistaken ? wallMs : Math.max(wallMs, newestMs);
}
