import type { Head, Term } from "../gen/oplog/store/v1/store_pb.js";
import type { LogKeys } from "../oplog/keys.js";
import { type Compare, type KeyValue, type KvStore, StoreUnreachableError } from "../oplog/kv-store.js";
import { LogDeletedError, LogNotFoundError, LogReplacedError } from "../oplog/log-errors.js";
import { decodeHead, decodeTerm } from "./decode.js";
import { readNewestHead } from "./newest-head.js";

/** The head of a log that can be used. Throws LogNotFoundError and LogDeletedError. */
export function requireHead(keys: LogKeys, pair: KeyValue | undefined): Head {
  if (pair === undefined) throw new LogNotFoundError(keys.log);
  return requireNotDeleting(keys, decodeHead(pair));
}

export function requireNotDeleting(keys: LogKeys, head: Head): Head {
  if (head.deleting) throw new LogDeletedError(keys.log, hex(head.logId), "is being deleted");
  return head;
}

/** The same for who knows already which log it is; undefined: any log of this name. Throws LogReplacedError too. */
export function requireUsable(keys: LogKeys, head: Head, logId: Uint8Array | undefined): void {
  if (logId !== undefined && !isSameLog(head.logId, logId)) throw new LogReplacedError(hex(logId), hex(head.logId));
  requireNotDeleting(keys, head);
}

export function isLogGone(error: unknown): error is LogDeletedError | LogReplacedError {
  return error instanceof LogDeletedError || error instanceof LogReplacedError;
}

/** The log that is gone, or going, if this term is what its deletion has left: nobody holds it. */
export function deletedIn(term: Term | undefined): Uint8Array | undefined {
  return term === undefined || term.deletedLogId.length === 0 ? undefined : term.deletedLogId;
}

export function isSameLog(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}

/** As far as one of the two tells. */
export function isBeingDeleted({ deleting, logId }: Head, term: Term | undefined): boolean {
  const deleted = deletedIn(term);
  return deleting || (deleted !== undefined && isSameLog(deleted, logId));
}

/** Undefined: there is no log. */
export async function readLogId(store: KvStore, keys: LogKeys): Promise<Uint8Array | undefined> {
  const { pair } = await store.get(keys.head);
  return pair && decodeHead(pair).logId;
}

export interface Deletion {
  readonly logId: Uint8Array;
  /** Nothing of that log is left. */
  readonly isOver: boolean;
}

/** Undefined: the last log of this name was not deleted, or the answers are of different times. */
export async function readDeletion(store: KvStore, keys: LogKeys): Promise<Deletion | undefined> {
  const logId = deletedIn(decodeTerm((await store.get(keys.term)).pair));
  if (logId === undefined) return undefined;
  const { pair } = await store.get(keys.head);
  if (pair !== undefined && !isSameLog(decodeHead(pair).logId, logId)) return undefined;
  return { logId, isOver: pair === undefined };
}

/**
 * To be asked when something of the log is missing, or seems to be of another log: throws LogDeletedError or
 * LogReplacedError if that is why. `logId` undefined: any log of this name. A log that is just not there any more is no
 * answer.
 */
export async function requireStillThere(store: KvStore, keys: LogKeys, logId: Uint8Array | undefined): Promise<void> {
  const pair = await readNewestHead(store, keys);
  if (pair !== undefined) {
    requireUsable(keys, decodeHead(pair), logId);
  } else if (logId !== undefined) {
    const deleted = deletedIn(decodeTerm((await store.get(keys.term)).pair));
    if (deleted !== undefined) throw gone(keys, logId, deleted, "was deleted");
  }
}

/** What holds as long as the log of one id is there, and is not being deleted. */
export interface LogFence {
  readonly term: Term | undefined;
  /** To make a log, and to delete it, puts the term. */
  readonly compare: Compare;
  /** What was read at this revision or later is of no log before. */
  readonly sinceRevision: bigint;
}

/**
 * For what is put beside the head: nothing may be left of a log that is deleted meanwhile, or come into another one of its
 * name. Throws LogDeletedError, LogReplacedError and LogNotFoundError.
 */
export async function fenceOf(store: KvStore, keys: LogKeys, logId: Uint8Array): Promise<LogFence> {
  const { pair } = await store.get(keys.term);
  const term = decodeTerm(pair);
  const sinceRevision = pair?.modRevision ?? 0n;
  const head = await store.get(keys.head);
  const deleted = deletedIn(term);
  if (deleted !== undefined) {
    throw gone(keys, logId, deleted, head.pair === undefined ? "was deleted" : "is being deleted");
  }
  if (head.revision < sinceRevision) throw new StoreUnreachableError("the store answers reads from the past");
  if (head.pair === undefined) throw new LogNotFoundError(keys.log);
  requireUsable(keys, decodeHead(head.pair), logId);
  return { term, compare: { key: keys.term, modRevision: sinceRevision }, sinceRevision };
}

function gone(keys: LogKeys, logId: Uint8Array, deleted: Uint8Array, state: "is being deleted" | "was deleted") {
  return isSameLog(deleted, logId)
    ? new LogDeletedError(keys.log, hex(logId), state)
    : new LogReplacedError(hex(logId), hex(deleted));
}

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}
