import { logListing } from "../oplog/keys.js";
import { type CallOptions, type KvStore, StoreRefusedError } from "../oplog/kv-store.js";

/** No key has been written at the first revision and lies under this prefix: the probe's never exists. */
const NEVER = 1n;

/**
 * Whether the store takes what a sidecar needs of it: reads of all that lies under the prefix, and writes there. Nothing
 * is written: the compare of the transaction cannot hold. A store that has no space left, or denies the permission,
 * refuses such a transaction all the same.
 *
 * Rejects with StoreRefusedError, which says why not, and with StoreUnreachableError.
 */
export async function probeStore(store: KvStore, keyPrefix: string, options?: CallOptions): Promise<void> {
  const from = logListing.from(keyPrefix);
  const [{ refusal }] = await Promise.all([
    store.status(options),
    store.page({ from, to: logListing.to(keyPrefix), limit: 1, bytesMax: 1, keysOnly: true }, options),
    store.txn(
      {
        compares: [{ key: from, modRevision: NEVER }],
        writes: [{ kind: "put", key: from, value: new Uint8Array() }],
      },
      options,
    ),
  ]);
  if (refusal !== undefined) throw new StoreRefusedError(refusal);
}
