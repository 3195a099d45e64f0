import { FloorSchema, type RecordHeader } from "../gen/oplog/store/v1/store_pb.js";
import type { Clock } from "../oplog/clock.js";
import type { LogKeys } from "../oplog/keys.js";
import { firstOf, pagesOf } from "../oplog/kv-pages.js";
import type { KeyValue, KvStore, Page } from "../oplog/kv-store.js";
import { DataLossError, HistoryDivergedError, TrimmedError } from "../oplog/log-errors.js";
import {
  type CommittedRun,
  chainOf,
  decodeRecord,
  isOtherChain,
  type Origin,
  openBody,
  RecordDamagedError,
  type StoredRecord,
  UNKNOWN_ORIGIN,
} from "../oplog/record.js";
import { decodeHead, decodeState } from "./decode.js";
import { requireStillThere } from "./deletion.js";

const HOLE_MS_MIN = 3000;
const HOLE_READS_MIN = 3;

export interface Floor {
  readonly sequenceId: bigint;
  /** Of the entry before it; 0n = unknown. */
  readonly previousTerm: bigint;
}

export async function readFloor(store: KvStore, keys: LogKeys): Promise<Floor> {
  return decodeFloor((await store.get(keys.floor)).pair);
}

export function decodeFloor(pair: KeyValue | undefined): Floor {
  if (pair === undefined) return { sequenceId: 1n, previousTerm: 0n };
  const { sequenceId, previousTerm } = decodeState(FloorSchema, pair);
  return { sequenceId, previousTerm };
}

/** To which history an entry belongs, as far as the store still tells: of a trimmed one the record after it may. */
export async function readOrigin(
  store: KvStore,
  keys: LogKeys,
  id: bigint,
  logId: Uint8Array | undefined,
): Promise<Origin> {
  const header = await readHeader(store, keys, id, logId);
  if (header === undefined) return readHeadOrigin(store, keys, id);
  if (header.firstSequenceId <= id) return { term: header.term, chain: chainOf(header.nonce) };
  if (header.firstSequenceId === id + 1n) return { term: 0n, chain: chainOf(header.previousNonce) };
  return UNKNOWN_ORIGIN;
}

/** All records may have been trimmed. */
async function readHeadOrigin(store: KvStore, keys: LogKeys, id: bigint): Promise<Origin> {
  const { pair } = await store.get(keys.head);
  const head = pair && decodeHead(pair);
  return head?.lastSequenceId === id ? { term: head.term, chain: chainOf(head.recordNonce) } : UNKNOWN_ORIGIN;
}

/** Throws HistoryDivergedError when the run shows that the entry `last` is not the one that was seen. */
export function requireContinued(
  keys: LogKeys,
  run: Pick<CommittedRun, "first" | "last" | "chain" | "previousChain">,
  last: bigint,
  lastChain: string,
): void {
  const isHolding = run.first <= last && run.last >= last;
  const current = isHolding ? run.chain : run.first === last + 1n ? run.previousChain : "";
  if (isOtherChain(current, lastChain)) throw new HistoryDivergedError(keys.log, last, lastChain, current);
}

/** The header of the record that holds this id, or of the next one there is. */
export async function readHeader(store: KvStore, keys: LogKeys, id: bigint, logId: Uint8Array | undefined) {
  const pair = await firstOf(store, { from: keys.record(id), to: keys.recordsTo });
  return pair && (await openOwn(store, keys, pair, logId)).header;
}

/** Decodes a record of this log; a damaged or foreign one is DATA_LOSS. */
export function openRecord(keys: LogKeys, pair: KeyValue, logId: Uint8Array | undefined): StoredRecord {
  const last = keys.recordId(pair.key);
  try {
    if (last === undefined) throw new RecordDamagedError(`key ${pair.key}`);
    const record = decodeRecord(pair.value);
    if (record.header.lastSequenceId !== last) {
      throw new RecordDamagedError(`the record at ${last} says that it ends at ${record.header.lastSequenceId}`);
    }
    if (logId !== undefined && Buffer.compare(record.header.logId, logId) !== 0) {
      throw new RecordDamagedError("the record belongs to another log");
    }
    return record;
  } catch (error) {
    if (error instanceof RecordDamagedError) throw new DataLossError(keys.log, last ?? 0n, error.message);
    throw error;
  }
}

/** The same. Throws, as `requireStillThere` does, where the record is of another log that has come by this name. */
export async function openOwn(
  store: KvStore,
  keys: LogKeys,
  pair: KeyValue,
  logId: Uint8Array | undefined,
): Promise<StoredRecord> {
  try {
    return openRecord(keys, pair, logId);
  } catch (error) {
    if (error instanceof DataLossError) await requireStillThere(store, keys, logId);
    throw error;
  }
}

export function openRun(keys: LogKeys, record: StoredRecord): CommittedRun {
  const { firstSequenceId: first, lastSequenceId: last, term, timestampMs, nonce, previousNonce } = record.header;
  const chain = chainOf(nonce);
  try {
    return { first, last, term, chain, previousChain: chainOf(previousNonce), timestampMs, body: openBody(record) };
  } catch (error) {
    if (error instanceof RecordDamagedError) throw new DataLossError(keys.log, first, error.message);
    throw error;
  }
}

/** Pages of stored records from the one that holds `from` on. Records never change. */
export function readPages(store: KvStore, keys: LogKeys, from: bigint): AsyncGenerator<Page> {
  return pagesOf(store, { from: keys.record(from), to: keys.recordsTo });
}

type RecordIds = Pick<RecordHeader, "firstSequenceId" | "lastSequenceId">;

export interface HistoryEnd {
  /** The next id after everything read. */
  readonly next: bigint;
  /** As of this revision there was nothing more. */
  readonly revision: bigint;
}

/**
 * Every run from `from` on, contiguous and chained, as far as the store has any. `previousChain` is that of the entry
 * before; a run that does not continue what came before it throws HistoryDivergedError. Trimmed ids throw TrimmedError. A
 * hole that is still there when the floor has been read, and each time the reading is repeated by the caller, is the store's own.
 */
export async function* readHistory(
  store: KvStore,
  keys: LogKeys,
  from: bigint,
  logId: Uint8Array | undefined,
  previousChain = "",
): AsyncGenerator<CommittedRun, HistoryEnd> {
  let next = from;
  let chain = previousChain;
  let revision = 0n;
  for await (const page of readPages(store, keys, from)) {
    for (const pair of page.pairs) {
      const record = await openOwn(store, keys, pair, logId);
      const { firstSequenceId: first, lastSequenceId: last } = record.header;
      if (first > next) throw await holeAt(store, keys, next, first, logId);
      if (next > from && first < next) throw overlapAt(keys, record.header, next);
      const run = openRun(keys, record);
      requireContinued(keys, run, next - 1n, chain);
      yield run;
      next = last + 1n;
      chain = run.chain;
    }
    revision = page.revision;
  }
  return { next, revision };
}

/** Tells a hole that the store itself has from an answer out of the past, which etcd may give for a moment (#20418). */
export class HoleWatch {
  private seen: { readonly at: bigint; readonly sinceMs: number; reads: number } | undefined;

  constructor(private readonly clock: Clock) {}

  /** What was missing is there, or nothing is missing. */
  clear(): void {
    this.seen = undefined;
  }

  /** Call each time the entry `at` was found missing: true once it has been so for long enough. */
  isLasting(at: bigint): boolean {
    const nowMs = this.clock.monotonicMs();
    if (this.seen?.at !== at) this.seen = { at, sinceMs: nowMs, reads: 0 };
    this.seen.reads++;
    return this.seen.reads >= HOLE_READS_MIN && nowMs - this.seen.sinceMs >= HOLE_MS_MIN;
  }
}

/** A record holds entries that come before `next`, where it should begin. */
export function overlapAt(keys: LogKeys, { firstSequenceId: first, lastSequenceId: last }: RecordIds, next: bigint) {
  return new DataLossError(keys.log, first, `records overlap: ${first}..${last} where ${next} comes next`);
}

/** Why entries that must be there are not: trimmed, or lost. Throws, as `requireStillThere` does, where the log itself is gone. */
export async function holeAt(
  store: KvStore,
  keys: LogKeys,
  missing: bigint,
  found: bigint,
  logId: Uint8Array | undefined,
): Promise<TrimmedError | DataLossError> {
  const floor = await readFloor(store, keys);
  if (floor.sequenceId > missing) return new TrimmedError(missing, floor.sequenceId);
  await requireStillThere(store, keys, logId);
  return new DataLossError(keys.log, missing, `the store has no entries ${missing}..${found - 1n}`);
}
