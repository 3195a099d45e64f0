import {
  FileDamagedError,
  NO_PAGE,
  PAGE_HEADER_BYTES,
  PAGE_KIND,
  type PageFile,
  pageNumber,
  type Tree,
} from "./page-file.js";

const NODE_HEADER_BYTES = 8;
const OVERFLOW_NODE_BYTES = 24;
const NODE_FLAG = { overflow: 0x01, subTree: 0x02 } as const;
const INTEGER_KEYS = 0x08;
/** A tree of the largest file has no more. */
const DEPTH_MAX = 32;
/** Pages at the end that a transaction took and gave back were never written: the file may be shorter by them. */
const UNWRITTEN_PAGES_MAX = 65_536;

/** One key of a tree. `key` and `value` are valid until the next one is asked for. */
export interface Cell {
  readonly key: Buffer;
  readonly isSubTree: boolean;
  readonly valueBytes: number;
  /** Whether reading the value costs reading further pages. */
  readonly isOverflow: boolean;
  value(): Buffer;
}

/** Which pages are taken, so that none is taken twice. */
export class PageMap {
  private readonly lastPage: number;
  private readonly taken: Uint8Array;

  constructor({ meta, fileBytes }: PageFile) {
    this.lastPage = meta.lastPage;
    if (!(this.lastPage <= fileBytes / meta.pageBytes + UNWRITTEN_PAGES_MAX)) {
      throw new FileDamagedError(`the last page is said to be ${this.lastPage}, the file has ${fileBytes} bytes`);
    }
    this.taken = new Uint8Array(this.lastPage + 1);
    this.take(0, 2, "a meta page");
  }

  take(first: number, count: number, what: string): void {
    if (!(first + count - 1 <= this.lastPage)) {
      throw new FileDamagedError(`${what} is said to be at page ${first}, the last page is ${this.lastPage}`);
    }
    for (let page = first; page < first + count; page++) {
      if (this.taken[page] === 1) throw new FileDamagedError(`page ${page} is used twice, the second time as ${what}`);
      this.taken[page] = 1;
    }
  }
}

interface Level {
  readonly page: Buffer;
  /** Of the nodes, within the page. */
  readonly starts: number[];
}

/** The keys from one page on: at least the first, and less than the second. */
interface Bounds {
  readonly from: Buffer | undefined;
  readonly to: Buffer | undefined;
}

/**
 * Reads every page of a tree, in the order of its keys, and throws FileDamagedError at the first thing that LMDB cannot
 * have written: a page at the wrong place or of the wrong kind, nodes that do not fill their page exactly, keys out of
 * order, numbers that do not add up.
 */
export class TreeWalk {
  /** The youngest transaction that wrote a page of it. */
  rootTxnId = 0;
  private readonly levels: Level[] = [];
  private readonly counted = { branch: 0, leaf: 0, overflow: 0, entries: 0 };
  private readonly room: number;
  private readonly isStart: Uint32Array;
  private round = 0;
  private last: Buffer | undefined;

  constructor(
    private readonly file: PageFile,
    private readonly pages: PageMap,
    private readonly tree: Tree,
  ) {
    this.room = file.pageBytes - PAGE_HEADER_BYTES;
    this.isStart = new Uint32Array(this.room + 1);
  }

  *cells(): Generator<Cell, void> {
    const { tree, counted } = this;
    if (tree.depth > DEPTH_MAX) throw this.damaged(`claims ${tree.depth} levels`);
    if (tree.root !== NO_PAGE) yield* this.below(tree.root, 1, { from: undefined, to: undefined });
    else if (tree.depth !== 0) throw this.damaged(`claims ${tree.depth} levels without a root`);
    const claimed = {
      branch: tree.branchPages,
      leaf: tree.leafPages,
      overflow: tree.overflowPages,
      entries: tree.entries,
    };
    for (const what of ["branch", "leaf", "overflow", "entries"] as const) {
      if (claimed[what] !== counted[what]) {
        throw this.damaged(`claims ${claimed[what]} (${what}), there are ${counted[what]}`);
      }
    }
  }

  private *below(page: number, depth: number, bounds: Bounds): Generator<Cell, void> {
    const { tree } = this;
    const isLeaf = depth === tree.depth;
    const { page: bytes, starts } = this.load(page, depth, isLeaf);
    if (isLeaf) {
      if (bounds.from !== undefined && this.compare(this.keyAt(bytes, starts[0]!, page), bounds.from) < 0) {
        throw this.atPage(page, "has a key too low");
      }
      for (const start of starts) yield this.cell(bytes, start, page);
      this.last = Buffer.from(this.last!);
      if (bounds.to !== undefined && this.compare(this.last, bounds.to) >= 0)
        throw this.atPage(page, "has a key too high");
      return;
    }
    for (const [index, start] of starts.entries()) {
      const from = index === 0 ? bounds.from : this.keyAt(bytes, start, page);
      const to = index + 1 < starts.length ? this.keyAt(bytes, starts[index + 1]!, page) : bounds.to;
      if (from !== undefined && to !== undefined && this.compare(from, to) >= 0)
        throw this.atPage(page, "is out of order");
      if (from !== undefined && this.last !== undefined && this.compare(this.last, from) >= 0) {
        throw this.atPage(page, "is out of order with what is below it");
      }
      const top = bytes.readUInt16LE(start + 4) * 2 ** 32;
      yield* this.below(top + uint32(bytes, start), depth + 1, { from, to });
    }
  }

  private load(page: number, depth: number, isLeaf: boolean): Level {
    const kind = isLeaf ? "leaf" : "branch";
    if (depth > this.tree.depth) throw this.damaged(`has more than its ${this.tree.depth} levels`);
    this.pages.take(page, 1, `a page of ${this.tree.name}`);
    this.levels[depth] ??= { page: Buffer.alloc(this.file.pageBytes), starts: [] };
    const level = this.levels[depth];
    const bytes = level.page;
    this.file.read(page, bytes);
    const txnId = this.requireHeader(bytes, page, PAGE_KIND[kind]);
    if (depth === 1) this.rootTxnId = txnId;
    this.counted[kind]++;
    const lower = bytes.readUInt16LE(20);
    const upper = bytes.readUInt16LE(22);
    const least = isLeaf ? 2 : 4;
    if (lower < least || lower % 2 !== 0 || lower > upper || upper > this.room)
      throw this.atPage(page, "has no valid bounds");
    level.starts.length = 0;
    this.readNodes(bytes, page, lower, upper, isLeaf, level.starts);
    return level;
  }

  /** The nodes of a page fill the room above `upper` without a gap, in any order. */
  private readNodes(
    bytes: Buffer,
    page: number,
    lower: number,
    upper: number,
    isLeaf: boolean,
    starts: number[],
  ): void {
    const { room, isStart } = this;
    const round = ++this.round;
    let sum = 0;
    for (let at = 0; at < lower; at += 2) {
      const start = bytes.readUInt16LE(PAGE_HEADER_BYTES + at);
      if (start < upper || start + NODE_HEADER_BYTES > room || isStart[start] === round)
        throw this.atPage(page, "has a node astray");
      isStart[start] = round;
      starts.push(PAGE_HEADER_BYTES + start);
    }
    for (const start of starts) {
      const bytesOfNode = nodeBytes(bytes, start, isLeaf);
      const end = start - PAGE_HEADER_BYTES + bytesOfNode;
      sum += bytesOfNode;
      if (end !== room && !(end < room && isStart[end] === round))
        throw this.atPage(page, "has a node of a wrong size");
    }
    if (sum !== room - upper || isStart[upper] !== round) throw this.atPage(page, "has nodes that do not fill it");
  }

  private cell(bytes: Buffer, start: number, page: number): Cell {
    const flags = bytes.readUInt16LE(start + 4);
    if ((flags & ~(NODE_FLAG.overflow | NODE_FLAG.subTree)) !== 0)
      throw this.atPage(page, `has a node with flags ${flags}`);
    const key = this.keyAt(bytes, start, page);
    if (this.last !== undefined && this.compare(this.last, key) >= 0) throw this.atPage(page, "has keys out of order");
    this.last = key;
    this.counted.entries++;
    const valueBytes = uint32(bytes, start);
    const valueAt = start + NODE_HEADER_BYTES + key.length;
    const isOverflow = (flags & NODE_FLAG.overflow) !== 0;
    const isSubTree = (flags & NODE_FLAG.subTree) !== 0;
    if (!isOverflow) {
      return { key, isSubTree, valueBytes, isOverflow, value: () => bytes.subarray(valueAt, valueAt + valueBytes) };
    }
    const first = this.takeOverflow(bytes, valueAt, valueBytes, page);
    return { key, isSubTree, valueBytes, isOverflow, value: () => this.overflowValue(first, valueBytes) };
  }

  private takeOverflow(bytes: Buffer, at: number, valueBytes: number, page: number): number {
    const first = pageNumber(bytes, at);
    const count = pageNumber(bytes, at + 16);
    const needed = Math.ceil((PAGE_HEADER_BYTES + valueBytes) / this.file.pageBytes);
    if (count < needed) throw this.atPage(page, `has a value of ${valueBytes} bytes in ${count} pages`);
    this.pages.take(first, count, `a value of ${this.tree.name}`);
    this.counted.overflow += count;
    const header = Buffer.alloc(PAGE_HEADER_BYTES);
    this.file.read(first, header);
    this.requireHeader(header, first, PAGE_KIND.overflow);
    if (header.readUInt32LE(20) !== count)
      throw this.atPage(first, `claims ${header.readUInt32LE(20)} pages, not ${count}`);
    // The last byte must be there too.
    this.file.read(first + needed - 1, Buffer.alloc(1));
    return first;
  }

  private overflowValue(first: number, valueBytes: number): Buffer {
    const bytes = Buffer.allocUnsafe(PAGE_HEADER_BYTES + valueBytes);
    this.file.read(first, bytes);
    return bytes.subarray(PAGE_HEADER_BYTES);
  }

  /** The transaction that wrote the page. */
  private requireHeader(bytes: Buffer, page: number, kind: number): number {
    if (pageNumber(bytes, 0) !== page || bytes.readUInt16LE(18) !== kind) {
      throw this.atPage(page, "is something else: it was overwritten, or never written");
    }
    const txnId = pageNumber(bytes, 8);
    if (txnId > this.file.meta.txnId)
      throw this.atPage(page, `is of transaction ${txnId}, the last one was ${this.file.meta.txnId}`);
    return txnId;
  }

  private keyAt(bytes: Buffer, start: number, page: number): Buffer {
    const keyBytes = bytes.readUInt16LE(start + 6);
    if ((this.tree.flags & INTEGER_KEYS) !== 0 && keyBytes !== 8)
      throw this.atPage(page, `has a number of ${keyBytes} bytes as key`);
    return bytes.subarray(start + NODE_HEADER_BYTES, start + NODE_HEADER_BYTES + keyBytes);
  }

  private compare(a: Buffer, b: Buffer): number {
    if ((this.tree.flags & INTEGER_KEYS) === 0) return Buffer.compare(a, b);
    const [left, right] = [a.readBigUInt64LE(), b.readBigUInt64LE()];
    return left < right ? -1 : left > right ? 1 : 0;
  }

  private damaged(problem: string): FileDamagedError {
    return new FileDamagedError(`tree ${this.tree.name} ${problem}`);
  }

  private atPage(page: number, problem: string): FileDamagedError {
    return new FileDamagedError(`page ${page} (${this.tree.name}) ${problem}`);
  }
}

/** Nodes are padded to an even length. */
function nodeBytes(bytes: Buffer, start: number, isLeaf: boolean): number {
  const keyBytes = bytes.readUInt16LE(start + 6);
  if (!isLeaf) return even(NODE_HEADER_BYTES + keyBytes);
  const isOverflow = (bytes.readUInt16LE(start + 4) & NODE_FLAG.overflow) !== 0;
  const valueBytes = isOverflow ? OVERFLOW_NODE_BYTES : uint32(bytes, start);
  return even(NODE_HEADER_BYTES + keyBytes + valueBytes);
}

function even(bytes: number): number {
  return bytes + (bytes % 2);
}

/** Two halves, the lower one first. */
function uint32(bytes: Buffer, at: number): number {
  return bytes.readUInt16LE(at + 2) * 2 ** 16 + bytes.readUInt16LE(at);
}
