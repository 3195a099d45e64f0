import { type OplogError, StoreRefusalError, StoreUnavailableError } from "../oplog/errors.js";
import { StoreError, StoreRefusedError } from "../oplog/kv-store.js";

/** What the store could not do, as the API tells it. `consequence`: what that means for the call. */
export function toOplogError(error: StoreError | undefined, unreachableMs: number, consequence: string): OplogError {
  return error instanceof StoreRefusedError
    ? new StoreRefusalError(error.message)
    : new StoreUnavailableError(unreachableMs, consequence);
}

/** Runs a call's work on the store; rejects with OplogError where the store fails. */
export async function throughStore<T>(
  work: Promise<T>,
  unreachableMs: () => number,
  consequence = "try again",
): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw error instanceof StoreError ? toOplogError(error, unreachableMs(), consequence) : error;
  }
}
