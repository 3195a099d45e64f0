import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import * as fc from "fast-check";
import { type Entry, EntrySchema, OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { type AppendLimits, type Entries, LEASE_MS_MAX, validateEntries } from "../../src/oplog/entries.js";

export type EntryInit = Omit<MessageInitShape<typeof EntrySchema>, "$typeName" | "$unknown">;

export const LIMITS: AppendLimits = { entriesMax: 10_000, bytesMax: 1024 * 1024 };

/** The entries as a client's library encodes them, one after the other, and where each is. */
export function encodedEntries(inits: readonly EntryInit[]): { source: Buffer; spans: number[] } {
  return laidOut(inits.map((init) => Buffer.from(toBinary(EntrySchema, create(EntrySchema, init)))));
}

/** Raw bytes as entries, with bytes around them that belong to nobody. */
export function laidOut(parts: readonly Uint8Array[]): { source: Buffer; spans: number[] } {
  const spans: number[] = [];
  const chunks: Uint8Array[] = [Buffer.from([0xff])];
  let at = 1;
  for (const part of parts) {
    spans.push(at, at + part.length);
    chunks.push(part, Buffer.from([0xff]));
    at += part.length + 1;
  }
  return { source: Buffer.concat(chunks), spans };
}

export function validated(inits: readonly EntryInit[], limits = LIMITS): Entries {
  const { source, spans } = encodedEntries(inits);
  return validateEntries(source, spans, limits);
}

/** What the client set, as the log must give it back. */
export function withoutStamp({ opType, key, payload, keySequenceId, checksum, headers, leaseMs }: Entry) {
  return { opType, key, payload: Buffer.from(payload).toString("hex"), keySequenceId, checksum, headers, leaseMs };
}

const headers = fc.dictionary(fc.string({ maxLength: 12, unit: "grapheme" }), fc.string({ maxLength: 20 }), {
  maxKeys: 5,
});

export const anyEntry: fc.Arbitrary<EntryInit> = fc
  .record({
    opType: fc.constantFrom(OpType.PUT_END, OpType.PUT_REVOKE, OpType.REMOVE, OpType.EVENT),
    key: fc.string({ minLength: 1, maxLength: 40, unit: "grapheme" }),
    payload: fc.uint8Array({ maxLength: 300 }),
    keySequenceId: fc.option(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), { nil: undefined }),
    headers,
    leaseMs: fc.bigInt({ min: 0n, max: BigInt(LEASE_MS_MAX) }),
  })
  .map(({ keySequenceId, leaseMs, ...entry }) => ({
    ...entry,
    ...(keySequenceId === undefined ? {} : { keySequenceId }),
    ...(entry.opType === OpType.PUT_END ? { leaseMs } : {}),
  }));

/** Ids and terms of every encoded length up to what a number holds. */
export const anyId: fc.Arbitrary<bigint> = fc.oneof(
  fc.bigInt({ min: 1n, max: 300n }),
  fc.bigInt({ min: 1n, max: 2n ** 53n - 100_000n }),
);
