import { fromBinary } from "@bufbuild/protobuf";
import { type Cursor, CursorSchema } from "../gen/oplog/store/v1/store_pb.js";
import { CursorNotFoundError } from "../oplog/errors.js";
import type { LogKeys } from "../oplog/keys.js";
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
  const cursors: StoredCursor[] = [];
  let revision: bigint | undefined;
  for (let from = keys.cursorsFrom, more = true; more && cursors.length < CURSORS_MAX; ) {
    const page = await store.range({ from, to: keys.cursorsTo, limit: CURSORS_MAX });
    revision ??= page.revision;
    for (const { key, value, modRevision } of page.pairs) {
      cursors.push({ consumer: consumerOf(keys, key), cursor: decodeCursor(value), modRevision });
      from = `${key}\0`;
    }
    more = page.more;
  }
  return { cursors, revision: revision! };
}

export function consumerOf(keys: LogKeys, key: string): string {
  return key.slice(keys.cursorsFrom.length);
}

export function decodeCursor(value: Uint8Array): Cursor {
  return fromBinary(CursorSchema, value);
}
