import { randomBytes } from "node:crypto";
import { closeSync, fsyncSync, mkdirSync, openSync, readdirSync, renameSync, rmSync, writeSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { Database } from "./database.js";
import { syncDirectory } from "./directory.js";
import { type CheckOptions, checkFile, type FileReport } from "./file-check.js";
import { DATA_FILE } from "./file-names.js";
import { FileDamagedError, PageFile } from "./page-file.js";

const CHUNK_BYTES = 1024 * 1024;
/** While a copy is made, the file that it is made of cannot use pages again, and grows. */
const COPY_MS_MAX = 30 * 60_000;

/**
 * Copies a data directory as of one moment, also while a process has it open and writes to it. The copy is read and checked
 * in full before it gets its name, so there is either a good copy or none.
 */
export async function copyDirectory(directory: string, target: string, options: CheckOptions): Promise<FileReport> {
  const path = resolve(target);
  requireFree(path);
  const partial = `${path}.partial-${randomBytes(4).toString("hex")}`;
  mkdirSync(partial, { mode: 0o700 });
  try {
    const copy = join(partial, DATA_FILE);
    const source = join(directory, DATA_FILE);
    requireMeta(source);
    await Database.pinned(directory, () => copyPages(source, copy));
    const report = checkFile(copy, options);
    if (report === undefined) throw new FileDamagedError("it is empty");
    if (report.damagedValuesTotal > 0) {
      throw new FileDamagedError(`the values of ${report.damagedValuesTotal} keys: ${report.damagedValues.join(", ")}`);
    }
    syncDirectory(partial);
    renameSync(partial, path);
    syncDirectory(dirname(path));
    return report;
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
}

/** LMDB would believe it. */
function requireMeta(source: string): void {
  const file = PageFile.open(source);
  if (file === undefined) throw new Error(`${source} is empty: there is nothing to copy`);
  file.close();
}

function requireFree(target: string): void {
  let names: string[];
  try {
    names = readdirSync(target);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  if (names.length > 0) throw new Error(`${target} is not empty; the copy needs a directory of its own`);
}

function copyPages(from: string, to: string): void {
  const file = PageFile.open(from)!;
  const target = openSync(to, "wx", 0o600);
  const endsAtMs = performance.now() + COPY_MS_MAX;
  try {
    writeFully(target, file.metaPages);
    const pagesPerChunk = CHUNK_BYTES / file.pageBytes;
    for (let page = 2; page <= file.meta.lastPage; page += pagesPerChunk) {
      const pages = Math.min(pagesPerChunk, file.meta.lastPage + 1 - page);
      const chunk = Buffer.allocUnsafe(pages * file.pageBytes);
      const bytes = file.readSome(page, chunk);
      writeFully(target, chunk.subarray(0, bytes));
      if (bytes < chunk.length) break;
      if (performance.now() > endsAtMs) throw new Error(`the copy took longer than ${COPY_MS_MAX / 60_000} minutes`);
    }
    fsyncSync(target);
  } finally {
    closeSync(target);
    file.close();
  }
}

function writeFully(fd: number, bytes: Buffer): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
}
