import { create, toBinary } from "@bufbuild/protobuf";
import { FloorSchema } from "../gen/oplog/store/v1/store_pb.js";
import type { LogKeys } from "../oplog/keys.js";
import { keyAfter, pagesOf } from "../oplog/kv-pages.js";
import type { KvStore } from "../oplog/kv-store.js";
import { BeyondHeadError } from "../oplog/log-errors.js";
import { fenceOf, requireHead } from "./deletion.js";
import { decodeFloor, readOrigin } from "./history.js";

const DROP_RECORDS_MAX = 1000;

/**
 * Raises the floor to `floor` and drops the records that end below it. The floor is written before anything is deleted,
 * so a reader that finds a hole finds the reason for it too; a crash in between leaves records that a repeated trim
 * drops. A record that holds ids on both sides stays. Returns the floor as it is then.
 */
export async function trim(store: KvStore, keys: LogKeys, floor: bigint): Promise<bigint> {
  for (;;) {
    const [floorRead, headRead] = await Promise.all([store.get(keys.floor), store.get(keys.head)]);
    const current = decodeFloor(floorRead.pair);
    const head = requireHead(keys, headRead.pair);
    let floorRevision = floorRead.pair?.modRevision ?? 0n;
    if (floor > head.lastSequenceId + 1n) throw new BeyondHeadError(floor, head.lastSequenceId);
    if (floor > current.sequenceId) {
      const value = toBinary(
        FloorSchema,
        create(FloorSchema, {
          sequenceId: floor,
          previousTerm: (await readOrigin(store, keys, floor - 1n, head.logId)).term,
        }),
      );
      const fence = await fenceOf(store, keys, head.logId);
      if (floorRead.revision < fence.sinceRevision) continue;
      const result = await store.txn({
        compares: [{ key: keys.floor, modRevision: floorRevision }, fence.compare],
        writes: [{ kind: "put", key: keys.floor, value }],
      });
      if (!result.succeeded) continue;
      floorRevision = result.revision;
    }
    const reached = floor > current.sequenceId ? floor : current.sequenceId;
    await dropRecords(store, keys, keys.record(reached), floorRevision);
    return reached;
  }
}

/**
 * In steps, so that no transaction holds the store up for long. Once the floor is another one, somebody else has trimmed, or
 * the log was deleted, and the records may be those of another one of its name.
 */
async function dropRecords(store: KvStore, keys: LogKeys, to: string, floorRevision: bigint): Promise<void> {
  for await (const { pairs } of pagesOf(store, {
    from: keys.recordsFrom,
    to,
    keysOnly: true,
    pairsMax: DROP_RECORDS_MAX,
  })) {
    const last = pairs.at(-1);
    if (last === undefined) return;
    const { succeeded } = await store.txn({
      compares: [{ key: keys.floor, modRevision: floorRevision }],
      writes: [{ kind: "delete-range", from: keys.recordsFrom, to: keyAfter(last.key) }],
    });
    if (!succeeded) return;
  }
}
