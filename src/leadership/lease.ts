/** Room for clocks that run at different rates and for the way from a decision to its effect, as a share of the TTL. */
const MARGIN_SHARE = 0.05;
const MARGIN_MS_MIN = 100;

/**
 * Until when a lease can be relied on, on the monotonic clock of its holder. The store starts the TTL when the renewal
 * arrives, so it cannot run out before the TTL has passed since the renewal was sent; the margin is what is left to stop
 * in before anyone else can have it.
 */
export function validUntilMs(renewalSentMs: number, ttlMs: number): number {
  return renewalSentMs + ttlMs - Math.max(MARGIN_MS_MIN, ttlMs * MARGIN_SHARE);
}

/** A renewal may fail twice before the lease is in danger. */
export function renewEveryMs(ttlMs: number): number {
  return ttlMs / 3;
}
