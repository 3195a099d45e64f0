import type { Head } from "../gen/oplog/store/v1/store_pb.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KvStore } from "../oplog/kv-store.js";
import { HistoryDivergedError } from "../oplog/log-errors.js";
import { chainOf, isOtherChain } from "../oplog/record.js";
import { decodeHead } from "../stored/decode.js";
import { readOrigin } from "../stored/history.js";
import { isNewestHead } from "../stored/newest-head.js";
import { replacementOf } from "../stored/store-probe.js";

/** An entry that this process has seen in a log. */
export interface EntrySeen {
  readonly logId: Uint8Array;
  readonly id: bigint;
  readonly chain: string;
}

/**
 * To be called before a term is claimed, since the claim fences everyone else. Throws HistoryDivergedError if the store has
 * lost an entry that was seen, and StoreReplacedError if it is another store. A head from before that entry may be an answer from the past, so a transaction compares it.
 */
export async function requireKnownHistory(store: KvStore, keys: LogKeys, seen: EntrySeen | undefined): Promise<void> {
  if (seen === undefined) return;
  const { pair } = await store.get(keys.head);
  if (pair === undefined) return;
  const head = decodeHead(pair);
  if (Buffer.compare(head.logId, seen.logId) !== 0) return requireSameStore(store);
  if (head.lastSequenceId < seen.id) {
    if (await isNewestHead(store, keys, pair)) requireUpTo(keys, head, seen);
  } else {
    const { chain } = await readOrigin(store, keys, seen.id, head.logId);
    if (isOtherChain(chain, seen.chain)) throw new HistoryDivergedError(keys.log, seen.id, seen.chain, chain);
  }
}

/** A log with another id, or none, is there by right only in the store that the sidecar knows. Throws StoreReplacedError. */
export async function requireSameStore(store: KvStore): Promise<void> {
  const replaced = await replacementOf(store);
  if (replaced !== undefined) throw replaced;
}

/** The same for the head of a claim, as far as it tells by itself. */
export function requireUpTo(keys: LogKeys, head: Head, seen: EntrySeen | undefined): void {
  if (seen === undefined || Buffer.compare(head.logId, seen.logId) !== 0 || head.lastSequenceId > seen.id) return;
  const isShorter = head.lastSequenceId < seen.id;
  const chain = isShorter ? `none, since it ends at ${head.lastSequenceId}` : chainOf(head.recordNonce);
  if (isOtherChain(chain, seen.chain)) throw new HistoryDivergedError(keys.log, seen.id, seen.chain, chain);
}
