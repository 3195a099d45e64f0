import { NotOfferedError } from "../oplog/errors.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KvStore } from "../oplog/kv-store.js";
import {
  BeyondHeadError,
  HistoryDivergedError,
  LogReplacedError,
  TermDivergedError,
  TrimmedError,
} from "../oplog/log-errors.js";
import { chainOf, isOtherChain, type Origin, UNKNOWN_ORIGIN } from "../oplog/record.js";
import { readCursor } from "../stored/cursors.js";
import { decodeHead } from "../stored/decode.js";
import { hex, isSameLog, requireStillThere } from "../stored/deletion.js";
import { readFloor, readHeader, readOrigin } from "../stored/history.js";
import { isNewestHead } from "../stored/newest-head.js";
import type { LogFeed } from "./log-feed.js";

export type Start =
  | { readonly kind: "beginning" }
  /** `previous`: of the entry before it; what is not known is not checked. */
  | { readonly kind: "sequence"; readonly from: bigint; readonly previous: Origin }
  | { readonly kind: "head" }
  | { readonly kind: "time"; readonly timestampMs: bigint }
  | { readonly kind: "cursor"; readonly consumer: string }
  | { readonly kind: "snapshot" };

/** Where a subscriber starts. */
export interface Place {
  /** The first id that it is to receive. */
  readonly next: bigint;
  /** Of the entry before, as far as it is known. */
  readonly previous: Origin;
}

/** Throws OplogError for a place that does not exist, or is of another history. */
export async function resolveStart(store: KvStore, keys: LogKeys, feed: LogFeed, start: Start): Promise<Place> {
  switch (start.kind) {
    case "beginning":
      return { next: (await readFloor(store, keys)).sequenceId, previous: UNKNOWN_ORIGIN };
    case "head":
      return afterHead(store, keys, feed);
    case "sequence":
      return requireReadable(store, keys, feed, start.from, start.previous);
    case "cursor": {
      const { appliedSequenceId, appliedChain } = await readCursor(store, keys, start.consumer);
      const previous = { term: 0n, chain: chainOf(appliedChain) };
      return requireReadable(store, keys, feed, appliedSequenceId + 1n, previous);
    }
    case "time":
      return { next: await findTime(store, keys, feed, start.timestampMs), previous: UNKNOWN_ORIGIN };
    case "snapshot":
      throw new NotOfferedError("from_snapshot", "true");
  }
}

/** A log that has never been is waited for, and so is one that the store has lost; one that was deleted never comes back. */
export async function requireLogId(store: KvStore, keys: LogKeys, feed: LogFeed, expected: Uint8Array): Promise<void> {
  if (expected.length === 0) return;
  if (feed.logId === undefined) await requireStillThere(store, keys, expected);
  else if (!isSameLog(feed.logId, expected)) throw new LogReplacedError(hex(expected), hex(feed.logId));
}

async function requireReadable(
  store: KvStore,
  keys: LogKeys,
  feed: LogFeed,
  from: bigint,
  previous: Origin,
): Promise<Place> {
  // The feed may be a moment behind what the subscriber has seen through another sidecar.
  if (from > feed.head + 1n) await requireStored(store, keys, feed, from - 1n, previous);
  const floor = await readFloor(store, keys);
  if (from < floor.sequenceId) throw new TrimmedError(from, floor.sequenceId);
  if (from === 1n || (previous.term === 0n && previous.chain === "")) return { next: from, previous };
  const { term: readTerm, chain } = await originOf(store, keys, feed, from - 1n);
  const term = readTerm === 0n && from === floor.sequenceId ? floor.previousTerm : readTerm;
  if (isOtherChain(chain, previous.chain)) {
    throw new HistoryDivergedError(keys.log, from - 1n, previous.chain, chain);
  }
  if (previous.term !== 0n && term !== 0n && term !== previous.term) {
    throw new TermDivergedError(from - 1n, previous.term, term);
  }
  return { next: from, previous: { term, chain: chain === "" ? previous.chain : chain } };
}

const HEAD_READS_MAX = 16;

async function requireStored(
  store: KvStore,
  keys: LogKeys,
  feed: LogFeed,
  id: bigint,
  { chain }: Origin,
): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const { pair } = await store.get(keys.head);
    const stored = pair === undefined ? 0n : decodeHead(pair).lastSequenceId;
    const head = stored > feed.head ? stored : feed.head;
    if (id <= head) return;
    if (chain === "" || attempt > HEAD_READS_MAX) throw new BeyondHeadError(id + 1n, head);
    // A subscriber that holds the chain of an entry has received it, so it was there. The head may be moving: read again.
    if (await isNewestHead(store, keys, pair)) {
      const end = pair === undefined ? "there is no such log" : `it ends at ${stored}`;
      throw new HistoryDivergedError(keys.log, id, chain, `none, since ${end}`);
    }
  }
}

async function afterHead(store: KvStore, keys: LogKeys, feed: LogFeed): Promise<Place> {
  const { pair } = await store.get(keys.head);
  const head = pair && decodeHead(pair);
  if (head !== undefined && head.lastSequenceId >= feed.head) {
    return { next: head.lastSequenceId + 1n, previous: { term: head.term, chain: chainOf(head.recordNonce) } };
  }
  return { next: feed.head + 1n, previous: originIn(feed, feed.head) ?? UNKNOWN_ORIGIN };
}

async function originOf(store: KvStore, keys: LogKeys, feed: LogFeed, id: bigint): Promise<Origin> {
  return originIn(feed, id) ?? (await readOrigin(store, keys, id, feed.logId));
}

/** Without what else the run holds: it may be kept for as long as the subscriber stays. */
function originIn(feed: LogFeed, id: bigint): Origin | undefined {
  const run = feed.find(id);
  return run && { term: run.term, chain: run.chain };
}

/** Bisects over ids: timestamps rarely go back along a log. All entries of a record have the same one. */
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
