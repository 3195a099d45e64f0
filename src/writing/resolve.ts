import { randomBytes } from "node:crypto";
import { toBinary } from "@bufbuild/protobuf";
import { HeadSchema } from "../gen/oplog/store/v1/store_pb.js";
import { LogNotFoundError } from "../oplog/errors.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KvStore } from "../oplog/kv-store.js";
import type { Resolution } from "../oplog/operation-window.js";
import { decodeHead } from "../stored/decode.js";
import { restoreMarks, restoreWindow } from "./window-restore.js";

const ATTEMPTS_MAX = 64;

/**
 * What became of an operation, from the store alone. Before an operation above its writer's highest is called not
 * committed, it is ruled out by a barrier: the head is put again with another nonce. A transaction still on its way then
 * fails its compare, and a primary that holds the operation in its line finds the nonce changed, refuses what it holds,
 * and claims the next term. Ownership does not change.
 *
 * Returns undefined when writers move the head faster than the barrier can be put.
 */
export async function resolveFromStore(
  store: KvStore,
  keys: LogKeys,
  writerId: string,
  operationId: bigint,
): Promise<Resolution | undefined> {
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const { pair } = await store.get(keys.head);
    if (pair === undefined) throw new LogNotFoundError(keys.log);
    const head = decodeHead(pair);
    const byMark = restoreMarks(head).resolve(writerId, operationId);
    if (byMark.outcome === "forgotten") return (await restoreWindow(store, keys, head)).resolve(writerId, operationId);
    if (byMark.outcome === "committed") return byMark;
    const barrier = await store.txn({
      compares: [{ key: keys.head, modRevision: pair.modRevision }],
      writes: [{ kind: "put", key: keys.head, value: toBinary(HeadSchema, { ...head, nonce: randomBytes(16) }) }],
    });
    if (barrier.succeeded) return byMark;
  }
  return undefined;
}
