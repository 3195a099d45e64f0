import { StoreRefusalError, StoreUnavailableError } from "../oplog/errors.js";
import { StoreError, StoreRefusedError } from "../oplog/kv-store.js";

/** Runs a call's work on the store, so that what the store could not do is told as the API tells it. */
export async function throughStore<T>(
  work: Promise<T>,
  unreachableMs: () => number,
  consequence = "try again",
): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof StoreRefusedError) throw new StoreRefusalError(error.message);
    if (error instanceof StoreError) throw new StoreUnavailableError(unreachableMs(), consequence);
    throw error;
  }
}
