import { randomBytes } from "node:crypto";
import { expect } from "vitest";
import type { KvStore, Write } from "../../src/oplog/kv-store.js";

export interface StoreUnderTest {
  readonly store: KvStore;
  /** Closes the store and opens the same data again; cleanup then releases the new one too. Of stores that outlive their process. */
  readonly reopen?: () => Promise<KvStore>;
  /** Drops the history before `revision`, and maybe more. */
  readonly compact: (revision: bigint) => Promise<void>;
  cleanup(): Promise<void>;
}

export type MakeStore = () => Promise<StoreUnderTest>;

/** A key root that no other test uses. Every key of a test is `root + something`. */
export function uniqueRoot(): string {
  return `/contract/${randomBytes(8).toString("hex")}/`;
}

/** The end of the range over all keys of a root. */
export function endOf(root: string): string {
  return `${root.slice(0, -1)}0`;
}

export function put(key: string, value: string | Uint8Array = "", leaseId?: bigint): Write {
  const bytes = typeof value === "string" ? Buffer.from(value) : value;
  return leaseId === undefined ? { kind: "put", key, value: bytes } : { kind: "put", key, value: bytes, leaseId };
}

/** Writes without a condition; the revision. */
export async function write(store: KvStore, ...writes: Write[]): Promise<bigint> {
  const result = await store.txn({ compares: [], writes });
  expect(result.succeeded).toBe(true);
  return result.revision;
}

/** Keys of the root in the order the store gives them, without the root. */
export async function keysOf(store: KvStore, root: string): Promise<string[]> {
  const { pairs } = await store.page({
    from: root,
    to: endOf(root),
    limit: 10_000,
    bytesMax: 1024 * 1024,
    keysOnly: true,
  });
  return pairs.map((pair) => pair.key.slice(root.length));
}
