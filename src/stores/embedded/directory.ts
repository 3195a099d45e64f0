import { accessSync, closeSync, constants, fsyncSync, mkdirSync, openSync, realpathSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { StoreRefusedError } from "../../oplog/kv-store.js";
import type { Logger } from "../../oplog/logger.js";
import { runApart } from "./apart.js";
import { Database } from "./database.js";
import { damaged, isDamaged, messageOf } from "./failures.js";
import { DATA_FILE } from "./file-names.js";
import { isAsItWasClosed, wasUsed } from "./file-state.js";
import { hasLiveOwner } from "./ownership.js";
import { FileDamagedError, PageFile } from "./page-file.js";

const FORMAT = Buffer.from("format");
export const FORMAT_VERSION = "1";

export interface OpenDirectory {
  /** Without links. */
  readonly directory: string;
  readonly database: Database;
}

/** Opens the database in a directory, which is made for this user alone if it is not there, once its file is known to be whole. */
export async function openDirectory(path: string, logger: Logger): Promise<OpenDirectory> {
  try {
    makeDirectory(resolve(path));
    const directory = realpathSync(path);
    accessSync(directory, constants.W_OK);
    await requireWholeFile(directory, logger);
    const database = new Database(directory);
    // LMDB syncs its file. The entry of the file in its directory, and that of the directory, must survive a crash too.
    syncDirectory(directory);
    syncDirectory(dirname(directory));
    return { directory, database };
  } catch (error) {
    if (isDamaged(error)) throw damaged(path, error);
    throw new StoreRefusedError(`cannot open data directory ${path}: ${messageOf(error)}`, { cause: error });
  }
}

export function requireFormat(database: Database, directory: string): void {
  const found = database.meta.get(FORMAT)?.toString();
  if (found !== undefined && found !== FORMAT_VERSION) {
    throw new StoreRefusedError(
      `data directory ${directory} has format ${found}, this version knows format ${FORMAT_VERSION}: ` +
        "use the version that wrote it, or a newer one",
    );
  }
}

export function writeFormat(database: Database): void {
  database.meta.put(FORMAT, Buffer.from(FORMAT_VERSION));
}

export function syncDirectory(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** One by one: Node's own recursion does not end where the system says that a parent that exists does not, as in /proc. */
function makeDirectory(path: string): void {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found?.isDirectory()) return;
  if (found !== undefined) throw new Error("it is no directory");
  makeDirectory(dirname(path));
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    // Another process may have come first.
    if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) throw error;
  }
}

/** LMDB maps the file into memory and believes it; a damaged one would end this process by a signal. */
async function requireWholeFile(directory: string, logger: Logger): Promise<void> {
  const path = join(directory, DATA_FILE);
  const found = statSync(path, { throwIfNoEntry: false });
  if (found !== undefined && !found.isFile()) throw new FileDamagedError("it is no file");
  const file = found === undefined ? undefined : PageFile.open(path);
  file?.close();
  if (file === undefined) {
    if (wasUsed(directory)) {
      throw new FileDamagedError(
        `it is ${found === undefined ? "gone" : "empty"}, though a store was here. To begin with an empty one, use a new directory`,
      );
    }
    logger.info({ event: "store_created", directory }, `a new, empty store in ${directory}`);
    return;
  }
  if (isAsItWasClosed(directory) || (await hasLiveOwner(directory))) return;
  await check(directory, file.fileBytes, logger);
}

async function check(directory: string, fileBytes: number, logger: Logger): Promise<void> {
  logger.info({ event: "store_check", directory, fileBytes }, "not closed in an orderly way: checking the file first");
  const startedMs = performance.now();
  try {
    const report = await runApart({ kind: "check", directory, readsEverything: false });
    const tookMs = Math.round(performance.now() - startedMs);
    logger.info({ event: "store_checked", directory, keys: report?.keys, tookMs }, "the file is whole");
    if (report !== undefined && report.damagedValuesTotal > 0) {
      logger.error(
        { event: "values_damaged", directory, keys: report.damagedValues, total: report.damagedValuesTotal },
        `the values of ${report.damagedValuesTotal} keys are damaged; reading them is refused, the rest is sound`,
      );
    }
  } catch (error) {
    // Whoever came first may have written meanwhile, and is told apart by who owns the directory.
    if (error instanceof FileDamagedError && (await hasLiveOwner(directory))) return;
    throw error;
  }
}
