import type { Clock } from "../oplog/clock.js";
import { StoreError } from "../oplog/kv-store.js";
import { Backoff, sleep } from "../oplog/timing.js";
import { requireNotLost } from "../stored/store-failures.js";

const RETRY_FIRST_MS = 50;
const RETRY_MAX_MS = 1000;

/** Undefined: the signal has aborted first. Throws StoreLostError. */
export async function untilStoreAnswers<T>(
  clock: Clock,
  work: () => Promise<T>,
  signal: AbortSignal,
  onFailed: (error: StoreError) => void = () => undefined,
): Promise<T | undefined> {
  const backoff = new Backoff(clock, RETRY_FIRST_MS, RETRY_MAX_MS);
  while (!signal.aborted) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      requireNotLost(error);
      onFailed(error);
      await sleep(clock, backoff.delayMs(), signal);
    }
  }
  return undefined;
}

export async function unlessStoreFails<T>(
  work: () => Promise<T>,
  otherwise: T,
  onFailed: (error: StoreError) => void = () => undefined,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    onFailed(error);
    return otherwise;
  }
}
