import { LeaderLeaseSchema } from "../gen/oplog/store/v1/store_pb.js";
import type { LogKeys } from "../oplog/keys.js";
import { firstOf } from "../oplog/kv-pages.js";
import type { CallOptions, KvStore } from "../oplog/kv-store.js";
import { chainOf } from "../oplog/record.js";
import { decodeState, decodeTerm } from "./decode.js";
import { requireHead } from "./deletion.js";
import { openRecord } from "./history.js";

export interface HeadAtRest {
  readonly logId: Uint8Array;
  readonly head: bigint;
  /** In hex; "" = not known. */
  readonly chain: string;
}

/** A log that does not exist is an empty one, without an id. */
export async function readHead(store: KvStore, keys: LogKeys, options: CallOptions): Promise<HeadAtRest> {
  const { pair } = await store.get(keys.head, options);
  if (pair === undefined) return { logId: new Uint8Array(), head: 0n, chain: "" };
  const { logId, lastSequenceId, recordNonce } = requireHead(keys, pair);
  return { logId, head: lastSequenceId, chain: chainOf(recordNonce) };
}

export interface IdRange {
  readonly first: bigint;
  readonly last: bigint;
}

/** The first ids from `from` on that are missing in the store, although it has later ones, or its head is later. */
export async function readMissing(
  store: KvStore,
  keys: LogKeys,
  from: bigint,
  { logId, head }: HeadAtRest,
  options: CallOptions,
): Promise<IdRange | undefined> {
  if (from > head) return undefined;
  const pair = await firstOf(store, { from: keys.record(from), to: keys.recordsTo }, options);
  const found = pair === undefined ? head + 1n : openRecord(keys, pair, logId).header.firstSequenceId;
  return found > from ? { first: from, last: found - 1n } : undefined;
}

export interface LeaderLease {
  readonly holder: string;
  /** If it is not renewed. Undefined: it never ends by itself. */
  readonly leftMs: number | undefined;
}

/** Undefined: nobody holds the lease of the leader. */
export async function readLease(store: KvStore, keys: LogKeys, options: CallOptions): Promise<LeaderLease | undefined> {
  const { pair } = await store.get(keys.leader, options);
  if (pair === undefined) return undefined;
  const holder = decodeState(LeaderLeaseSchema, pair).id;
  if (pair.leaseId === 0n) return { holder, leftMs: undefined };
  // The lease is gone; its key is about to be deleted too.
  return { holder, leftMs: (await store.leaseTimeLeft(pair.leaseId, options)) ?? 0 };
}

export interface TokenClaim {
  readonly holder: string;
  readonly token: bigint;
}

/** Undefined: the log is not claimed by tokens, so that candidates are elected. */
export async function readTokenClaim(
  store: KvStore,
  keys: LogKeys,
  options: CallOptions,
): Promise<TokenClaim | undefined> {
  const term = decodeTerm((await store.get(keys.term, options)).pair);
  return term === undefined || term.token === 0n ? undefined : { holder: term.owner, token: term.token };
}
