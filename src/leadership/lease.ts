/** Room for clocks that run at different rates and for the way from a decision to its effect, as a share of the TTL. */
const MARGIN_SHARE = 0.05;
const MARGIN_MS_MIN = 100;
/** However slow the store is, and after a renewal that failed. */
export const RENEW_MS_MIN = 100;

/**
 * Until when a lease can be relied on, on the monotonic clock of its holder. The store starts the TTL when the renewal
 * arrives, so it cannot run out before the TTL has passed since the renewal was sent; the margin is what is left to stop
 * in before anyone else can have it.
 */
export function validUntilMs(renewalSentMs: number, ttlMs: number): number {
  return renewalSentMs + validForMs(ttlMs);
}

/** An answer that takes longer is of no use. */
export function validForMs(ttlMs: number): number {
  return ttlMs - Math.max(MARGIN_MS_MIN, ttlMs * MARGIN_SHARE);
}

/**
 * How long after a renewal the next one is sent. A renewal may fail twice before the lease is in danger. If answers take
 * long, the next one is sent before the last is answered: in the middle of the time that such an answer leaves.
 */
export function renewEveryMs(ttlMs: number, answerMs: number): number {
  return Math.max(RENEW_MS_MIN, Math.min(ttlMs / 3, (validForMs(ttlMs) - answerMs) / 2));
}
