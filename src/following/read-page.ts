import { runFrom } from "../oplog/batch-frame.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KvStore } from "../oplog/kv-store.js";
import { BeyondHeadError, TrimmedError } from "../oplog/log-errors.js";
import { entryOffsets } from "../oplog/record.js";
import { requireHead } from "../stored/deletion.js";
import { readFloor, readHistory } from "../stored/history.js";

export interface ReadPage {
  /** Entries in wire form: Batch.entries. */
  readonly bodies: Buffer[];
  readonly next: bigint;
  readonly head: bigint;
  readonly floor: bigint;
}

/** Entries from `from` on (0n = the floor) within the bounds; at least one if there is one. */
export async function readPage(
  store: KvStore,
  keys: LogKeys,
  from: bigint,
  entriesMax: number,
  bytesMax: number,
): Promise<ReadPage> {
  const [headRead, { sequenceId: floor }] = await Promise.all([store.get(keys.head), readFloor(store, keys)]);
  const { lastSequenceId: head, logId } = requireHead(keys, headRead.pair);
  if (from !== 0n && from < floor) throw new TrimmedError(from, floor);
  if (from > head + 1n) throw new BeyondHeadError(from, head);

  const bodies: Buffer[] = [];
  let next = from === 0n ? floor : from;
  let entriesLeft = entriesMax;
  let bytesLeft = bytesMax;
  for await (const run of readHistory(store, keys, next, logId)) {
    const { body } = runFrom(run, next);
    const offsets = entryOffsets(body);
    let count = Math.min(entriesLeft, offsets.length - 1);
    while (count > 0 && offsets[count]! > bytesLeft) count--;
    if (count === 0 && bodies.length === 0) count = 1;
    if (count > 0) bodies.push(body.subarray(0, offsets[count]));
    next += BigInt(count);
    entriesLeft -= count;
    bytesLeft -= offsets[count]!;
    if (count < offsets.length - 1 || entriesLeft === 0) break;
  }
  return { bodies, next, head: next > head ? next - 1n : head, floor };
}
