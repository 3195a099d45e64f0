import type { ICompare, IKeyValue, IRequestOp, ITxnRequest, ITxnResponse } from "etcd3";
import type { Compare, KeyValue, TxnRequest, TxnResult, Write } from "../../oplog/kv-store.js";
import { StoreRefusedError } from "../../oplog/kv-store.js";

/**
 * Below etcd's limit of 1.5 MiB for a whole request: what remains holds the field headers, compares and reads of a
 * transaction of 128 operations.
 */
export const TXN_BYTES_MAX = 1_400_000;
/** etcd's --max-txn-ops; it holds for compares, writes and reads one by one. */
export const TXN_OPERATIONS_MAX = 128;

const ASCII = /^[\0-\x7f]+$/;
const INTEGER = /^-?\d{1,19}$/;
const NUL = "\0";

export function encodeKey(key: string): Buffer {
  if (!ASCII.test(key)) throw new StoreRefusedError(`key ${JSON.stringify(key)} is empty or not ASCII`);
  return Buffer.from(key, "latin1");
}

/** A lone NUL byte as the end means "to the end of the store" to etcd, and no end means "this key only". */
export function encodeRange(from: string, to: string): { key: Buffer; range_end: Buffer } {
  if (to === NUL) throw new StoreRefusedError("a range cannot end before the first key");
  return { key: encodeKey(from), range_end: encodeKey(to) };
}

/** Every number of etcd arrives as a decimal string. Anything else must not silently become 0. */
export function decodeInteger(text: string): bigint {
  if (!INTEGER.test(text)) throw new TypeError(`etcd sent ${JSON.stringify(text)} where a number belongs`);
  return BigInt(text);
}

export function decodeKey(key: Buffer): string {
  return key.toString("latin1");
}

export function decodePair(pair: IKeyValue): KeyValue {
  return {
    key: decodeKey(pair.key),
    value: pair.value,
    modRevision: decodeInteger(pair.mod_revision),
    leaseId: decodeInteger(pair.lease),
  };
}

export function encodeTxn({ compares, writes, readOnFailure = [] }: TxnRequest): ITxnRequest {
  const operations = Math.max(compares.length, writes.length, readOnFailure.length);
  if (operations > TXN_OPERATIONS_MAX) {
    throw new StoreRefusedError(`a transaction of ${operations} operations, the limit is ${TXN_OPERATIONS_MAX}`);
  }
  const bytes = writes.reduce((sum, write) => sum + bytesOf(write), 0);
  if (bytes > TXN_BYTES_MAX) {
    throw new StoreRefusedError(`a transaction of ${bytes} bytes, the limit is ${TXN_BYTES_MAX}`);
  }
  return {
    compare: compares.map(encodeCompare),
    success: writes.flatMap(encodeWrite),
    failure: readOnFailure.map((key) => ({ request_range: { key: encodeKey(key) } })),
  };
}

export function decodeTxn(response: ITxnResponse): TxnResult {
  const revision = decodeInteger(response.header.revision);
  if (response.succeeded) return { succeeded: true, revision };
  const reads = response.responses.map(({ response_range }) => {
    const pair = response_range.kvs[0];
    return pair && decodePair(pair);
  });
  return { succeeded: false, revision, reads };
}

/** An absent key has mod revision 0. */
function encodeCompare({ key, modRevision }: Compare): ICompare {
  return { key: encodeKey(key), target: "Mod", result: "Equal", mod_revision: modRevision.toString() };
}

function encodeWrite(write: Write): IRequestOp[] {
  switch (write.kind) {
    case "put": {
      const { buffer, byteOffset, byteLength } = write.value;
      const value = Buffer.from(buffer, byteOffset, byteLength);
      return [{ request_put: { key: encodeKey(write.key), value, lease: (write.leaseId ?? 0n).toString() } }];
    }
    case "delete":
      return [{ request_delete_range: { key: encodeKey(write.key) } }];
    case "delete-range":
      return write.from < write.to ? [{ request_delete_range: encodeRange(write.from, write.to) }] : [];
  }
}

function bytesOf(write: Write): number {
  switch (write.kind) {
    case "put":
      return write.key.length + write.value.byteLength;
    case "delete":
      return write.key.length;
    case "delete-range":
      return write.from.length + write.to.length;
  }
}
