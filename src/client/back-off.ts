const FIRST_MS = 100;
/** Short of what a change of the leader takes: a candidate that does not follow is not ready for it. */
const LONGEST_MS = 1_000;

/**
 * How long to wait after so many failures: doubles up to the longest, and never less than the sidecar asks for. A part of
 * it is random, so that those who wait for the same thing do not return all at once.
 */
export function backOffMs(attempts: number, retryAfterMs = 0): number {
  const ceiling = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(attempts, 10));
  const backOff = ceiling * (0.5 + Math.random() / 2);
  return Math.ceil(Math.max(backOff, retryAfterMs * (1 + Math.random() / 4)));
}

/** Ends early when the signal aborts; never rejects. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done, { once: true });
  });
}
