import type { LogKeys } from "../oplog/keys.js";
import { type KeyValue, type KvStore, StoreUnreachableError } from "../oplog/kv-store.js";

// A read alone may be answered from the past (etcd #20418), so a transaction compares the head. It deletes a key that never
// exists: without a write it could be answered from the past too.

/** Whether the head that was read, or none, is the newest. */
export async function isNewestHead(store: KvStore, keys: LogKeys, read: KeyValue | undefined): Promise<boolean> {
  const { succeeded } = await store.txn({
    compares: [{ key: keys.head, modRevision: read?.modRevision ?? 0n }],
    writes: [{ kind: "delete", key: keys.nothing }],
  });
  return succeeded;
}

/** Throws StoreUnreachableError where the head that was read, or that there is none, is an answer from the past. */
export async function requireNewestHead(store: KvStore, keys: LogKeys, read: KeyValue | undefined): Promise<void> {
  if (!(await isNewestHead(store, keys, read))) {
    throw new StoreUnreachableError("the store answers reads from the past");
  }
}

/** The head as it is now; undefined: there is none. */
export async function readNewestHead(store: KvStore, keys: LogKeys): Promise<KeyValue | undefined> {
  const { pair } = await store.get(keys.head);
  const result = await store.txn({
    compares: [{ key: keys.head, modRevision: pair?.modRevision ?? 0n }],
    writes: [{ kind: "delete", key: keys.nothing }],
    readOnFailure: [keys.head],
  });
  return result.succeeded ? pair : result.reads[0];
}
