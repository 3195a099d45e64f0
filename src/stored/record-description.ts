import type { LogKeys } from "../oplog/keys.js";
import type { KvStore } from "../oplog/kv-store.js";
import { BeyondHeadError } from "../oplog/log-errors.js";
import { chainOf, type Origin } from "../oplog/record.js";
import { requireHead } from "./deletion.js";
import { holeAt, readFloor, readHeader } from "./history.js";

/** A record without its entries, and the log that it is in. */
export interface RecordDescription extends Origin {
  readonly logId: Uint8Array;
  /** Both 0n: the log is empty. */
  readonly first: bigint;
  readonly last: bigint;
  readonly timestampMs: bigint;
  /** "" = there is none, or it is not known. */
  readonly previousChain: string;
  readonly head: bigint;
  readonly floor: bigint;
}

/** Of the record that holds this entry; 0n = the last one, of which the head tells most also when it has been trimmed. */
export async function describeRecord(store: KvStore, keys: LogKeys, id: bigint): Promise<RecordDescription> {
  const [{ pair }, { sequenceId: floor }] = await Promise.all([store.get(keys.head), readFloor(store, keys)]);
  const { logId, lastSequenceId: head, term, recordNonce, timestampMs } = requireHead(keys, pair);
  if (id > head) throw new BeyondHeadError(id, head);
  const wanted = id === 0n ? head : id;
  const log = { logId, head, floor };
  const header = wanted === 0n ? undefined : await readHeader(store, keys, wanted, logId);
  if (header !== undefined && header.firstSequenceId <= wanted) {
    return {
      ...log,
      first: header.firstSequenceId,
      last: header.lastSequenceId,
      term: header.term,
      timestampMs: header.timestampMs,
      chain: chainOf(header.nonce),
      previousChain: chainOf(header.previousNonce),
    };
  }
  if (id !== 0n || (wanted !== 0n && floor <= head)) {
    throw await holeAt(store, keys, wanted, header?.firstSequenceId ?? head + 1n, logId);
  }
  return { ...log, first: head, last: head, term, timestampMs, chain: chainOf(recordNonce), previousChain: "" };
}
