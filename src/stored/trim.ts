import { create, toBinary } from "@bufbuild/protobuf";
import { FloorSchema } from "../gen/oplog/store/v1/store_pb.js";
import type { LogKeys } from "../oplog/keys.js";
import { keyAfter, pagesOf } from "../oplog/kv-pages.js";
import type { KvStore } from "../oplog/kv-store.js";
import { BeyondHeadError, LogNotFoundError } from "../oplog/log-errors.js";
import { decodeHead } from "./decode.js";
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
    if (headRead.pair === undefined) throw new LogNotFoundError(keys.log);
    const head = decodeHead(headRead.pair);
    if (floor > head.lastSequenceId + 1n) throw new BeyondHeadError(floor, head.lastSequenceId);
    if (floor > current.sequenceId) {
      const value = toBinary(
        FloorSchema,
        create(FloorSchema, {
          sequenceId: floor,
          previousTerm: (await readOrigin(store, keys, floor - 1n, head.logId)).term,
        }),
      );
      const result = await store.txn({
        compares: [{ key: keys.floor, modRevision: floorRead.pair?.modRevision ?? 0n }],
        writes: [{ kind: "put", key: keys.floor, value }],
      });
      if (!result.succeeded) continue;
    }
    const reached = floor > current.sequenceId ? floor : current.sequenceId;
    await dropRecords(store, keys, keys.record(reached));
    return reached;
  }
}

/** In steps, so that no transaction holds the store up for long. */
async function dropRecords(store: KvStore, keys: LogKeys, to: string): Promise<void> {
  for await (const { pairs } of pagesOf(store, {
    from: keys.recordsFrom,
    to,
    keysOnly: true,
    pairsMax: DROP_RECORDS_MAX,
  })) {
    const last = pairs.at(-1);
    if (last === undefined) return;
    await store.txn({
      compares: [],
      writes: [{ kind: "delete-range", from: keys.recordsFrom, to: keyAfter(last.key) }],
    });
  }
}
