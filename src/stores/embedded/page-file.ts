import { closeSync, fstatSync, openSync, readSync } from "node:fs";

/**
 * The file of LMDB as it lies on disk (version 2 of its format, on a 64-bit little-endian machine). The code here uses
 * ordinary reads and checks every number. LMDB itself maps the file into memory and checks little, so a damaged file would
 * end the process there.
 *
 * Page: number (8 bytes), transaction that wrote it (8), unused (2), flags (2), then where its free room starts and ends
 * (2 and 2), or for an overflow page how many pages follow each other (4). Pages 0 and 1 are the meta pages: a commit
 * writes them in turn, last of all, and the newer one says where the trees begin.
 */
export const PAGE_HEADER_BYTES = 24;
export const TREE_BYTES = 48;
export const NO_PAGE = Number.POSITIVE_INFINITY;
export const PAGE_KIND = { branch: 0x01, leaf: 0x02, overflow: 0x04, meta: 0x08 } as const;

const META_BYTES = 144;
const MAGIC = 0xbeefc0de;
const FORMAT_VERSION = 2;
const PAGE_BYTES_MIN = 512;
const PAGE_BYTES_MAX = 65_536;
/** Each further one means that a commit came in between. */
const META_READS_MAX = 1_000;

/** What is wrong with the file, and where. */
export class FileDamagedError extends Error {
  override readonly name = "FileDamagedError";
}

/** Numbers of one tree, as its owner notes them. */
export interface Tree {
  readonly name: string;
  readonly flags: number;
  readonly depth: number;
  readonly branchPages: number;
  readonly leafPages: number;
  readonly overflowPages: number;
  readonly entries: number;
  /** NO_PAGE = it is empty. */
  readonly root: number;
}

export interface Meta {
  readonly page: 0 | 1;
  readonly pageBytes: number;
  readonly freeTree: Tree;
  readonly mainTree: Tree;
  readonly lastPage: number;
  readonly txnId: number;
}

export class PageFile {
  private constructor(
    private readonly fd: number,
    readonly fileBytes: number,
    /** Both, as they lie in the file. */
    readonly metaPages: Buffer,
    /** What the newer one says. */
    readonly meta: Meta,
  ) {}

  /** Reads and checks the meta pages. Undefined: the file is empty, as one that was never written to. */
  static open(path: string): PageFile | undefined {
    const fd = openSync(path, "r");
    try {
      const { size } = fstatSync(fd);
      if (size > 0) {
        const metaPages = readMetaPages(fd, size);
        return new PageFile(fd, size, metaPages, newerMeta(metaPages));
      }
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    closeSync(fd);
    return undefined;
  }

  close(): void {
    closeSync(this.fd);
  }

  get pageBytes(): number {
    return this.meta.pageBytes;
  }

  /** Fills `target` from the start of a page on. */
  read(page: number, target: Buffer): void {
    const from = page * this.pageBytes;
    const bytes = this.readSome(page, target);
    if (bytes < target.length) {
      throw new FileDamagedError(`page ${page} is in use, and the file ends at byte ${from + bytes}: it was cut off`);
    }
  }

  /** How many bytes there were. */
  readSome(page: number, target: Buffer): number {
    return readBytes(this.fd, target, page * this.pageBytes);
  }
}

/** As of one moment: until two readings are the same, since a process may be writing to the file. */
function readMetaPages(fd: number, fileBytes: number): Buffer {
  const start = Buffer.alloc(PAGE_HEADER_BYTES + META_BYTES);
  const tooShort = () => new FileDamagedError(`it has ${fileBytes} bytes, too few for its meta pages`);
  if (readBytes(fd, start, 0) < start.length) throw tooShort();
  const { pageBytes } = readMeta(start, 0);
  let [before, now] = [Buffer.alloc(2 * pageBytes), Buffer.alloc(2 * pageBytes)];
  for (let reads = 0; reads < META_READS_MAX; reads++) {
    [before, now] = [now, before];
    if (readBytes(fd, now, 0) < now.length) throw tooShort();
    if (reads > 0 && now.equals(before)) break;
  }
  return now;
}

function newerMeta(pages: Buffer): Meta {
  const first = readMeta(pages, 0);
  const second = readMeta(pages.subarray(first.pageBytes), 1);
  if (first.pageBytes !== second.pageBytes) {
    throw new FileDamagedError(`its meta pages claim pages of ${first.pageBytes} and ${second.pageBytes} bytes`);
  }
  const [older, newer] = first.txnId > second.txnId ? [second, first] : [first, second];
  // Each commit writes the page of its own parity, so the two are always neighbours; a new file starts with both at 0.
  const isPair =
    newer.txnId === 0 ? older.txnId === 0 : older.txnId === newer.txnId - 1 && newer.page === newer.txnId % 2;
  if (!isPair) {
    throw new FileDamagedError(`meta pages 0 and 1 are of transactions ${first.txnId} and ${second.txnId}`);
  }
  return newer;
}

function readMeta(bytes: Buffer, page: 0 | 1): Meta {
  const meta = bytes.subarray(PAGE_HEADER_BYTES);
  if (meta.readUInt32LE(0) !== MAGIC || pageNumber(bytes, 0) !== page || bytes.readUInt16LE(18) !== PAGE_KIND.meta) {
    throw new FileDamagedError(`page ${page} is no meta page of a database`);
  }
  const version = meta.readUInt32LE(4);
  if (version !== FORMAT_VERSION) throw new FileDamagedError(`meta page ${page} is of version ${version}`);
  const pageBytes = meta.readUInt32LE(24);
  if (pageBytes < PAGE_BYTES_MIN || pageBytes > PAGE_BYTES_MAX || (pageBytes & (pageBytes - 1)) !== 0) {
    throw new FileDamagedError(`meta page ${page} claims pages of ${pageBytes} bytes`);
  }
  return {
    page,
    pageBytes,
    freeTree: readTree("free pages", meta, 24),
    mainTree: readTree("main", meta, 24 + TREE_BYTES),
    lastPage: pageNumber(meta, 24 + 2 * TREE_BYTES),
    txnId: pageNumber(meta, 32 + 2 * TREE_BYTES),
  };
}

export function readTree(name: string, bytes: Buffer, at: number): Tree {
  return {
    name,
    flags: bytes.readUInt16LE(at + 4),
    depth: bytes.readUInt16LE(at + 6),
    branchPages: pageNumber(bytes, at + 8),
    leafPages: pageNumber(bytes, at + 16),
    overflowPages: pageNumber(bytes, at + 24),
    entries: pageNumber(bytes, at + 32),
    root: pageNumber(bytes, at + 40),
  };
}

/** Eight bytes; beyond what is possible, NO_PAGE. */
export function pageNumber(bytes: Buffer, at: number): number {
  const high = bytes.readUInt32LE(at + 4);
  return high > 0xffff ? NO_PAGE : high * 2 ** 32 + bytes.readUInt32LE(at);
}

function readBytes(fd: number, target: Buffer, from: number): number {
  let done = 0;
  while (done < target.length) {
    const bytes = readSync(fd, target, done, target.length - done, from + done);
    if (bytes === 0) break;
    done += bytes;
  }
  return done;
}
