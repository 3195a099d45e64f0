import { type PageRequest, StoreRefusedError, type TxnRequest, type WatchRequest, type Write } from "./kv-store.js";

/** What a store refuses before it looks at its data; shared, so that no adapter is more lenient than the next. */

export const PAGE_PAIRS_MAX = 10_000;
export const STORE_KEY_BYTES_MAX = 1_024;
// biome-ignore lint/suspicious/noControlCharactersInRegex: all of ASCII; the least key after k is k and a zero byte.
const ASCII = /^[\x00-\x7f]+$/;

/** Keys are compared as strings here and as bytes in stores: the same order only for ASCII. */
export function requireKey(key: string): void {
  if (key.length > STORE_KEY_BYTES_MAX || !ASCII.test(key)) {
    const shown = JSON.stringify(key.slice(0, 100));
    throw new StoreRefusedError(
      `key ${shown}: ${key.length} characters; it must be 1 to ${STORE_KEY_BYTES_MAX}, all ASCII`,
    );
  }
}

export function requirePage({ from, to, limit, bytesMax }: PageRequest): void {
  requireKey(from);
  requireKey(to);
  if (!Number.isInteger(limit) || limit < 1 || limit > PAGE_PAIRS_MAX) {
    throw new StoreRefusedError(`a page of at most ${limit} pairs: it must be 1 to ${PAGE_PAIRS_MAX}`);
  }
  if (!Number.isInteger(bytesMax) || bytesMax < 1) {
    throw new StoreRefusedError(`a page of at most ${bytesMax} bytes: it must be a whole number of at least 1`);
  }
}

export function requireWatch({ from, to, startRevision }: WatchRequest): void {
  requireKey(from);
  requireKey(to);
  if (startRevision < 1n) throw new StoreRefusedError(`watch from revision ${startRevision}: the first one is 1`);
}

export function requireTtl(ttlMs: number): void {
  if (!Number.isSafeInteger(ttlMs) || ttlMs < 1) {
    throw new StoreRefusedError(`lease TTL of ${ttlMs} ms: it must be a whole number of at least 1`);
  }
}

/** The bytes that the transaction writes, keys and values. */
export function requireTxn(request: TxnRequest, txnBytesMax: number): number {
  for (const { key } of request.compares) requireKey(key);
  for (const key of request.readOnFailure ?? []) requireKey(key);
  const bytes = request.writes.reduce((sum, write) => sum + writeBytes(write), 0);
  if (bytes > txnBytesMax) {
    throw new StoreRefusedError(`transaction of ${bytes} bytes: the limit is ${txnBytesMax}; nothing was written`);
  }
  requireDistinctKeys(request.writes);
  return bytes;
}

function writeBytes(write: Write): number {
  if (write.kind === "delete-range") {
    requireKey(write.from);
    requireKey(write.to);
    return write.from.length + write.to.length;
  }
  requireKey(write.key);
  return write.key.length + (write.kind === "put" ? write.value.byteLength : 0);
}

function requireDistinctKeys(writes: readonly Write[]): void {
  const keys = new Set<string>();
  for (const write of writes) {
    if (write.kind === "delete-range") continue;
    if (keys.has(write.key)) throw writtenTwice(write.key);
    keys.add(write.key);
  }
  for (const write of writes) {
    if (write.kind !== "delete-range") continue;
    for (const key of keys) if (key >= write.from && key < write.to) throw writtenTwice(key);
  }
}

function writtenTwice(key: string): StoreRefusedError {
  return new StoreRefusedError(`the transaction writes key ${JSON.stringify(key)} twice; nothing was written`);
}
