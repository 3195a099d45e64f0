import { fromBinary } from "@bufbuild/protobuf";
import { crc32c } from "@node-rs/crc32";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Codec } from "../../src/gen/oplog/store/v1/store_pb.js";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { BatchSchema } from "../../src/gen/oplog/v1/oplog_pb.js";
import {
  decodeRecord,
  encodeRecord,
  entryOffsets,
  openBody,
  RecordDamagedError,
  stampEntries,
} from "../../src/oplog/record.js";
import { WireError } from "../../src/oplog/wire.js";
import { type EntryInit, validated } from "./entries-support.js";

const HEADER = {
  logId: Buffer.from("00112233445566778899aabbccddeeff", "hex"),
  nonce: Buffer.from("0f0e0d0c0b0a09080706050403020100", "hex"),
  firstSequenceId: 7n,
  lastSequenceId: 8n,
  term: 3n,
  timestampMs: 1_700_000_000_123n,
  operations: [],
  previousNonce: Buffer.from("1f1e1d1c1b1a19181716151413121110", "hex"),
};
const ENTRIES: EntryInit[] = [
  { opType: OpType.PUT_END, key: "object/1", payload: Buffer.from("value") },
  { opType: OpType.REMOVE, key: "object/2" },
];
const bodyOf = (entries: EntryInit[]) => stampEntries([validated(entries)], 7n, 3n, 1_700_000_000_123);
const SMALL_BODY = bodyOf(ENTRIES);
const LARGE_BODY = bodyOf([{ ...ENTRIES[0], payload: Buffer.alloc(2000, "lz4 ") }, ENTRIES[1]!]);

/** A valid record around a stored body of our making. */
function forged(storedBody: Buffer, header: Partial<Parameters<typeof encodeRecord>[0]> = {}): Buffer {
  return encodeRecord({ ...HEADER, ...header }, storedBody, Codec.NONE);
}

describe("a record", () => {
  it.each([
    ["uncompressed", SMALL_BODY, Codec.NONE, Codec.NONE],
    ["compressed", LARGE_BODY, Codec.LZ4, Codec.LZ4],
    ["too small to be compressed", SMALL_BODY, Codec.LZ4, Codec.NONE],
    ["that the operator wants uncompressed", LARGE_BODY, Codec.NONE, Codec.NONE],
  ])("%s gives back header and body", (_, body, wanted, stored) => {
    const record = decodeRecord(encodeRecord(HEADER, body, wanted));
    expect(record.header).toMatchObject({ ...HEADER, codec: stored, bodyBytes: body.length });
    expect(openBody(record).equals(body)).toBe(true);
    expect(fromBinary(BatchSchema, openBody(record)).entries.map(({ sequenceId }) => sequenceId)).toEqual([7n, 8n]);
  });

  it("is stored uncompressed when compressing gains less than a tenth", () => {
    const noise = Buffer.from(
      Array.from({ length: 2000 }, (_, index) => crc32c(Buffer.from([index, index >> 8])) & 0xff),
    );
    const body = bodyOf([{ ...ENTRIES[0], payload: noise }, ENTRIES[1]!]);
    expect(decodeRecord(encodeRecord(HEADER, body, Codec.LZ4)).header.codec).toBe(Codec.NONE);
  });

  it("has a fixed format at rest", () => {
    const record = encodeRecord(
      {
        ...HEADER,
        operations: [
          {
            $typeName: "oplog.store.v1.WriterOperations",
            writerId: "w1",
            operationId: [41n],
            firstOffset: [0],
            entryCount: [2],
            contentCrc32c: [0xdeadbeef],
          },
        ],
      },
      SMALL_BODY,
      Codec.NONE,
    );
    expect(record.toString("hex")).toBe(GOLDEN);
    expect(openBody(decodeRecord(Buffer.from(GOLDEN, "hex"))).equals(SMALL_BODY)).toBe(true);
  });

  it("written before records were chained can be read", () => {
    const record = decodeRecord(Buffer.from(GOLDEN_UNCHAINED, "hex"));
    expect(record.header.previousNonce).toHaveLength(0);
    expect(openBody(record).equals(SMALL_BODY)).toBe(true);
  });

  it("compressed by an earlier version can be read", () => {
    expect(openBody(decodeRecord(Buffer.from(GOLDEN_LZ4, "hex"))).equals(LARGE_BODY)).toBe(true);
  });

  it.each([
    ["uncompressed", encodeRecord(HEADER, SMALL_BODY, Codec.NONE)],
    ["compressed", encodeRecord(HEADER, LARGE_BODY, Codec.LZ4)],
  ])("%s with any single bit flipped is found damaged", (_, record) => {
    for (let bit = 0; bit < record.length * 8; bit++) {
      const flipped = Buffer.from(record);
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      expect(() => openBody(decodeRecord(flipped)), `bit ${bit}`).toThrow(RecordDamagedError);
    }
  });

  it("cut anywhere is found damaged", () => {
    const record = encodeRecord(HEADER, LARGE_BODY, Codec.LZ4);
    for (let length = 0; length < record.length; length++) {
      expect(() => openBody(decodeRecord(record.subarray(0, length))), `${length} bytes`).toThrow(RecordDamagedError);
    }
  });

  it("with something behind it is found damaged", () => {
    const record = encodeRecord(HEADER, SMALL_BODY, Codec.NONE);
    expect(() => decodeRecord(Buffer.concat([record, Buffer.from([0])]))).toThrow(RecordDamagedError);
  });

  it("of a format that this version does not know says so", () => {
    const record = encodeRecord(HEADER, SMALL_BODY, Codec.NONE);
    record[0] = 2;
    expect(() => decodeRecord(record)).toThrow("record format 2 is unknown, this version reads 1");
  });

  it.each([
    ["starts at 0", { firstSequenceId: 0n }],
    ["ends before it starts", { firstSequenceId: 9n }],
  ])("whose header says that it %s is found damaged", (_, header) => {
    expect(() => decodeRecord(forged(SMALL_BODY, header))).toThrow(RecordDamagedError);
  });

  it("of garbage under a valid checksum throws RecordDamagedError alone", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 60 }), (garbage) => {
        const value = Buffer.concat([Buffer.from([1, 0, 0, 0, 0]), garbage]);
        value.writeUInt32LE(crc32c(value.subarray(5)), 1);
        try {
          decodeRecord(value);
        } catch (error) {
          expect(error).toBeInstanceOf(RecordDamagedError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe("a body", () => {
  it("that cannot be decompressed though its checksum is right is found damaged", () => {
    const value = encodeRecord(HEADER, LARGE_BODY, Codec.LZ4);
    value.fill(0xff, value.length - 8);
    value.writeUInt32LE(crc32c(value.subarray(5)), 1);
    expect(() => openBody(decodeRecord(value))).toThrow(RecordDamagedError);
  });

  it("that holds something other than entries is refused", () => {
    expect(() => entryOffsets(Buffer.from([0x0a, 1, 0, 0x12, 0]))).toThrow(RecordDamagedError);
  });

  it("that is cut short inside an entry is refused", () => {
    expect(() => entryOffsets(SMALL_BODY.subarray(0, SMALL_BODY.length - 1))).toThrow(WireError);
  });

  it("without entries has the one offset 0", () => {
    expect(entryOffsets(Buffer.alloc(0))).toEqual([0]);
  });
});

/** Format 1: version, CRC32C, length of the header, header, body. A change here orphans every log in the field. */
const GOLDEN_UNCHAINED =
  "01d3c43d2c4a0a1000112233445566778899aabbccddeeff12100f0e0d0c0b0a0908070605040302010018072008280330fb" +
  "d095ffbc31380140394a130a0277311201291a01002201022a04efbeadde0a1e20012a086f626a6563742f31320576616c75" +
  "650807100318fbd095ffbc310a1720032a086f626a6563742f320808100318fbd095ffbc31";
const GOLDEN =
  "01efe482175c0a1000112233445566778899aabbccddeeff12100f0e0d0c0b0a0908070605040302010018072008280330fbd095ffbc31380140394a130a0277311201291a01002201022a04efbeadde52101f1e1d1c1b1a191817161514131211100a1e20012a086f626a6563742f31320576616c75650807100318fbd095ffbc310a1720032a086f626a6563742f320808100318fbd095ffbc31";
const GOLDEN_LZ4 =
  "012d701ee8360a1000112233445566778899aabbccddeeff12100f0e0d0c0b0a0908070605040302010018072008280330fb" +
  "d095ffbc31380240861004224d1860408242000000ff070aea0f20012a086f626a6563742f3132d00f6c7a34200400ffffff" +
  "ffffffffc0f5000807100318fbd095ffbc310a172003ec07c0320808100318fbd095ffbc3100000000";
