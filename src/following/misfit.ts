import type { LogKeys } from "../oplog/keys.js";
import { type KvStore, StoreUnreachableError } from "../oplog/kv-store.js";
import { DataLossError } from "../oplog/log-errors.js";
import { isLogGone, requireStillThere } from "../stored/deletion.js";
import { replacementOf } from "../stored/store-probe.js";

/** It may be an answer from the past. */
export class HeadWentBackError extends DataLossError {
  constructor(
    log: string,
    seen: bigint,
    readonly head: bigint,
  ) {
    super(log, head + 1n, `the head went back from ${seen} to ${head}`);
  }
}

/**
 * Why a feed has failed. What does not fit what was seen may be of another store, and then says nothing of the log. And that
 * the log is gone may be an answer, or an event, from the past (etcd #20418).
 */
export async function realCauseOf(
  store: KvStore,
  keys: LogKeys,
  logId: Uint8Array | undefined,
  error: unknown,
): Promise<unknown> {
  if (!(isLogGone(error) || error instanceof DataLossError)) return error;
  const replaced = await replacementOf(store);
  if (replaced !== undefined || error instanceof DataLossError) return replaced ?? error;
  try {
    await requireStillThere(store, keys, logId);
    return new StoreUnreachableError(`the store answers from the past: ${error.message}`);
  } catch (newest) {
    return newest;
  }
}
