import { isUtf8 } from "node:buffer";
import { crc32c } from "@node-rs/crc32";
import { OpType } from "../gen/oplog/v1/entry_pb.js";
import { InvalidArgumentError, TooLargeError } from "./errors.js";
import { varintBytes, WIRE_BYTES, WIRE_FIXED32, WIRE_VARINT, WireError, WireReader, writeVarint } from "./wire.js";

export const KEY_BYTES_MAX = 4096;
export const HEADERS_MAX = 16;
export const HEADERS_BYTES_MAX = 4096;
/** 10 years. */
export const LEASE_MS_MAX = 315_360_000_000;
/** What an entry is counted with beyond its own bytes: tag, length and the stamp of id, term and time. */
export const STAMP_BYTES_MAX = 40;

export interface AppendLimits {
  readonly entriesMax: number;
  /** Of all entries of one append, each counted with STAMP_BYTES_MAX. */
  readonly bytesMax: number;
}

/** Validated entries of one append, still the client's bytes: entry i is source[spans[2i], spans[2i+1]). */
export interface Entries {
  readonly source: Buffer;
  readonly spans: readonly number[];
  readonly count: number;
  /** With STAMP_BYTES_MAX for each entry. */
  readonly costBytes: number;
}

/** Checks the entries at `spans` in full, so that whatever is stored can be decoded by every client. */
export function validateEntries(source: Buffer, spans: readonly number[], limits: AppendLimits): Entries {
  const count = spans.length / 2;
  if (count === 0) throw new InvalidArgumentError("entries", "empty; an append has at least one entry");
  if (count > limits.entriesMax) {
    throw new InvalidArgumentError("entries", `${count} entries, the limit is ${limits.entriesMax}`, {
      received: count,
      limit: limits.entriesMax,
    });
  }
  let costBytes = 0;
  for (let index = 0; index < count; index++) {
    const start = spans[2 * index]!;
    const end = spans[2 * index + 1]!;
    const entryBytes = end - start + STAMP_BYTES_MAX;
    if (entryBytes > limits.bytesMax) {
      throw new TooLargeError(`entries[${index}]`, entryBytes, limits.bytesMax, { entry_index: index });
    }
    costBytes += entryBytes;
    validateEntry(source, start, end, index);
  }
  if (costBytes > limits.bytesMax) throw new TooLargeError("entries", costBytes, limits.bytesMax);
  return { source, spans, count, costBytes };
}

/** A REMOVE of each of these keys, which are those of stored entries. */
export function removalEntries(keys: readonly Buffer[]): Entries {
  const fieldsBytes = 2 + 1 + varintBytes(KEY_BYTES_MAX);
  const source = Buffer.allocUnsafe(keys.reduce((sum, key) => sum + fieldsBytes + key.length, 0));
  const spans: number[] = [];
  let at = 0;
  for (const key of keys) {
    spans.push(at);
    source[at] = TAG_OP_TYPE;
    source[at + 1] = OpType.REMOVE;
    source[at + 2] = TAG_KEY;
    at = writeVarint(source, at + 3, key.length);
    at += key.copy(source, at);
    spans.push(at);
  }
  return { source, spans, count: keys.length, costBytes: at + keys.length * STAMP_BYTES_MAX };
}

/** CRC32C over the entries as sent. */
export function contentCrc32c(entries: Entries): number {
  let crc = 0;
  for (let index = 0; index < entries.count; index++) {
    crc = crc32c(entries.source.subarray(entries.spans[2 * index], entries.spans[2 * index + 1]), crc);
  }
  return crc;
}

const TAG_OP_TYPE = (4 << 3) | WIRE_VARINT;
const TAG_KEY = (5 << 3) | WIRE_BYTES;
const TAG_PAYLOAD = (6 << 3) | WIRE_BYTES;
const TAG_KEY_SEQUENCE_ID = (7 << 3) | WIRE_VARINT;
const TAG_CHECKSUM = (8 << 3) | WIRE_FIXED32;
const TAG_HEADERS = (9 << 3) | WIRE_BYTES;
const TAG_LEASE_MS = (10 << 3) | WIRE_VARINT;
const SET_BY_SIDECAR = new Map([
  [1, "sequence_id"],
  [2, "term"],
  [3, "timestamp_ms"],
]);
const FIELD_NAMES = ["", "", "", "", "op_type", "key", "payload", "key_sequence_id", "checksum", "headers", "lease_ms"];

function validateEntry(source: Buffer, start: number, end: number, index: number): void {
  const reader = new WireReader(source, start, end);
  let opType = 0;
  let keyBytes = 0;
  let payloadStart = start;
  let payloadEnd = start;
  let checksum = -1;
  let headers = 0;
  let headersBytes = 0;
  let leaseAt = -1;
  let leaseMs = 0;
  let seen = 0;
  try {
    while (!reader.isAtEnd) {
      const tag = reader.tag();
      if (tag !== TAG_HEADERS) {
        const bit = 1 << (tag >>> 3);
        if (tag >>> 3 < FIELD_NAMES.length && (seen & bit) !== 0) {
          throw refuse(index, FIELD_NAMES[tag >>> 3]!, "set more than once");
        }
        seen |= bit;
      }
      switch (tag) {
        case TAG_OP_TYPE:
          opType = reader.uint32();
          break;
        case TAG_KEY: {
          const at = reader.span();
          keyBytes = reader.position - at;
          if (keyBytes > KEY_BYTES_MAX) throw tooLarge(index, "key", keyBytes, KEY_BYTES_MAX);
          requireUtf8(source, at, reader.position, index, "key");
          break;
        }
        case TAG_PAYLOAD:
          payloadStart = reader.span();
          payloadEnd = reader.position;
          break;
        case TAG_KEY_SEQUENCE_ID:
          reader.uint64();
          break;
        case TAG_CHECKSUM:
          checksum = reader.fixed32();
          break;
        case TAG_HEADERS: {
          const at = reader.span();
          headers++;
          headersBytes += reader.position - at;
          validateHeader(source, at, reader.position, index);
          break;
        }
        case TAG_LEASE_MS:
          leaseAt = reader.position;
          leaseMs = reader.number();
          break;
        default:
          throw refuseField(index, tag);
      }
    }
  } catch (error) {
    if (error instanceof WireError) throw new InvalidArgumentError(`entries[${index}]`, `malformed: ${error.message}`);
    throw error;
  }
  if (opType < OpType.PUT_END || opType > OpType.EVENT) {
    throw refuse(index, "op_type", `${opType} is no known type; 1 PUT_END, 2 PUT_REVOKE, 3 REMOVE, 4 EVENT`, {
      received: opType,
    });
  }
  if (keyBytes === 0 && opType !== OpType.EVENT) throw refuse(index, "key", "empty; only an EVENT may have no key");
  if (headers > HEADERS_MAX) {
    throw refuse(index, "headers", `${headers} pairs, the limit is ${HEADERS_MAX}`, {
      received: headers,
      limit: HEADERS_MAX,
    });
  }
  if (headersBytes > HEADERS_BYTES_MAX) throw tooLarge(index, "headers", headersBytes, HEADERS_BYTES_MAX);
  if (leaseMs !== 0) {
    if (opType !== OpType.PUT_END)
      throw refuse(index, "lease_ms", `set on ${OpType[opType]}; only PUT_END has a lease`);
    if (leaseMs > LEASE_MS_MAX) throw refuseLease(index, new WireReader(source, leaseAt, end).uint64());
  }
  if (checksum !== -1) verifyChecksum(source.subarray(payloadStart, payloadEnd), checksum, index);
}

function validateHeader(source: Buffer, start: number, end: number, index: number): void {
  const reader = new WireReader(source, start, end);
  while (!reader.isAtEnd) {
    const tag = reader.tag();
    if (tag !== ((1 << 3) | WIRE_BYTES) && tag !== ((2 << 3) | WIRE_BYTES)) throw refuse(index, "headers", "malformed");
    const at = reader.span();
    requireUtf8(source, at, reader.position, index, "headers");
  }
}

function verifyChecksum(payload: Buffer, checksum: number, index: number): void {
  const computed = crc32c(payload);
  if (computed !== checksum) {
    throw refuse(index, "checksum", `${checksum} is not the CRC32C of the payload, which is ${computed}`, {
      received: checksum,
      computed,
    });
  }
}

/** Nearly all keys are ASCII; only others pay for the call into native code. */
function requireUtf8(source: Buffer, start: number, end: number, index: number, field: string): void {
  for (let at = start; at < end; at++) {
    if (source[at]! >= 0x80) {
      if (!isUtf8(source.subarray(start, end))) throw refuse(index, field, "not valid UTF-8");
      return;
    }
  }
}

function refuse(index: number, field: string, problem: string, facts = {}): InvalidArgumentError {
  return new InvalidArgumentError(`entries[${index}].${field}`, problem, { entry_index: index, ...facts });
}

function tooLarge(index: number, field: string, received: number, limit: number): InvalidArgumentError {
  return refuse(index, field, `${received} bytes, the limit is ${limit}`, { received, limit });
}

function refuseLease(index: number, received: bigint): InvalidArgumentError {
  return refuse(index, "lease_ms", `${received} ms, the limit is ${LEASE_MS_MAX}`, { received, limit: LEASE_MS_MAX });
}

function refuseField(index: number, tag: number): InvalidArgumentError {
  const number = tag >>> 3;
  const name = SET_BY_SIDECAR.get(number);
  if (name !== undefined) return refuse(index, name, "set by the sidecar; leave it out");
  if (number < FIELD_NAMES.length)
    return refuse(index, FIELD_NAMES[number]!, `wire type ${tag & 7} does not fit the field`);
  return refuse(index, String(number), "a field that this version of oplogd does not know", { received: number });
}
