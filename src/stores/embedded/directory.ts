import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, realpathSync } from "node:fs";
import { dirname } from "node:path";
import { StoreRefusedError } from "../../oplog/kv-store.js";
import { Database } from "./database.js";

const FORMAT = Buffer.from("format");
const FORMAT_VERSION = "1";

/** Opens the database in a directory, which is made for this user alone if it is not there. */
export function openDirectory(path: string): { directory: string; database: Database } {
  try {
    if (!existsSync(path)) mkdirSync(path, { recursive: true, mode: 0o700 });
    const directory = realpathSync(path);
    const database = new Database(directory);
    // LMDB syncs its file; that the file is in the directory, and the directory in its own, is to survive a crash too.
    syncDirectory(directory);
    syncDirectory(dirname(directory));
    return { directory, database };
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new StoreRefusedError(`cannot open data directory ${path}: ${why}`, { cause: error });
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

function syncDirectory(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
