import { StoreDataLossError, type StoreError, StoreUnreachableError } from "../../oplog/kv-store.js";
import { CellDamagedError } from "./cells.js";
import { FileDamagedError } from "./page-file.js";

/**
 * MDB_PAGE_NOTFOUND, MDB_CORRUPTED, MDB_INVALID, MDB_CURSOR_FULL: pages that cannot have been written like that. And
 * MDB_BAD_TXN, with which a transaction answers that has met one of them.
 */
const DAMAGE_CODES: readonly unknown[] = [-30797, -30796, -30793, -30787, -30782];

/** Of the pages, and so of anything; not of one value. */
export function isStructureDamaged(error: unknown): error is Error {
  return (
    error instanceof FileDamagedError ||
    (error instanceof Error && "code" in error && DAMAGE_CODES.includes(error.code))
  );
}

export function isDamaged(error: unknown): error is Error {
  return error instanceof CellDamagedError || isStructureDamaged(error);
}

/** What to tell of a data directory whose file is damaged. */
export function damaged(directory: string, error: Error): StoreDataLossError {
  return new StoreDataLossError(
    `data directory ${directory} is damaged: data.mdb: ${error.message}. ` +
      `Put a backup in its place; \`oplogctl verify --data-dir ${directory}\` looks at all of it`,
    { cause: error, isCertainlyNotApplied: true },
  );
}

/** A read that failed. */
export function unreadable(directory: string, error: unknown): StoreError {
  if (isDamaged(error)) return damaged(directory, error);
  return new StoreUnreachableError(`cannot read ${directory}: ${messageOf(error)}`, { cause: error });
}

/** What has become of the files while this process has them open. */
export function lost(problem: string): StoreDataLossError {
  const consequence = "nothing is written any more, and what can still be read is gone with this process";
  const remedy = "Save what is needed, put the directory or a backup in place, and start again";
  return new StoreDataLossError(`${problem}; ${consequence}. ${remedy}`, { isCertainlyNotApplied: true });
}

/** The same when not even reading is safe: a page beyond the end of the file ends the process. */
export function cutOff(problem: string): StoreDataLossError {
  const remedy = "Put a backup in place of the data directory, and start again";
  return new StoreDataLossError(`${problem}; nothing is read or written any more. ${remedy}`, {
    isCertainlyNotApplied: true,
  });
}

/** The same for a write that had been made by the time it was found out. */
export function lostAfterWrite({ message, cause }: StoreDataLossError): StoreDataLossError {
  return new StoreDataLossError(message, { cause, isCertainlyNotApplied: false });
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
