import { logListing } from "../oplog/keys.js";
import {
  type CallOptions,
  type KvStore,
  StoreError,
  StoreRefusedError,
  StoreReplacedError,
} from "../oplog/kv-store.js";

/** No key has been written at the first revision and lies under this prefix: the probe's never exists. */
const NEVER = 1n;

/**
 * Whether the store allows what a sidecar needs: to read everything under the prefix, and to write there. Nothing is
 * written, because the compare of the transaction cannot hold. A store that has no space left, or gives no permission,
 * refuses such a transaction nevertheless.
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

/**
 * For whoever has met in the store what cannot be there, such as a term lower than one that was held: whether the store is
 * another one than it was. Undefined: it is not, or that cannot be told now.
 */
export async function replacementOf(store: KvStore, options?: CallOptions): Promise<StoreReplacedError | undefined> {
  try {
    await store.status(options);
  } catch (error) {
    if (error instanceof StoreReplacedError) return error;
    if (!(error instanceof StoreError)) throw error;
  }
  return undefined;
}
