import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { compareHistories } from "../../src/client/parting.js";
import { type DescribeRecordResponse, DescribeRecordResponseSchema } from "../../src/gen/oplog/v1/oplog_pb.js";

const LOG_ID = Buffer.alloc(16, 1);
const PER_SIDE_MAX = 70;

interface Shape {
  /** How many entries each record has. */
  readonly records: readonly number[];
  /** Tells the records of one history from those of another; for each record, or for all. */
  readonly branch: (index: number) => string;
  readonly floor?: bigint;
  readonly logId?: Buffer;
}

/** A log that answers as a sidecar does, and counts how often it was asked. */
class HistoryDouble {
  asked = 0;
  readonly head: bigint;
  readonly floor: bigint;
  private readonly records: { first: bigint; last: bigint; chain: Buffer; previousChain: Buffer }[] = [];

  constructor(private readonly shape: Shape) {
    let [first, previousChain] = [1n, Buffer.alloc(0)];
    for (const [index, count] of shape.records.entries()) {
      const chain = Buffer.alloc(16);
      chain.write(`${shape.branch(index)}${index}`);
      const last = first + BigInt(count) - 1n;
      this.records.push({ first, last, chain, previousChain });
      [first, previousChain] = [last + 1n, chain];
    }
    this.head = first - 1n;
    const floor = shape.floor ?? 1n;
    this.floor = floor > this.head + 1n ? this.head + 1n : floor;
  }

  async describeRecord(id: bigint): Promise<DescribeRecordResponse> {
    this.asked++;
    const wanted = id === 0n ? this.head : id;
    const log = { logId: this.shape.logId ?? LOG_ID, headSequenceId: this.head, floorSequenceId: this.floor };
    const record = this.records.find(({ last }) => last >= wanted);
    if (wanted === 0n || record === undefined) return create(DescribeRecordResponseSchema, log);
    if (record.last < this.floor) {
      if (id !== 0n) throw new Error(`TRIMMED: ${id} is below ${this.floor}`);
      const head = { firstSequenceId: this.head, lastSequenceId: this.head, chain: record.chain };
      return create(DescribeRecordResponseSchema, { ...log, ...head });
    }
    const { first, last, chain, previousChain } = record;
    return create(DescribeRecordResponseSchema, {
      ...log,
      firstSequenceId: first,
      lastSequenceId: last,
      chain,
      previousChain,
    });
  }

  chainAt(id: bigint): string {
    return this.records.find(({ last }) => last >= id)!.chain.toString("hex");
  }
}

/** By looking at every entry. */
function lastCommonOf(one: HistoryDouble, other: HistoryDouble): bigint {
  let common = 0n;
  while (common < one.head && common < other.head && one.chainAt(common + 1n) === other.chainAt(common + 1n)) common++;
  return common;
}

const counts = fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 40 });
const twoHistories = fc.record({ shared: counts, one: counts, other: counts }).map(({ shared, one, other }) => {
  const of = (own: readonly number[], name: string): Shape => ({
    records: [...shared, ...own],
    branch: (index) => (index < shared.length ? "" : name),
  });
  return [of(one, "a"), of(other, "b")] as const;
});

describe("two histories of a log", () => {
  it("part exactly after the last entry that both have, and few records tell", async () => {
    await fc.assert(
      fc.asyncProperty(twoHistories, async ([a, b]) => {
        const [one, other] = [new HistoryDouble(a), new HistoryDouble(b)];
        const common = lastCommonOf(one, other);
        const hasAll = common === one.head || common === other.head;
        const found = await compareHistories(one, other);
        expect(found).toMatchObject({ kind: hasAll ? "same" : "parted", common });
        for (const [side, { head }] of [one, other].entries()) {
          const first = found.branches[side]!.first;
          if (head === common) expect(first).toBeUndefined();
          else expect(first?.firstSequenceId).toBe(common + 1n);
        }
        expect(found.reads).toBe(one.asked + other.asked);
        expect(one.asked + other.asked).toBeLessThanOrEqual(2 * (5 + Math.ceil(Math.log2(Number(common) + 400))));
      }),
      { numRuns: 500 },
    );
  });

  it("are never called the same, or parted elsewhere, because they were trimmed", async () => {
    const floors = fc.tuple(fc.bigInt(1n, 200n), fc.bigInt(1n, 200n));
    await fc.assert(
      fc.asyncProperty(twoHistories, floors, async ([a, b], [floorA, floorB]) => {
        const [one, other] = [new HistoryDouble({ ...a, floor: floorA }), new HistoryDouble({ ...b, floor: floorB })];
        const common = lastCommonOf(one, other);
        const found = await compareHistories(one, other);
        if (found.kind === "same" || found.kind === "parted") {
          expect(found.common).toBe(common);
          expect(found.kind === "same").toBe(common === one.head || common === other.head);
        } else if (found.kind === "parted before") {
          expect(common).toBeLessThan(found.floor);
          expect([one.floor, other.floor]).toContain(found.floor);
          expect(common === one.head || common === other.head).toBe(false);
        } else {
          expect(found.kind).toBe("out of reach");
          expect(one.floor > other.head || other.floor > one.head).toBe(true);
        }
      }),
      { numRuns: 1000 },
    );
  });

  it("of 2^62 entries are compared with a bounded number of reads", async () => {
    const head = 2n ** 62n;
    const parted = 123_456_789_012_345n;
    let asked = 0;
    const source = (name: string) => ({
      describeRecord: async (id: bigint) => {
        asked++;
        const at = id === 0n ? head : id;
        const chain = Buffer.alloc(16);
        chain.write(`${at > parted ? name : ""}${at}`.slice(0, 16));
        const record = { firstSequenceId: at, lastSequenceId: at, chain };
        return create(DescribeRecordResponseSchema, {
          logId: LOG_ID,
          headSequenceId: head,
          floorSequenceId: 1n,
          ...record,
        });
      },
    });
    expect(await compareHistories(source("a"), source("b"))).toMatchObject({ kind: "parted", common: parted });
    expect(asked).toBeLessThanOrEqual(2 * PER_SIDE_MAX);
  });

  it("that were made apart have nothing in common, whatever their ids", async () => {
    const shape: Shape = { records: [3, 3], branch: () => "" };
    const [one, other] = [new HistoryDouble(shape), new HistoryDouble({ ...shape, logId: Buffer.alloc(16, 2) })];
    expect(await compareHistories(one, other)).toMatchObject({ kind: "other logs" });
  });

  it.each([
    ["the same", "", { kind: "same", common: 6n }],
    ["another", "b", { kind: "parted before", floor: 7n }],
  ])("of which all has been trimmed are compared by their heads: %s", async (_, branch, expected) => {
    const shape: Shape = { records: [3, 3], branch: () => "", floor: 7n };
    const found = await compareHistories(
      new HistoryDouble(shape),
      new HistoryDouble({ ...shape, branch: () => branch }),
    );
    expect(found).toMatchObject(expected);
  });
});
