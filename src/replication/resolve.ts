import { decodeHead } from "../leadership/claim.js";
import { LogNotFoundError } from "../oplog/errors.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KvStore } from "../oplog/kv-store.js";
import type { Resolution } from "../oplog/operation-window.js";
import { restoreWindow } from "./window-restore.js";

const ATTEMPTS_MAX = 16;

/**
 * What became of an operation, from the store alone. An answer of "not committed" is made final by a barrier: the head
 * is put again with the same content, which moves its revision, so that a transaction still on its way to the store
 * fails its compare. A live writer elsewhere notices and goes on; ownership does not change.
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
    const resolution = (await restoreWindow(store, keys, head)).resolve(writerId, operationId);
    if (resolution.outcome !== "not committed") return resolution;
    const barrier = await store.txn({
      compares: [{ key: keys.head, modRevision: pair.modRevision }],
      writes: [{ kind: "put", key: keys.head, value: pair.value }],
    });
    if (barrier.succeeded) return resolution;
  }
  return undefined;
}
