import type { Clock } from "../oplog/clock.js";
import type { LogKeys } from "../oplog/keys.js";
import { type KvStore, StoreError } from "../oplog/kv-store.js";
import { Backoff, linkSignals, sleep } from "../oplog/timing.js";
import { isCurrent, type Leadership, readLeadership } from "./leadership.js";
import { requireNotLost } from "./store-failures.js";

interface LeaderWatchParts {
  readonly store: KvStore;
  readonly keys: LogKeys;
  readonly clock: Clock;
  /** Told of each attempt that fails; the next one follows. */
  readonly onFailed?: (error: StoreError) => void;
}

const RETRY_FIRST_MS = 50;
const RETRY_MAX_MS = 1000;

/**
 * Who leads a log: now, on every change, and every `rereadMs` as well, since a watch may have died without a sign. Goes on
 * through every break of the store, until the signal aborts. Throws StoreLostError when the data of the store is lost.
 */
export async function* watchLeadership(
  parts: LeaderWatchParts,
  rereadMs: number,
  signal: AbortSignal,
): AsyncGenerator<Leadership> {
  const { store, keys, clock } = parts;
  const backoff = new Backoff(clock, RETRY_FIRST_MS, Math.min(RETRY_MAX_MS, rereadMs));
  while (!signal.aborted) {
    try {
      const leadership = await readLeadership(store, keys);
      if (signal.aborted) return;
      yield leadership;
      await changeOf(parts, leadership.revision + 1n, rereadMs, signal);
      backoff.reset();
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      requireNotLost(error);
      parts.onFailed?.(error);
      await sleep(clock, backoff.delayMs(), signal);
    }
  }
}

/** Resolves to the first leadership that a compare shows to be another; undefined: the signal has aborted first. */
export async function awaitChange(
  parts: LeaderWatchParts,
  claimed: { readonly termRevision: bigint; readonly leaderRevision: bigint | undefined },
  rereadMs: number,
  signal: AbortSignal,
): Promise<Leadership | undefined> {
  for await (const leadership of watchLeadership(parts, rereadMs, signal)) {
    const { termRevision, leaderRevision } = leadership;
    const isAsClaimed = termRevision === claimed.termRevision && leaderRevision === claimed.leaderRevision;
    if (!isAsClaimed && (await isConfirmed(parts, leadership))) return leadership;
  }
  return undefined;
}

/** False: the reading was out of date, or the store cannot tell now; the caller reads again. */
export async function isConfirmed({ store, keys, clock }: LeaderWatchParts, seen: Leadership): Promise<boolean> {
  try {
    if (await isCurrent(store, keys, seen)) return true;
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    requireNotLost(error);
  }
  await sleep(clock, RETRY_FIRST_MS);
  return false;
}

/** Resolves on the next event, or when it is time to look again anyhow. */
async function changeOf(
  { store, keys, clock }: LeaderWatchParts,
  startRevision: bigint,
  rereadMs: number,
  signal: AbortSignal,
): Promise<void> {
  const seen = new AbortController();
  const { signal: both, unlink } = linkSignals(signal, seen.signal);
  const first = async (from: string, to: string) => {
    for await (const { events } of store.watch({ from, to, startRevision }, both)) if (events.length > 0) return;
  };
  const watches = [first(keys.term, `${keys.term}\0`), first(keys.leader, keys.leadershipTo)];
  try {
    await Promise.race([...watches, sleep(clock, rereadMs, both)]);
  } finally {
    seen.abort();
    unlink();
    await Promise.allSettled(watches);
  }
}
