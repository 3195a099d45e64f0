import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { type Database as Lmdb, open, type RootDatabase } from "lmdb";
import { Arena } from "../../oplog/arena.js";
import type { KeyValue, Page, PageRequest, WatchEvent, Write } from "../../oplog/kv-store.js";
import {
  CellDamagedError,
  decodeIndexEntry,
  decodeNumber,
  encodeIndexEntry,
  encodeNumber,
  type IndexEntry,
  requireValue,
} from "./cells.js";
import { inTransaction } from "./transactions.js";

/** No page is larger, whatever is asked for: it is read on the event loop. */
const PAGE_BYTES_MAX = 4 * 1024 * 1024;
const LEASE_ID_BYTES = 8;
const EMPTY = Buffer.alloc(0);
const REVISION = Buffer.from("revision");

export const LMDB_VERSION: string = JSON.parse(
  readFileSync(join(dirname(dirname(createRequire(import.meta.url).resolve("lmdb"))), "package.json"), "utf8"),
).version;

type Bytes = Lmdb<Buffer, Buffer>;

/**
 * The tables, on LMDB. Keys are plain bytes, so that LMDB's own order is the order of the port.
 *
 *   index    key → mod revision, lease id       apart from the values, so that compares, deletions and ranges of keys
 *   values   key → value                        do not read these; cells.ts has the checksums
 *   leases   lease id → TTL
 *   leased   lease id, key → nothing
 *   meta     revision, format, owner
 *
 * All of it is synchronous. Reads outside a transaction see what was committed last, and reads without an await between
 * them see the same. Writes belong into `commit`. What is read is compared with its checksum: CellDamagedError.
 */
export class Database {
  readonly meta: Bytes;
  private readonly root: RootDatabase<Buffer, Buffer>;
  private readonly index: Bytes;
  private readonly values: Bytes;
  private readonly leases: Bytes;
  private readonly leased: Bytes;
  /** What goes into events, which are kept in the order in which they come. */
  private readonly copies = new Arena();

  constructor(directory: string, { isReadOnly = false } = {}) {
    const encodings = { encoding: "binary", keyEncoding: "binary" } as const;
    this.root = open<Buffer, Buffer>({
      ...encodings,
      path: directory,
      noSubdir: false,
      maxDbs: 8,
      readOnly: isReadOnly,
      // A commit is resolved when it is on disk, not before.
      overlappingSync: false,
      // The only writer is one transaction at a time; LMDB's own batching would add a promise that rejects unhandled.
      eventTurnBatching: false,
    });
    const table = (name: string): Bytes => this.root.openDB<Buffer, Buffer>(name, encodings);
    this.meta = table("meta");
    this.index = table("index");
    this.values = table("values");
    this.leases = table("leases");
    this.leased = table("leased");
  }

  /**
   * Runs `work` while a reader holds what was committed last: pages of it, and of what is committed meanwhile, are not
   * used again until the end. A process that has the directory open goes on writing, and its file may grow.
   */
  static async pinned<T>(directory: string, work: () => T): Promise<T> {
    const database = new Database(directory, { isReadOnly: true });
    try {
      const transaction = database.root.useReadTransaction();
      try {
        return work();
      } finally {
        transaction.done();
      }
    } finally {
      await database.close();
    }
  }

  /** How many keys have both an entry and a value, by going through all of them. */
  countKeys(): number {
    return Math.min(this.index.getKeysCount(), this.values.getKeysCount());
  }

  /** Gives up what readers hold that were killed. */
  forgetDeadReaders(): void {
    this.root.readerCheck();
  }

  /**
   * Runs `work` in one write transaction and resolves when that is on disk. If it throws, nothing of it was written. The
   * fsync happens on another thread.
   */
  async commit(work: () => void): Promise<void> {
    try {
      await inTransaction(() => this.root.childTransaction(work));
    } catch (error) {
      throw await causeOf(error);
    }
  }

  /** The same while the event loop stands still: for opening, and to ask LMDB whether it can still write. */
  commitSync<T>(work: () => T): T {
    return this.root.transactionSync(work);
  }

  close(): Promise<void> {
    return this.root.close();
  }

  get revision(): bigint {
    const found = this.meta.get(REVISION);
    return found === undefined ? 0n : decodeNumber(REVISION, found);
  }

  set revision(revision: bigint) {
    this.meta.put(REVISION, encodeNumber(REVISION, revision));
  }

  /** 0n for a key that does not exist. */
  modRevision(key: string): bigint {
    return this.entry(bytesOf(key))?.modRevision ?? 0n;
  }

  get(key: string): KeyValue | undefined {
    const bytes = bytesOf(key);
    const entry = this.entry(bytes);
    return entry && pairOf(key, entry, this.value(bytes, entry));
  }

  page({ from, to, limit, bytesMax, keysOnly }: PageRequest): Page {
    const pairs: KeyValue[] = [];
    let bytesLeft = Math.min(bytesMax, PAGE_BYTES_MAX);
    let more = false;
    for (const { key, value: entryBytes } of this.entries(from, to)) {
      more = pairs.length === limit;
      if (more) break;
      const entry = decodeIndexEntry(key, entryBytes);
      const value = keysOnly ? EMPTY : this.value(key, entry);
      bytesLeft -= key.length + value.length;
      more = pairs.length > 0 && bytesLeft < 0;
      if (more) break;
      pairs.push(pairOf(key.toString("latin1"), entry, value));
    }
    return { pairs, more, revision: this.revision };
  }

  /** What changed. Empty for a deletion of nothing. */
  write(write: Write, modRevision: bigint): WatchEvent[] {
    switch (write.kind) {
      case "put":
        return [this.put(write.key, write.value, modRevision, write.leaseId ?? 0n)];
      case "delete":
        return this.delete(write.key, modRevision);
      case "delete-range": {
        // Read to the end first: a cursor does not survive the deletion of what it stands on.
        const keys = [...this.entries(write.from, write.to)].map(({ key }) => key.toString("latin1"));
        return keys.flatMap((key) => this.delete(key, modRevision));
      }
    }
  }

  putLease(leaseId: bigint, ttlMs: number): void {
    const id = uint64(leaseId);
    this.leases.put(id, encodeNumber(id, BigInt(ttlMs)));
  }

  hasLease(leaseId: bigint): boolean {
    return this.leases.doesExist(uint64(leaseId));
  }

  /** Deletes the lease, and returns the keys put under it, which are left to the caller to delete. */
  removeLease(leaseId: bigint): string[] {
    const id = uint64(leaseId);
    this.leases.remove(id);
    const keys = [...this.leased.getKeys({ start: id, end: uint64(leaseId + 1n) })];
    return keys.map((key) => key.toString("latin1", LEASE_ID_BYTES));
  }

  allLeases(): { leaseId: bigint; ttlMs: number }[] {
    return [...this.leases.getRange()].map(({ key, value }) => ({
      leaseId: key.readBigUInt64BE(),
      ttlMs: Number(decodeNumber(key, value)),
    }));
  }

  private put(key: string, input: Uint8Array, modRevision: bigint, leaseId: bigint): WatchEvent {
    const bytes = bytesOf(key);
    // The event outlives the call, the caller's buffer may not.
    const value = this.copies.copy(input);
    this.detach(bytes);
    this.index.put(bytes, encodeIndexEntry(bytes, modRevision, leaseId, value));
    this.values.put(bytes, value);
    if (leaseId !== 0n) this.leased.put(Buffer.concat([uint64(leaseId), bytes]), EMPTY);
    return { kind: "put", pair: { key, value, modRevision, leaseId } };
  }

  private delete(key: string, modRevision: bigint): WatchEvent[] {
    const bytes = bytesOf(key);
    if (!this.detach(bytes)) return [];
    this.index.remove(bytes);
    this.values.remove(bytes);
    return [{ kind: "delete", key, modRevision }];
  }

  /** Takes the key from its lease. False if there is no such key. */
  private detach(key: Buffer): boolean {
    const entry = this.entry(key);
    if (entry === undefined) return false;
    if (entry.leaseId !== 0n) this.leased.remove(Buffer.concat([uint64(entry.leaseId), key]));
    return true;
  }

  private entry(key: Buffer): IndexEntry | undefined {
    const bytes = this.index.get(key);
    return bytes && decodeIndexEntry(key, bytes);
  }

  private value(key: Buffer, entry: IndexEntry): Buffer {
    const found = this.values.get(key);
    if (found === undefined) throw new CellDamagedError(`key ${key.toString("latin1")} has lost its value`);
    const value = Buffer.from(found.buffer, found.byteOffset, found.byteLength);
    requireValue(key, entry, value);
    return value;
  }

  /** Leaving the loop ends the cursor, which would otherwise keep LMDB from using freed pages again. */
  private entries(from: string, to: string): Iterable<{ key: Buffer; value: Buffer }> {
    return from < to ? this.index.getRange({ start: bytesOf(from), end: bytesOf(to) }) : [];
  }
}

function pairOf(key: string, { modRevision, leaseId }: IndexEntry, value: Buffer): KeyValue {
  return { key, value, modRevision, leaseId };
}

/** Keys are ASCII. */
function bytesOf(key: string): Buffer {
  return Buffer.from(key, "latin1");
}

function uint64(value: bigint): Buffer {
  const bytes = Buffer.allocUnsafe(8);
  bytes.writeBigUInt64BE(value);
  return bytes;
}

/** LMDB rejects all of a failed commit with one error that only refers to a promise of the real one. */
async function causeOf(error: unknown): Promise<unknown> {
  if (!(error instanceof Error && "commitError" in error)) return error;
  return Promise.resolve(error.commitError).catch((cause: unknown) => cause);
}
