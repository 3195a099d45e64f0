import { BinaryReader, BinaryWriter } from "@bufbuild/protobuf/wire";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { varintBytes, WIRE_BYTES, WireError, WireReader, writeVarint } from "../../src/oplog/wire.js";

const safeInteger = fc.maxSafeNat();
const read = (...bytes: number[]) => new WireReader(Buffer.from(bytes));

describe("varints", () => {
  it("are written as protobuf-es writes them, in the bytes foretold", () => {
    fc.assert(
      fc.property(safeInteger, (value) => {
        const target = Buffer.alloc(12, 0xee);
        const end = writeVarint(target, 1, value);
        const expected = new BinaryWriter().uint64(BigInt(value)).finish();
        expect(target.subarray(1, end)).toEqual(Buffer.from(expected));
        expect(end - 1).toBe(varintBytes(value));
        expect(target[0]).toBe(0xee);
        expect(target[end]).toBe(0xee);
      }),
    );
  });

  it.each([0, 0x7f, 0x80, 0x3fff, 0x4000, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, Number.MAX_SAFE_INTEGER])(
    "%d is read back",
    (value) => {
      const target = Buffer.alloc(varintBytes(value));
      expect(writeVarint(target, 0, value)).toBe(target.length);
      expect(new WireReader(target).uint64()).toBe(BigInt(value));
      if (value < 2 ** 32) expect(new WireReader(target).uint32()).toBe(value);
    },
  );

  it("of 64 bits are read as protobuf-es reads them", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (value) => {
        const reader = new WireReader(Buffer.from(new BinaryWriter().uint64(value).finish()));
        expect(reader.uint64()).toBe(value);
        expect(reader.isAtEnd).toBe(true);
      }),
    );
  });

  it("of more than ten bytes are refused", () => {
    expect(() => read(...Array<number>(11).fill(0x80)).uint64()).toThrow(WireError);
    expect(() => read(...Array<number>(11).fill(0x80)).uint32()).toThrow(WireError);
  });

  it("that the end cuts short are refused", () => {
    expect(() => read(0x80).uint64()).toThrow("cut short");
    expect(() => read(0x80).uint32()).toThrow("cut short");
    expect(() => read().tag()).toThrow("cut short");
  });
});

describe("a reader", () => {
  it("refuses field number 0", () => {
    expect(() => read(0x02, 0x00).tag()).toThrow("field number 0");
  });

  it.each([3, 4, 6, 7])("refuses to skip wire type %d", (wireType) => {
    expect(() => read(0x00).skip(wireType)).toThrow(`wire type ${wireType}`);
  });

  it("does not read past its end into bytes that are there", () => {
    const bytes = Buffer.from([0x02, 0xaa, 0xbb, 0xcc]);
    expect(() => new WireReader(bytes, 0, 2).span()).toThrow("cut short");
    expect(() => new WireReader(bytes, 0, 3).fixed32()).toThrow("cut short");
    expect(() => new WireReader(bytes, 0, 3).skip(1)).toThrow("cut short");
  });

  it("refuses a length of nearly 4 GiB instead of going backwards", () => {
    const reader = read(0xff, 0xff, 0xff, 0xff, 0x0f, 0x00);
    expect(() => reader.span()).toThrow("cut short");
    expect(reader.position).toBeLessThanOrEqual(reader.end);
  });

  it("steps over every field where protobuf-es does", () => {
    const field = fc.oneof(
      fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map((value) => (w: BinaryWriter) => w.tag(1, 0).uint64(value)),
      fc.integer({ min: 0, max: 2 ** 32 - 1 }).map((value) => (w: BinaryWriter) => w.tag(2, 5).fixed32(value)),
      fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map((value) => (w: BinaryWriter) => w.tag(3, 1).fixed64(value)),
      fc.uint8Array({ maxLength: 200 }).map((value) => (w: BinaryWriter) => w.tag(500, 2).bytes(value)),
    );
    fc.assert(
      fc.property(fc.array(field, { maxLength: 20 }), (fields) => {
        const writer = new BinaryWriter();
        for (const write of fields) write(writer);
        const bytes = Buffer.from(writer.finish());
        const ours = new WireReader(bytes);
        const theirs = new BinaryReader(bytes);
        while (theirs.pos < theirs.len) {
          const [number, wireType] = theirs.tag();
          theirs.skip(wireType);
          expect(ours.tag()).toBe((number << 3) | wireType);
          ours.skip(wireType);
          expect(ours.position).toBe(theirs.pos);
        }
        expect(ours.isAtEnd).toBe(true);
      }),
    );
  });

  it("throws nothing but WireError at garbage, and stays inside", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), (garbage) => {
        const reader = new WireReader(Buffer.from(garbage));
        try {
          while (!reader.isAtEnd) {
            const tag = reader.tag();
            if ((tag & 7) === WIRE_BYTES) reader.span();
            else reader.skip(tag & 7);
          }
        } catch (error) {
          expect(error).toBeInstanceOf(WireError);
        }
        expect(reader.position).toBeLessThanOrEqual(garbage.length);
      }),
      { numRuns: 2000 },
    );
  });
});
