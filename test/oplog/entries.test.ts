import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { crc32c } from "@node-rs/crc32";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { EntrySchema, OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { BatchSchema } from "../../src/gen/oplog/v1/oplog_pb.js";
import {
  contentCrc32c,
  LEASE_MS_MAX,
  removalEntries,
  STAMP_BYTES_MAX,
  validateEntries,
} from "../../src/oplog/entries.js";
import { OplogError } from "../../src/oplog/errors.js";
import { entryOffsets, stampEntries } from "../../src/oplog/record.js";
import {
  anyEntry,
  anyId,
  type EntryInit,
  encodedEntries,
  LIMITS,
  laidOut,
  validated,
  withoutStamp,
} from "./entries-support.js";

const PUT = { opType: OpType.PUT_END, key: "k" };
const encode = (init: EntryInit) => Buffer.from(toBinary(EntrySchema, create(EntrySchema, init)));

/** The refusal of entries given as bytes. */
function refusalOf(parts: readonly Uint8Array[], limits = LIMITS): OplogError {
  const { source, spans } = laidOut(parts);
  try {
    validateEntries(source, spans, limits);
  } catch (error) {
    if (error instanceof OplogError) return error;
    throw error;
  }
  throw new Error("the entries were accepted");
}

describe("stamped entries", () => {
  it("are decoded as what the client sent, with id, term and time", () => {
    const appends = fc.array(fc.array(anyEntry, { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(appends, anyId, anyId, anyId, (groups, first, term, time) => {
        const body = stampEntries(
          groups.map((group) => validated(group)),
          first,
          term,
          Number(time),
        );
        const { entries } = fromBinary(BatchSchema, body);
        const sent = groups.flat().map((init) => withoutStamp(create(EntrySchema, init)));
        expect(entries.map(withoutStamp)).toEqual(sent);
        expect(entries.map(({ sequenceId }) => sequenceId)).toEqual(sent.map((_, index) => first + BigInt(index)));
        expect(entries.every((entry) => entry.term === term && entry.timestampMs === time)).toBe(true);
        expect(entryOffsets(body)).toHaveLength(sent.length + 1);
      }),
    );
  });

  it("never take more than what they were counted with", () => {
    fc.assert(
      fc.property(fc.array(anyEntry, { minLength: 1, maxLength: 5 }), (group) => {
        const entries = validated(group);
        const largest = BigInt(Number.MAX_SAFE_INTEGER) - 10n;
        const body = stampEntries([entries], largest, largest, Number.MAX_SAFE_INTEGER);
        expect(body.length).toBeLessThanOrEqual(entries.costBytes);
      }),
    );
  });

  it("have a checksum that depends on content alone, not on where the bytes were", () => {
    const group = [{ ...PUT, payload: Buffer.from("one") }, PUT];
    const { source, spans } = encodedEntries(group);
    const moved = Buffer.concat([Buffer.alloc(7), source]);
    const elsewhere = validateEntries(
      moved,
      spans.map((at) => at + 7),
      LIMITS,
    );
    expect(contentCrc32c(elsewhere)).toBe(contentCrc32c(validated(group)));
    expect(contentCrc32c(elsewhere)).toBe(crc32c(Buffer.concat(group.map(encode))));
    expect(contentCrc32c(validated([PUT]))).not.toBe(contentCrc32c(validated([PUT, PUT])));
  });
});

describe("an append is refused", () => {
  it("without entries", () => {
    expect(refusalOf([])).toMatchObject({ code: "INVALID_ARGUMENT", facts: { field: "entries" } });
  });

  it("with more entries than the limit, and not with as many", () => {
    const limits = { ...LIMITS, entriesMax: 2 };
    expect(refusalOf([encode(PUT), encode(PUT), encode(PUT)], limits)).toMatchObject({
      code: "INVALID_ARGUMENT",
      facts: { field: "entries", received: 3, limit: 2 },
    });
    expect(validated([PUT, PUT], limits).count).toBe(2);
  });

  it("when one entry alone is larger than the limit, by one byte", () => {
    const size = encode(PUT).length + STAMP_BYTES_MAX;
    expect(validated([PUT], { ...LIMITS, bytesMax: size }).costBytes).toBe(size);
    expect(refusalOf([encode(PUT)], { ...LIMITS, bytesMax: size - 1 })).toMatchObject({
      code: "RESOURCE_EXHAUSTED",
      reason: "TOO_LARGE",
      facts: { field: "entries[0]", entry_index: 0, received: size, limit: size - 1 },
    });
  });

  it("when all entries together are larger than the limit", () => {
    const size = encode(PUT).length + STAMP_BYTES_MAX;
    expect(refusalOf([encode(PUT), encode(PUT)], { ...LIMITS, bytesMax: 2 * size - 1 })).toMatchObject({
      reason: "TOO_LARGE",
      facts: { field: "entries", received: 2 * size, limit: 2 * size - 1 },
    });
  });
});

describe("an entry is refused, with its index and field,", () => {
  const raw = (...bytes: number[]) => Buffer.concat([encode(PUT), Buffer.from(bytes)]);
  const pairs = (count: number, bytes = 1) =>
    Object.fromEntries(
      Array.from({ length: count }, (_, index) => [`h${String(index).padStart(2, "0")}`, "v".repeat(bytes)]),
    );

  const cases: [what: string, entry: Uint8Array, field: string, facts: Record<string, unknown>][] = [
    ["no op_type", encode({ key: "k" }), "op_type", { received: 0 }],
    ["an unknown op_type", encode({ key: "k", opType: 5 as OpType }), "op_type", { received: 5 }],
    ["a negative op_type", encode({ key: "k", opType: -1 as OpType }), "op_type", {}],
    ["an empty key", encode({ opType: OpType.REMOVE }), "key", {}],
    ["a key of 4,097 bytes", encode({ ...PUT, key: "k".repeat(4097) }), "key", { received: 4097, limit: 4096 }],
    ["a key that is no UTF-8", Buffer.from([0x20, 1, 0x2a, 2, 0xc3, 0x28]), "key", {}],
    ["a key that is an encoded surrogate", Buffer.from([0x20, 1, 0x2a, 3, 0xed, 0xa0, 0x80]), "key", {}],
    ["an overlong encoding in the key", Buffer.from([0x20, 1, 0x2a, 2, 0xc0, 0xaf]), "key", {}],
    ["17 headers", encode({ ...PUT, headers: pairs(17) }), "headers", { received: 17, limit: 16 }],
    ["headers of more than 4,096 bytes", encode({ ...PUT, headers: pairs(2, 2048) }), "headers", { limit: 4096 }],
    ["a header that is no UTF-8", raw(0x4a, 4, 0x0a, 2, 0xc3, 0x28), "headers", {}],
    ["a header with an unknown field", raw(0x4a, 2, 0x18, 1), "headers", {}],
    [
      "a wrong checksum",
      encode({ ...PUT, payload: Buffer.from("x"), checksum: 1 }),
      "checksum",
      { received: 1, computed: crc32c(Buffer.from("x")) },
    ],
    ["a checksum and no payload", encode({ ...PUT, checksum: 7 }), "checksum", { received: 7, computed: 0 }],
    ["a sequence_id", encode({ ...PUT, sequenceId: 1n }), "sequence_id", {}],
    ["a term", encode({ ...PUT, term: 1n }), "term", {}],
    ["a timestamp_ms", encode({ ...PUT, timestampMs: 1n }), "timestamp_ms", {}],
    ["op_type twice", raw(0x20, 2), "op_type", {}],
    ["key twice", raw(0x2a, 1, 0x61), "key", {}],
    ["payload twice", raw(0x32, 0, 0x32, 0), "payload", {}],
    ["key_sequence_id twice", raw(0x38, 1, 0x38, 2), "key_sequence_id", {}],
    ["checksum twice", raw(0x45, 0, 0, 0, 0, 0x45, 0, 0, 0, 0), "checksum", {}],
    ["a lease_ms on a REMOVE", encode({ opType: OpType.REMOVE, key: "k", leaseMs: 1n }), "lease_ms", {}],
    ["a lease_ms on an EVENT, before its op_type", Buffer.from([0x50, 1, 0x20, 4]), "lease_ms", {}],
    [
      "a lease_ms above 10 years",
      encode({ ...PUT, leaseMs: BigInt(LEASE_MS_MAX) + 1n }),
      "lease_ms",
      { received: BigInt(LEASE_MS_MAX) + 1n, limit: LEASE_MS_MAX },
    ],
    ["the highest lease_ms", encode({ ...PUT, leaseMs: 2n ** 64n - 1n }), "lease_ms", { received: 2n ** 64n - 1n }],
    ["lease_ms twice", raw(0x50, 1, 0x50, 1), "lease_ms", {}],
    ["a lease_ms of another wire type", raw(0x52, 1, 1), "lease_ms", {}],
    ["a key of another wire type", Buffer.from([0x20, 1, 0x28, 1]), "key", {}],
    ["headers of another wire type", raw(0x48, 1), "headers", {}],
    ["an unknown field", raw(0x58, 1), "11", { received: 11 }],
    ["an unknown field whose number wraps around to op_type", Buffer.from([0xa0, 0x02, 1]), "36", { received: 36 }],
  ];

  it.each(cases)("for %s", (_, entry, field, facts) => {
    const refusal = refusalOf([encode(PUT), entry]);
    expect(refusal).toMatchObject({
      code: "INVALID_ARGUMENT",
      facts: { field: `entries[1].${field}`, entry_index: 1, ...facts },
    });
  });

  it.each([
    ["cut short in a tag", [0x20, 1, 0x80]],
    ["cut short in a length", [0x20, 1, 0x2a, 0x80]],
    ["with a key longer than itself", [0x20, 1, 0x2a, 2, 0x61]],
    ["with a lease_ms cut short", [0x20, 1, 0x2a, 1, 0x61, 0x50, 0x80]],
    ["with a checksum cut short", [0x20, 1, 0x2a, 1, 0x61, 0x45, 0, 0, 0]],
    ["with field number 0", [0x20, 1, 0x2a, 1, 0x61, 0x00]],
    ["with a header longer than its map entry", [0x20, 1, 0x2a, 1, 0x61, 0x4a, 2, 0x0a, 9]],
  ])("when it is %s", (_, bytes) => {
    expect(refusalOf([Buffer.from(bytes)])).toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining("entries[0]: malformed"),
    });
  });
});

describe("an entry is accepted", () => {
  it.each<[string, EntryInit]>([
    ["a key of exactly 4,096 bytes", { ...PUT, key: "é".repeat(2048) }],
    ["16 headers", { ...PUT, headers: Object.fromEntries(Array.from({ length: 16 }, (_, i) => [`h${i}`, ""])) }],
    ["the right checksum", { ...PUT, payload: Buffer.from("123456789"), checksum: 0xe3069283 }],
    ["a checksum of an empty payload", { ...PUT, checksum: 0 }],
    ["an EVENT without a key", { opType: OpType.EVENT }],
    ["a key with a NUL and beyond the BMP", { ...PUT, key: "\0\u{1f600}" }],
    ["the highest key_sequence_id", { ...PUT, keySequenceId: 2n ** 64n - 1n }],
    ["a lease of 10 years", { ...PUT, leaseMs: BigInt(LEASE_MS_MAX) }],
    ["a lease of 0, which is none, on an EVENT", { opType: OpType.EVENT, leaseMs: 0n }],
    ["a header named __proto__", { ...PUT, headers: Object.fromEntries([["__proto__x", "v"]]) }],
  ])("with %s", (_, init) => {
    expect(validated([init]).count).toBe(1);
  });
});

describe("removals", () => {
  it("are what a client would have sent to remove these keys", () => {
    const keys = fc.array(fc.string({ minLength: 1, maxLength: 200, unit: "grapheme" }), {
      minLength: 1,
      maxLength: 9,
    });
    fc.assert(
      fc.property(keys, (names) => {
        const removals = removalEntries(names.map((name) => Buffer.from(name)));
        const checked = validateEntries(removals.source, removals.spans, LIMITS);
        expect(removals).toEqual(checked);
        expect(contentCrc32c(removals)).toBe(
          contentCrc32c(validated(names.map((key) => ({ opType: OpType.REMOVE, key })))),
        );
      }),
    );
  });
});

describe("hostile bytes", () => {
  it.each([
    ["a tag of more than five bytes", [0xa0, 0x80, 0x80, 0x80, 0x80, 0x00, 0x01, 0x2a, 1, 0x61]],
    ["a tag of more than 32 bits", [0xa0, 0x80, 0x80, 0x80, 0x10, 0x01, 0x2a, 1, 0x61]],
    ["a length of more than 32 bits", [0x20, 1, 0x2a, 0x81, 0x80, 0x80, 0x80, 0x10, 0x61]],
    ["a lease of more than 64 bits", [0x20, 1, 0x2a, 1, 0x61, 0x50, ...Array<number>(9).fill(0x80), 2]],
    ["a number of more than 64 bits", [0x20, 1, 0x2a, 1, 0x61, 0x38, ...Array<number>(9).fill(0xff), 0x7f]],
  ])("with %s, which decoders read differently, are refused", (_, bytes) => {
    expect(refusalOf([Buffer.from(bytes)]).message).toContain("malformed");
  });

  it("that are accepted can be decoded", () => {
    const piece = fc.oneof(
      fc.constantFrom([0x20, 1], [0x2a, 1, 0x61], [0x32, 1, 0xff], [0x38, 5]),
      fc.array(fc.constantFrom(0x20, 0x2a, 0x38, 0x45, 0x4a, 0x80, 0xa0, 0x00, 0x01, 0xff), { maxLength: 10 }),
      fc
        .tuple(fc.constantFrom(0xa0, 0xaa, 0xb2, 0xb8), fc.nat(7))
        .map(([tag, n]) => [tag, ...Array<number>(n).fill(0x80), 0, 0]),
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 6 }), (pieces) => {
        const { source, spans } = laidOut([Buffer.from(pieces.flat())]);
        let entries: ReturnType<typeof validateEntries>;
        try {
          entries = validateEntries(source, spans, LIMITS);
        } catch (error) {
          expect(error).toBeInstanceOf(OplogError);
          return;
        }
        expect(fromBinary(BatchSchema, stampEntries([entries], 1n, 1n, 1)).entries).toHaveLength(1);
      }),
      { numRuns: 5000 },
    );
  });

  it("are refused with OplogError and nothing else", () => {
    const garbage = fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 3 });
    fc.assert(
      fc.property(garbage, (parts) => {
        const { source, spans } = laidOut(parts);
        try {
          validateEntries(source, spans, LIMITS);
        } catch (error) {
          expect(error).toBeInstanceOf(OplogError);
        }
      }),
      { numRuns: 2000 },
    );
  });

  it("made from an entry by cutting it anywhere are refused or decode to the same as protobuf-es has it", () => {
    fc.assert(
      fc.property(anyEntry, fc.nat(), (init, at) => {
        const whole = encode(init);
        const { source, spans } = laidOut([whole.subarray(0, at % whole.length)]);
        let entries: ReturnType<typeof validateEntries>;
        try {
          entries = validateEntries(source, spans, LIMITS);
        } catch (error) {
          expect(error).toBeInstanceOf(OplogError);
          return;
        }
        const [decoded] = fromBinary(BatchSchema, stampEntries([entries], 1n, 1n, 1)).entries;
        expect(withoutStamp(decoded!)).toEqual(
          withoutStamp(fromBinary(EntrySchema, source.subarray(...(spans as [number, number])))),
        );
      }),
    );
  });
});
