import { fromBinary } from "@bufbuild/protobuf";
import { type Cursor, CursorSchema } from "../gen/oplog/store/v1/store_pb.js";
import { CursorNotFoundError } from "../oplog/errors.js";
import type { LogKeys } from "../oplog/keys.js";
import { wholeRange } from "../oplog/kv-pages.js";
import type { KvStore } from "../oplog/kv-store.js";

export const CURSORS_MAX = 1000;

/** A cursor as it is at rest. */
export interface StoredCursor {
  readonly consumer: string;
  readonly cursor: Cursor;
  readonly modRevision: bigint;
}

/** All cursors of a log, none missing that was there at `revision`. */
export interface CursorsRead {
  readonly cursors: StoredCursor[];
  readonly revision: bigint;
}

export async function readCursor(store: KvStore, keys: LogKeys, consumer: string): Promise<Cursor> {
  const { pair } = await store.get(keys.cursor(consumer));
  if (pair === undefined) throw new CursorNotFoundError(keys.log, consumer);
  return decodeCursor(pair.value);
}

export async function readCursors(store: KvStore, keys: LogKeys): Promise<CursorsRead> {
  const { pairs, revision } = await wholeRange(store, { from: keys.cursorsFrom, to: keys.cursorsTo });
  const cursors = pairs.map(({ key, value, modRevision }) => ({
    consumer: consumerOf(keys, key),
    cursor: decodeCursor(value),
    modRevision,
  }));
  return { cursors, revision };
}

export function consumerOf(keys: LogKeys, key: string): string {
  return key.slice(keys.cursorsFrom.length);
}

export function decodeCursor(value: Uint8Array): Cursor {
  return fromBinary(CursorSchema, value);
}
