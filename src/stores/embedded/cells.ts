import { crc32c } from "@node-rs/crc32";

/**
 * What the tables hold beside the values, with checksums, since a disk may return other bytes than were written.
 *
 *   entry of the index   mod revision (8), lease id (8), CRC32C of the value (4), CRC32C of the key and the 20 bytes (4)
 *   number               the number (8), CRC32C of the key and the 8 bytes (4)
 *
 * Earlier versions wrote neither checksum. What they wrote is read as it is, and they can read what is written here.
 */
export const INDEX_ENTRY_BYTES_UNCHECKED = 16;
const INDEX_ENTRY_BYTES = 24;
const VALUE_CRC_AT = 16;
const ENTRY_CRC_AT = 20;
const NUMBER_BYTES = 12;

/** What was read is not what was written. */
export class CellDamagedError extends Error {
  override readonly name = "CellDamagedError";
}

export interface IndexEntry {
  readonly modRevision: bigint;
  /** 0n = none. */
  readonly leaseId: bigint;
  /** Undefined: written without. */
  readonly valueCrc: number | undefined;
}

export function encodeIndexEntry(key: Buffer, modRevision: bigint, leaseId: bigint, value: Buffer): Buffer {
  const bytes = Buffer.allocUnsafe(INDEX_ENTRY_BYTES);
  bytes.writeBigUInt64BE(modRevision);
  bytes.writeBigUInt64BE(leaseId, 8);
  bytes.writeUInt32BE(crc32c(value), VALUE_CRC_AT);
  bytes.writeUInt32BE(crcOf(key, bytes.subarray(0, ENTRY_CRC_AT)), ENTRY_CRC_AT);
  return bytes;
}

export function decodeIndexEntry(key: Buffer, bytes: Buffer): IndexEntry {
  const isChecked = bytes.length !== INDEX_ENTRY_BYTES_UNCHECKED;
  if (isChecked) {
    const isWhole = bytes.length === INDEX_ENTRY_BYTES;
    if (!isWhole || bytes.readUInt32BE(ENTRY_CRC_AT) !== crcOf(key, bytes.subarray(0, ENTRY_CRC_AT))) {
      throw new CellDamagedError(`the entry of key ${shown(key)} in the index is damaged`);
    }
  }
  return {
    modRevision: bytes.readBigUInt64BE(),
    leaseId: bytes.readBigUInt64BE(8),
    valueCrc: isChecked ? bytes.readUInt32BE(VALUE_CRC_AT) : undefined,
  };
}

export function requireValue(key: Buffer, entry: IndexEntry, value: Buffer): void {
  if (entry.valueCrc !== undefined && crc32c(value) !== entry.valueCrc) {
    throw new CellDamagedError(`the value of key ${shown(key)} is damaged: its checksum is another one`);
  }
}

export function encodeNumber(key: Buffer, number: bigint): Buffer {
  const bytes = Buffer.allocUnsafe(NUMBER_BYTES);
  bytes.writeBigUInt64BE(number);
  bytes.writeUInt32BE(crcOf(key, bytes.subarray(0, 8)), 8);
  return bytes;
}

export function decodeNumber(key: Buffer, bytes: Buffer): bigint {
  const isChecked = bytes.length !== 8;
  if (isChecked && (bytes.length !== NUMBER_BYTES || bytes.readUInt32BE(8) !== crcOf(key, bytes.subarray(0, 8)))) {
    throw new CellDamagedError(`the number under ${shown(key)} is damaged`);
  }
  return bytes.readBigUInt64BE();
}

function crcOf(key: Buffer, bytes: Buffer): number {
  return crc32c(bytes, crc32c(key));
}

function shown(key: Buffer): string {
  const text = key.toString("latin1");
  return /^[\x20-\x7e]*$/.test(text) ? text : `0x${key.toString("hex")}`;
}
