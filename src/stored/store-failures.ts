import type { OplogError } from "../oplog/errors.js";
import { StoreDataLossError, StoreError, StoreRefusedError, StoreReplacedError } from "../oplog/kv-store.js";
import {
  StoreLostError,
  StoreRefusalError,
  StoreReplacedRefusal,
  StoreUnavailableError,
} from "../oplog/store-errors.js";

/** What the store could not do, as the API tells it. `consequence`: what that means for the call. */
export function toOplogError(error: StoreError | undefined, unreachableMs: number, consequence: string): OplogError {
  if (error instanceof StoreDataLossError) return new StoreLostError(error.message);
  if (error instanceof StoreReplacedError) return new StoreReplacedRefusal(error.message);
  return error instanceof StoreRefusedError
    ? new StoreRefusalError(error.message)
    : new StoreUnavailableError(unreachableMs, consequence);
}

/** For whoever tries again through every break of the store: what is damaged or gone does not come back. */
export function requireNotLost(error: StoreError): void {
  if (error instanceof StoreDataLossError) throw new StoreLostError(error.message);
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
