import { realpathSync, statSync } from "node:fs";
import { join } from "node:path";
import { runApart } from "../stores/embedded/apart.js";
import { DATA_FILE } from "../stores/embedded/file-names.js";
import { hasLiveOwner } from "../stores/embedded/ownership.js";
import { FileDamagedError } from "../stores/embedded/page-file.js";

/** What an operator does with the data directory of an embedded store, whether an oplogd has it open or not. */

export interface Verified {
  readonly directory: string;
  readonly isInUse: boolean;
  readonly fileBytes: number;
  readonly keys: number;
  readonly valueBytes: number;
  readonly revision: bigint;
  /** The first so many, of `damagedValuesTotal`. */
  readonly damagedValues: readonly string[];
  readonly damagedValuesTotal: number;
}

/** Reads all of it: every page, every value, every record. Rejects with FileDamagedError when it cannot be used. */
export async function verifyDirectory(path: string): Promise<Verified> {
  const directory = requireStore(path);
  const isInUse = await hasLiveOwner(directory);
  try {
    const report = await runApart(
      isInUse ? { kind: "check in use", directory } : { kind: "check", directory, readsEverything: true },
    );
    if (report === undefined) throw new FileDamagedError("it is empty");
    return { directory, isInUse, ...report };
  } catch (error) {
    // An oplogd was started meanwhile, and has written.
    if (error instanceof FileDamagedError && !isInUse && (await hasLiveOwner(directory))) return verifyDirectory(path);
    throw error;
  }
}

/** Makes `target`, which must not be there or be empty: a copy as of one moment, read and checked before it gets its name. */
export async function backUpDirectory(path: string, target: string): Promise<Verified> {
  const directory = requireStore(path);
  const isInUse = await hasLiveOwner(directory);
  const report = await runApart({ kind: "copy", directory, target });
  if (report === undefined) throw new FileDamagedError("it is empty");
  return { directory, isInUse, ...report };
}

/** Without links. */
function requireStore(path: string): string {
  const file = join(path, DATA_FILE);
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) throw new Error(`${path} is no directory`);
  if (!statSync(file, { throwIfNoEntry: false })?.isFile())
    throw new Error(`${path} is no data directory: no ${DATA_FILE}`);
  return realpathSync(path);
}
