import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { type Cursor, CursorSchema } from "../gen/oplog/store/v1/store_pb.js";
import { decodeHead } from "../leadership/claim.js";
import {
  BeyondHeadError,
  CursorNotFoundError,
  CursorRegressedError,
  InvalidArgumentError,
  LogNotFoundError,
  TooManyError,
} from "../oplog/errors.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KvStore } from "../oplog/kv-store.js";

export const STATE_HASH_BYTES_MAX = 64;
export const CURSORS_MAX = 1000;
const ATTEMPTS_MAX = 16;

export interface CursorUpdate {
  readonly consumer: string;
  readonly received: bigint;
  readonly flushed: bigint;
  readonly applied: bigint;
  readonly stateHash: Uint8Array;
  readonly isRewindAllowed: boolean;
}

/** Durable positions of named consumers. Resolves when the position is stored; answers the head. */
export async function updateCursor(
  store: KvStore,
  keys: LogKeys,
  update: CursorUpdate,
  wallMs: number,
): Promise<bigint> {
  const flushed = update.flushed === 0n ? update.applied : update.flushed;
  const received = update.received === 0n ? flushed : update.received;
  if (flushed < update.applied) throw orderError("flushed_sequence_id", flushed, "applied_sequence_id", update.applied);
  if (received < flushed) throw orderError("received_sequence_id", received, "flushed_sequence_id", flushed);
  const key = keys.cursor(update.consumer);
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const [headRead, cursorRead] = await Promise.all([store.get(keys.head), store.get(key)]);
    if (headRead.pair === undefined) throw new LogNotFoundError(keys.log);
    const head = decodeHead(headRead.pair).lastSequenceId;
    if (received > head) throw new BeyondHeadError(received, head);
    if (cursorRead.pair === undefined) await requireRoom(store, keys);
    else if (!update.isRewindAllowed)
      requireForward(decodeCursor(cursorRead.pair.value), { received, flushed, applied: update.applied });
    const value = create(CursorSchema, {
      receivedSequenceId: received,
      flushedSequenceId: flushed,
      appliedSequenceId: update.applied,
      stateHash: update.stateHash,
      updatedAtMs: BigInt(wallMs),
    });
    const result = await store.txn({
      compares: [{ key, modRevision: cursorRead.pair?.modRevision ?? 0n }],
      writes: [{ kind: "put", key, value: toBinary(CursorSchema, value) }],
    });
    if (result.succeeded) return head;
  }
  throw new TooManyError(`concurrent updates of cursor "${update.consumer}"`, ATTEMPTS_MAX, 100);
}

export async function readCursor(store: KvStore, keys: LogKeys, consumer: string): Promise<Cursor> {
  const { pair } = await store.get(keys.cursor(consumer));
  if (pair === undefined) throw new CursorNotFoundError(keys.log, consumer);
  return decodeCursor(pair.value);
}

export async function listCursors(store: KvStore, keys: LogKeys): Promise<{ consumer: string; cursor: Cursor }[]> {
  const cursors: { consumer: string; cursor: Cursor }[] = [];
  for (let from = keys.cursorsFrom, more = true; more && cursors.length < CURSORS_MAX; ) {
    const page = await store.range({ from, to: keys.cursorsTo, limit: CURSORS_MAX });
    for (const { key, value } of page.pairs) {
      cursors.push({ consumer: key.slice(keys.cursorsFrom.length), cursor: decodeCursor(value) });
      from = `${key}\0`;
    }
    more = page.more;
  }
  return cursors;
}

function decodeCursor(value: Uint8Array): Cursor {
  return fromBinary(CursorSchema, value);
}

async function requireRoom(store: KvStore, keys: LogKeys): Promise<void> {
  const { pairs } = await store.range({
    from: keys.cursorsFrom,
    to: keys.cursorsTo,
    limit: CURSORS_MAX,
    keysOnly: true,
  });
  if (pairs.length >= CURSORS_MAX) throw new TooManyError("cursors of this log", CURSORS_MAX);
}

function requireForward(current: Cursor, wanted: { received: bigint; flushed: bigint; applied: bigint }): void {
  const positions: [string, bigint, bigint][] = [
    ["received_sequence_id", wanted.received, current.receivedSequenceId],
    ["flushed_sequence_id", wanted.flushed, current.flushedSequenceId],
    ["applied_sequence_id", wanted.applied, current.appliedSequenceId],
  ];
  for (const [field, yours, stored] of positions) {
    if (yours < stored) throw new CursorRegressedError(field, yours, stored);
  }
}

function orderError(field: string, value: bigint, above: string, bound: bigint): InvalidArgumentError {
  return new InvalidArgumentError(field, `${value} is below ${above}, ${bound}; received >= flushed >= applied`, {
    received: value,
    limit: bound,
  });
}
