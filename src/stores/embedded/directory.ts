import { closeSync, existsSync, fstatSync, fsyncSync, mkdirSync, openSync, readSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { StoreRefusedError } from "../../oplog/kv-store.js";
import { DATA_FILE, Database } from "./database.js";

const FORMAT = Buffer.from("format");
const FORMAT_VERSION = "1";
/** An LMDB file starts with two pages of metadata, each with this at the same place. */
const MAGIC = 0xbeefc0de;
const MAGIC_OFFSET = 24;
const FILE_BYTES_MIN = 2 * 4096;

/** Opens the database in a directory, which is made for this user alone if it is not there. */
export function openDirectory(path: string): { directory: string; database: Database } {
  try {
    if (!existsSync(path)) mkdirSync(path, { recursive: true, mode: 0o700 });
    const directory = realpathSync(path);
    requireDatabaseFile(join(directory, DATA_FILE));
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

/** LMDB ends the process with a segmentation fault when the file is something else. */
function requireDatabaseFile(path: string): void {
  if (!existsSync(path)) return;
  const fd = openSync(path, "r");
  try {
    const { size } = fstatSync(fd);
    const start = Buffer.alloc(MAGIC_OFFSET + 4);
    readSync(fd, start, 0, start.length, 0);
    if (size > 0 && (size < FILE_BYTES_MIN || start.readUInt32LE(MAGIC_OFFSET) !== MAGIC)) {
      throw new Error(`${path} (${size} bytes) is not a database; restore it, or use another directory`);
    }
  } finally {
    closeSync(fd);
  }
}

function syncDirectory(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
