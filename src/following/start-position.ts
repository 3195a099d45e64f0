import {
  BeyondHeadError,
  LogReplacedError,
  NotOfferedError,
  TermDivergedError,
  TrimmedError,
} from "../oplog/errors.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KvStore } from "../oplog/kv-store.js";
import { readCursor } from "../stored/cursors.js";
import { decodeHead } from "../stored/decode.js";
import { readFloor, readHeader, readTerm } from "../stored/history.js";
import type { LogFeed } from "./log-feed.js";

export type Start =
  | { readonly kind: "beginning" }
  /** `previousTerm` 0n = not checked. */
  | { readonly kind: "sequence"; readonly from: bigint; readonly previousTerm: bigint }
  | { readonly kind: "head" }
  | { readonly kind: "time"; readonly timestampMs: bigint }
  | { readonly kind: "cursor"; readonly consumer: string }
  | { readonly kind: "snapshot" };

/** The first id that a subscriber is to receive. Throws OplogError for a place that does not exist. */
export async function resolveStart(store: KvStore, keys: LogKeys, feed: LogFeed, start: Start): Promise<bigint> {
  switch (start.kind) {
    case "beginning":
      return (await readFloor(store, keys)).sequenceId;
    case "head":
      return (await storedHead(store, keys, feed)) + 1n;
    case "sequence":
      return requireReadable(store, keys, feed, start.from, start.previousTerm);
    case "cursor": {
      const { appliedSequenceId } = await readCursor(store, keys, start.consumer);
      return requireReadable(store, keys, feed, appliedSequenceId + 1n, 0n);
    }
    case "time":
      return findTime(store, keys, feed, start.timestampMs);
    case "snapshot":
      throw new NotOfferedError("from_snapshot", "true");
  }
}

export function requireLogId(feed: LogFeed, expected: Uint8Array): void {
  if (expected.length === 0 || feed.logId === undefined || Buffer.compare(feed.logId, expected) === 0) return;
  throw new LogReplacedError(Buffer.from(expected).toString("hex"), Buffer.from(feed.logId).toString("hex"));
}

async function requireReadable(
  store: KvStore,
  keys: LogKeys,
  feed: LogFeed,
  from: bigint,
  previousTerm: bigint,
): Promise<bigint> {
  // The feed may be a moment behind what the subscriber has seen through another sidecar.
  if (from > feed.head + 1n) await requireStored(store, keys, feed, from - 1n);
  const floor = await readFloor(store, keys);
  if (from < floor.sequenceId) throw new TrimmedError(from, floor.sequenceId);
  if (previousTerm !== 0n && from > 1n) {
    const term = from === floor.sequenceId ? floor.previousTerm : await termOf(store, keys, feed, from - 1n);
    if (term !== 0n && term !== previousTerm) throw new TermDivergedError(from - 1n, previousTerm, term);
  }
  return from;
}

async function requireStored(store: KvStore, keys: LogKeys, feed: LogFeed, id: bigint): Promise<void> {
  const head = await storedHead(store, keys, feed);
  if (id > head) throw new BeyondHeadError(id + 1n, head);
}

async function storedHead(store: KvStore, keys: LogKeys, feed: LogFeed): Promise<bigint> {
  const { pair } = await store.get(keys.head);
  const head = pair === undefined ? 0n : decodeHead(pair).lastSequenceId;
  return head > feed.head ? head : feed.head;
}

/** 0n when the record is gone. */
async function termOf(store: KvStore, keys: LogKeys, feed: LogFeed, id: bigint): Promise<bigint> {
  return feed.find(id)?.term ?? (await readTerm(store, keys, id, feed.logId));
}

/** Bisects over ids: timestamps never decrease along a log. All entries of a record have the same one. */
async function findTime(store: KvStore, keys: LogKeys, feed: LogFeed, timestampMs: bigint): Promise<bigint> {
  let low = (await readFloor(store, keys)).sequenceId;
  let high = feed.head + 1n;
  while (low < high) {
    const middle = (low + high) / 2n;
    const header = await readHeader(store, keys, middle, feed.logId);
    if (header === undefined) return high;
    if (header.timestampMs < timestampMs) low = header.lastSequenceId + 1n;
    else high = header.firstSequenceId < middle ? header.firstSequenceId : middle;
  }
  return low;
}
