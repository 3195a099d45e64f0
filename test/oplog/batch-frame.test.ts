import { fromBinary } from "@bufbuild/protobuf";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Entry, OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { type Batch, BatchSchema, SubscribeResponseSchema } from "../../src/gen/oplog/v1/oplog_pb.js";
import { batchFrame, filterBody, frameRun, runFrom, splitRun } from "../../src/oplog/batch-frame.js";
import { type EntryRun, stampEntries } from "../../src/oplog/record.js";
import { anyEntry, anyId, type EntryInit, validated } from "./entries-support.js";

const ORIGIN = { term: 5n, chain: "00ff".repeat(8) };

function runOf(entries: readonly EntryInit[], first: bigint): EntryRun {
  const last = first + BigInt(entries.length) - 1n;
  return { first, last, ...ORIGIN, body: stampEntries([validated(entries)], first, ORIGIN.term, 77) };
}

function batchIn(frame: Buffer): Batch {
  const { frame: content } = fromBinary(SubscribeResponseSchema, frame);
  if (content.case !== "batch") throw new Error(`a frame of ${content.case}`);
  return content.value;
}

const entriesIn = (body: Buffer): Entry[] => fromBinary(BatchSchema, body).entries;
const anyRun = fc
  .tuple(fc.array(anyEntry, { minLength: 1, maxLength: 12 }), anyId)
  .map(([entries, first]) => runOf(entries, first));

describe("a frame", () => {
  it("decodes to the entries of its bodies and the ids it covers", () => {
    fc.assert(
      fc.property(anyRun, (run) => {
        const batch = batchIn(batchFrame([run.body, run.body], run));
        expect(batch).toMatchObject({ firstSequenceId: run.first, lastSequenceId: run.last, lastTerm: 5n });
        expect(Buffer.from(batch.lastChain).toString("hex")).toBe(ORIGIN.chain);
        expect(batch.entries).toEqual([...entriesIn(run.body), ...entriesIn(run.body)]);
      }),
    );
  });

  it("without entries still covers its ids, and tells to which history the last one belongs", () => {
    const batch = batchIn(batchFrame([], { first: 3n, last: 1_000_000n, ...ORIGIN }));
    expect(batch).toMatchObject({ entries: [], firstSequenceId: 3n, lastSequenceId: 1_000_000n, lastTerm: 5n });
    expect(Buffer.from(batch.lastChain).toString("hex")).toBe(ORIGIN.chain);
  });

  it("of a run holds the run's body as a view, byte for byte", () => {
    fc.assert(
      fc.property(anyRun, (run) => {
        const framed = frameRun(run);
        expect(framed.body.equals(run.body)).toBe(true);
        expect(framed.body.buffer).toBe(framed.frame.buffer);
        expect(batchIn(framed.frame).entries).toEqual(entriesIn(run.body));
      }),
    );
  });
});

describe("a run", () => {
  it("from an id on starts at exactly that entry", () => {
    fc.assert(
      fc.property(anyRun, fc.nat(), (run, nth) => {
        const from = run.first + (BigInt(nth) % (run.last - run.first + 1n));
        const rest = runFrom(run, from);
        expect(rest).toMatchObject({ first: from, last: run.last });
        expect(entriesIn(rest.body)).toEqual(entriesIn(run.body).slice(Number(from - run.first)));
      }),
    );
  });

  it("from an id before it is the whole run", () => {
    const run = runOf([{ opType: OpType.EVENT }], 5n);
    expect(runFrom(run, 1n)).toBe(run);
    expect(runFrom(run, 5n)).toBe(run);
  });

  it("in parts is the same run, each part within the bound or one entry alone, and none could hold the next", () => {
    fc.assert(
      fc.property(anyRun, fc.integer({ min: 1, max: 800 }), (run, bytesMax) => {
        const parts = splitRun(run, bytesMax);
        expect(Buffer.concat(parts.map(({ body }) => body)).equals(run.body)).toBe(true);
        let next = run.first;
        for (const [index, part] of parts.entries()) {
          expect(part.first).toBe(next);
          const ids = entriesIn(part.body).map(({ sequenceId }) => sequenceId);
          expect(ids).toEqual(ids.map((_, offset) => part.first + BigInt(offset)));
          expect(ids.at(-1)).toBe(part.last);
          if (part.body.length > bytesMax) expect(ids).toHaveLength(1);
          const following = parts[index + 1];
          if (following !== undefined) {
            const [firstOfNext] = splitRun(following, 1);
            expect(part.body.length + firstOfNext!.body.length).toBeGreaterThan(bytesMax);
          }
          next = part.last + 1n;
        }
        expect(next).toBe(run.last + 1n);
      }),
    );
  });
});

describe("a filter", () => {
  const narrowEntry = fc.record({
    opType: fc.constantFrom(OpType.PUT_END, OpType.REMOVE, OpType.EVENT),
    key: fc.constantFrom("a", "ab", "abc", "b", "é", "éa", "x/y"),
    payload: fc.uint8Array({ maxLength: 20 }),
    headers: fc.constantFrom({}, { "*": "a" }),
  });

  it("passes exactly what decoding and filtering passes", () => {
    fc.assert(
      fc.property(
        fc.array(narrowEntry, { minLength: 1, maxLength: 15 }),
        fc.constantFrom("", "a", "ab", "é", "x/", "abcd"),
        fc.subarray([OpType.PUT_END, OpType.REMOVE, OpType.EVENT]),
        (entries, prefix, opTypes) => {
          const { body } = runOf(entries, 1n);
          const filter = { keyPrefix: Buffer.from(prefix), opTypes: new Set(opTypes) };
          const expected = entriesIn(body).filter(
            ({ key, opType }) => key.startsWith(prefix) && (opTypes.length === 0 || opTypes.includes(opType)),
          );
          expect(entriesIn(filterBody(body, filter))).toEqual(expected);
        },
      ),
    );
  });

  it("with a prefix that ends inside a character compares bytes", () => {
    const { body } = runOf(
      [
        { opType: OpType.PUT_END, key: "é" },
        { opType: OpType.PUT_END, key: "è" },
      ],
      1n,
    );
    const filter = { keyPrefix: Buffer.from("é").subarray(0, 1), opTypes: new Set<OpType>() };
    expect(entriesIn(filterBody(body, filter))).toHaveLength(2);
  });

  it("with a key prefix leaves out entries that have no key", () => {
    const { body } = runOf([{ opType: OpType.EVENT }, { opType: OpType.EVENT, key: "a" }], 1n);
    const passing = filterBody(body, { keyPrefix: Buffer.from("a"), opTypes: new Set() });
    expect(entriesIn(passing).map(({ sequenceId }) => sequenceId)).toEqual([2n]);
  });

  it("that passes everything hands on the body itself", () => {
    const { body } = runOf([{ opType: OpType.EVENT }], 1n);
    expect(filterBody(body, { keyPrefix: Buffer.alloc(0), opTypes: new Set() })).toBe(body);
  });
});
