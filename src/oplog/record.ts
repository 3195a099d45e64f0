import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { crc32c } from "@node-rs/crc32";
import { compressFrameSync, decompressFrameSync } from "lz4-napi";
import { Codec, type RecordHeader, RecordHeaderSchema } from "../gen/oplog/store/v1/store_pb.js";
import type { Entries } from "./entries.js";
import { varintBytes, WireReader, writeVarint } from "./wire.js";

const FORMAT_VERSION = 1;
const CRC_AT = 1;
const HEADER_AT = 5;
/** Below this, and below a gain of a tenth, compressing costs more than it saves. */
const COMPRESS_BYTES_MIN = 512;
/** No body that a writer seals is larger; a header that claims more is damaged. */
const BODY_BYTES_MAX = 4 * 1024 * 1024;

const TAG_ENTRIES = 0x0a;
const TAG_SEQUENCE_ID = 0x08;
const TAG_TERM = 0x10;
const TAG_TIMESTAMP_MS = 0x18;

/** More than the fields around the entries of a frame ever take. */
export const FRAME_ROOM_BYTES = 64;

/** A record that cannot be what a writer stored. */
export class RecordDamagedError extends Error {
  constructor(problem: string) {
    super(problem);
    this.name = "RecordDamagedError";
  }
}

/** To which history an entry belongs. */
export interface Origin {
  /** Of the record that holds the entry; 0n = not known. */
  readonly term: bigint;
  /**
   * The nonce of that record, in hex; "" = not known. Each record names the one before it, so two logs that have the same
   * chain at an id are the same up to there.
   */
  readonly chain: string;
}

export const UNKNOWN_ORIGIN: Origin = { term: 0n, chain: "" };

/** Entries `first` to `last` as they go over the wire: for each the tag 0x0a, its length, its bytes. All of one record. */
export interface EntryRun extends Origin {
  readonly first: bigint;
  readonly last: bigint;
  readonly body: Buffer;
}

/** A run of entries under one term. */
export interface CommittedRun extends EntryRun {
  readonly timestampMs: bigint;
  /** Of the record before; "" = not known. */
  readonly previousChain: string;
  /** The SubscribeResponse with all of it, if it has been made already. */
  readonly frame?: Buffer;
}

/**
 * Copies the entries of several appends into one body and stamps each with its id, the term and the time: three fields
 * appended to the client's bytes, so that nothing is decoded or encoded again. The buffer has FRAME_ROOM_BYTES to spare on
 * either side of the body, where frameInPlace puts what makes it a message.
 */
export function stampEntries(appends: readonly Entries[], first: bigint, term: bigint, timestampMs: number): Buffer {
  const stamp = Buffer.allocUnsafe(24);
  stamp[0] = TAG_TERM;
  let stampBytes = writeVarint(stamp, 1, Number(term));
  stamp[stampBytes] = TAG_TIMESTAMP_MS;
  stampBytes = writeVarint(stamp, stampBytes + 1, timestampMs);
  const costBytes = appends.reduce((sum, append) => sum + append.costBytes, 0);
  const body = Buffer.allocUnsafeSlow(FRAME_ROOM_BYTES + costBytes + FRAME_ROOM_BYTES);
  let at = FRAME_ROOM_BYTES;
  let id = Number(first);
  for (const { source, spans } of appends) {
    for (let index = 0; index < spans.length; index += 2) {
      const start = spans[index]!;
      const end = spans[index + 1]!;
      body[at] = TAG_ENTRIES;
      at = writeVarint(body, at + 1, end - start + 1 + varintBytes(id) + stampBytes);
      source.copy(body, at, start, end);
      at += end - start;
      body[at] = TAG_SEQUENCE_ID;
      at = writeVarint(body, at + 1, id);
      for (let byte = 0; byte < stampBytes; byte++) body[at++] = stamp[byte]!;
      id++;
    }
  }
  return body.subarray(FRAME_ROOM_BYTES, at);
}

/** Where each entry of a body starts, tag included, and at last where the body ends. */
export function entryOffsets(body: Buffer): number[] {
  const offsets: number[] = [];
  const reader = new WireReader(body);
  while (!reader.isAtEnd) {
    offsets.push(reader.position);
    if (reader.tag() !== TAG_ENTRIES) throw new RecordDamagedError("a body holds something other than entries");
    reader.span();
  }
  offsets.push(body.length);
  return offsets;
}

/** The bytes to store. `header` lacks only codec and body_bytes. */
export function encodeRecord(
  header: Omit<RecordHeader, "$typeName" | "codec" | "bodyBytes">,
  body: Buffer,
  codec: Codec,
): Buffer {
  const packed = codec === Codec.LZ4 && body.length >= COMPRESS_BYTES_MIN ? compressFrameSync(body) : body;
  const isWorthIt = packed.length < body.length * 0.9;
  const stored = isWorthIt ? packed : body;
  const headerBytes = toBinary(
    RecordHeaderSchema,
    create(RecordHeaderSchema, { ...header, codec: isWorthIt ? Codec.LZ4 : Codec.NONE, bodyBytes: body.length }),
  );
  const record = Buffer.allocUnsafeSlow(
    HEADER_AT + varintBytes(headerBytes.length) + headerBytes.length + stored.length,
  );
  record[0] = FORMAT_VERSION;
  const headerStart = writeVarint(record, HEADER_AT, headerBytes.length);
  record.set(headerBytes, headerStart);
  record.set(stored, headerStart + headerBytes.length);
  record.writeUInt32LE(crc32c(record.subarray(HEADER_AT)), CRC_AT);
  return record;
}

/** A nonce as it is told and compared: a string holds no buffer alive. */
export function chainOf(nonce: Uint8Array): string {
  return Buffer.from(nonce.buffer, nonce.byteOffset, nonce.byteLength).toString("hex");
}

/** What is not known contradicts nothing. */
export function isOtherChain(a: string, b: string): boolean {
  return a !== b && a !== "" && b !== "";
}

/** A record at rest whose checksum has been verified. */
export interface StoredRecord {
  readonly header: RecordHeader;
  /** The body as stored; openBody makes it readable. */
  readonly storedBody: Buffer;
}

export function decodeRecord(value: Buffer): StoredRecord {
  if (value.length <= HEADER_AT) throw new RecordDamagedError(`${value.length} bytes are no record`);
  if (value[0] !== FORMAT_VERSION) {
    throw new RecordDamagedError(`record format ${value[0]} is unknown, this version reads ${FORMAT_VERSION}`);
  }
  const expected = value.readUInt32LE(CRC_AT);
  const computed = crc32c(value.subarray(HEADER_AT));
  if (computed !== expected) throw new RecordDamagedError(`checksum is ${expected}, the bytes give ${computed}`);
  try {
    const reader = new WireReader(value, HEADER_AT);
    const headerStart = reader.span();
    const header = fromBinary(RecordHeaderSchema, value.subarray(headerStart, reader.position), {
      readUnknownFields: false,
    });
    if (
      header.firstSequenceId < 1n ||
      header.firstSequenceId > header.lastSequenceId ||
      header.bodyBytes > BODY_BYTES_MAX
    ) {
      throw new RecordDamagedError(
        `a record of ${header.firstSequenceId}..${header.lastSequenceId}, ${header.bodyBytes} bytes`,
      );
    }
    return { header, storedBody: value.subarray(reader.position) };
  } catch (error) {
    throw error instanceof RecordDamagedError ? error : new RecordDamagedError(`header: ${String(error)}`);
  }
}

export function openBody({ header, storedBody }: StoredRecord): Buffer {
  if (header.codec !== Codec.NONE && header.codec !== Codec.LZ4)
    throw new RecordDamagedError(`codec ${header.codec} is unknown`);
  const body = header.codec === Codec.LZ4 ? decompress(storedBody) : storedBody;
  if (body.length !== header.bodyBytes) {
    throw new RecordDamagedError(`the body has ${body.length} bytes, its header says ${header.bodyBytes}`);
  }
  return body;
}

function decompress(stored: Buffer): Buffer {
  try {
    return decompressFrameSync(stored);
  } catch (error) {
    throw new RecordDamagedError(`LZ4: ${String(error)}`);
  }
}
