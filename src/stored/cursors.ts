import { fromBinary } from "@bufbuild/protobuf";
import { type Cursor, CursorSchema } from "../gen/oplog/store/v1/store_pb.js";
import { InvalidArgumentError } from "../oplog/errors.js";
import { isConsumerName, type LogKeys } from "../oplog/keys.js";
import { wholeRange } from "../oplog/kv-pages.js";
import type { KeyValue, KvStore } from "../oplog/kv-store.js";
import { CursorDamagedError, CursorNotFoundError } from "../oplog/log-errors.js";

/** Cursors of one log. Whoever makes one more is refused. */
export const CURSORS_MAX = 1000;

/** A cursor as it is at rest. */
export interface StoredCursor {
  readonly consumer: string;
  readonly cursor: Cursor;
  readonly modRevision: bigint;
}

/** A key among the cursors that is no cursor: its value cannot be read, or no consumer can have its name. */
export interface DamagedCursor {
  /** As the key has it. */
  readonly consumer: string;
  readonly problem: string;
  readonly modRevision: bigint;
}

/** All cursors of a log that were there at `revision`. */
export interface CursorsRead {
  readonly cursors: readonly StoredCursor[];
  readonly damaged: readonly DamagedCursor[];
  readonly revision: bigint;
}

/** Throws CursorNotFoundError and CursorDamagedError. */
export async function readCursor(store: KvStore, keys: LogKeys, consumer: string): Promise<Cursor> {
  const { pair } = await store.get(keys.cursor(consumer));
  if (pair === undefined) throw new CursorNotFoundError(keys.log, consumer);
  return requireCursor(keys, pair);
}

export async function readCursors(store: KvStore, keys: LogKeys): Promise<CursorsRead> {
  const { pairs, revision } = await wholeRange(store, { from: keys.cursorsFrom, to: keys.cursorsTo });
  const cursors: StoredCursor[] = [];
  const damaged: DamagedCursor[] = [];
  for (const pair of pairs) {
    const read = openCursor(keys, pair);
    if ("problem" in read) damaged.push(read);
    else cursors.push(read);
  }
  return { cursors, damaged, revision };
}

/** A damaged cursor is a loss for its own consumer only. */
export function openCursor(keys: LogKeys, { key, value, modRevision }: KeyValue): StoredCursor | DamagedCursor {
  const consumer = consumerOf(keys, key);
  if (!isConsumerName(consumer)) return { consumer, problem: "the key is no name of a consumer", modRevision };
  try {
    return { consumer, cursor: fromBinary(CursorSchema, value), modRevision };
  } catch (error) {
    return { consumer, problem: `the value is damaged: ${String(error)}`, modRevision };
  }
}

export function requireCursor(keys: LogKeys, pair: KeyValue): Cursor {
  const read = openCursor(keys, pair);
  if ("problem" in read) throw new CursorDamagedError(keys.log, read.consumer, read.problem);
  return read.cursor;
}

export function consumerOf(keys: LogKeys, key: string): string {
  return key.slice(keys.cursorsFrom.length);
}

const STORED_NAME = /^[\x20-\x7e]{1,512}$/;

/** Also the key of a damaged cursor, which may have a name that UpdateCursor refuses. */
export function storedCursorKey(keys: LogKeys, consumer: string): string {
  if (STORED_NAME.test(consumer)) return keys.cursorsFrom + consumer;
  const shown = JSON.stringify(consumer.slice(0, 200));
  throw new InvalidArgumentError("consumer", `${shown} is no name of a cursor: 1 to 512 printable ASCII characters`, {
    received: consumer.slice(0, 200),
  });
}
