import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { OperationContentMismatchError, OperationIdUsedError } from "../../src/oplog/append-errors.js";
import { TooManyError } from "../../src/oplog/errors.js";
import { type Operation, OperationWindow, WINDOW_LIMITS, type WindowLimits } from "../../src/oplog/operation-window.js";

const LIMITS: WindowLimits = {
  operationsMax: 12,
  operationsPerWriterMax: 4,
  recordBytesMax: 500,
  writersMax: 4,
  writerIdleMsMin: 50,
};

interface RecordOf {
  readonly first: bigint;
  readonly bytes: number;
  readonly operations: [writerId: string, operation: Operation][];
}

interface Step {
  readonly bytes: number;
  readonly passedMs: number;
  /** Of which writer, and how far its id rises. */
  readonly appends: { readonly writer: number; readonly rise: number; readonly count: number }[];
}

const anyStep: fc.Arbitrary<Step> = fc.record({
  bytes: fc.integer({ min: 1, max: 200 }),
  passedMs: fc.integer({ min: 0, max: 20 }),
  appends: fc.array(
    fc.record({
      writer: fc.integer({ min: -1, max: 3 }),
      rise: fc.integer({ min: 1, max: 3 }),
      count: fc.integer({ min: 1, max: 3 }),
    }),
    { maxLength: 4 },
  ),
});

const CRC = 77;
const operationOf = (operationId: bigint, first: bigint, count = 1, timestampMs = 1000n): Operation => ({
  operationId,
  first,
  last: first + BigInt(count) - 1n,
  term: 1n,
  timestampMs,
  contentCrc32c: CRC,
});

/** Everything that was ever committed, and the window that saw it. */
function play(steps: readonly Step[], limits = LIMITS) {
  const window = new OperationWindow(limits);
  const records: RecordOf[] = [];
  const committed = new Map<string, Operation[]>();
  let next = 1n;
  let nowMs = 1000n;
  for (const { bytes, passedMs, appends } of steps) {
    nowMs += BigInt(passedMs);
    const record: RecordOf = { first: next, bytes, operations: [] };
    window.startRecord(next);
    next += 1n;
    for (const { writer, rise, count } of appends) {
      if (writer >= 0) {
        const writerId = `w${writer}`;
        const known = committed.get(writerId) ?? [];
        const operation = operationOf((known.at(-1)?.operationId ?? 0n) + BigInt(rise), next, count, nowMs);
        window.add(writerId, operation);
        committed.set(writerId, [...known, operation]);
        record.operations.push([writerId, operation]);
      }
      next += BigInt(count);
    }
    window.endRecord(bytes);
    records.push(record);
  }
  return { window, records, committed, head: next - 1n, nowMs };
}

/** As a take-over does: the last operation of each writer, then the records since windowFrom. */
function restored({ window, records, committed, head }: ReturnType<typeof play>, limits = LIMITS): OperationWindow {
  const again = new OperationWindow(limits);
  for (const [writerId, operations] of committed) again.restoreMark(writerId, operations.at(-1)!, true);
  for (const record of records) {
    if (record.first >= window.windowFrom(head)) again.restoreRecord(record.first, record.bytes, record.operations);
  }
  return again;
}

describe("a window", () => {
  it("tells the truth about every operation there ever was or could be, as restored as live", () => {
    fc.assert(
      fc.property(fc.array(anyStep, { maxLength: 25 }), (steps) => {
        const game = play(steps);
        for (const window of [game.window, restored(game)]) {
          for (const [writerId, operations] of game.committed) {
            const highest = operations.at(-1)!.operationId;
            for (let id = 1n; id <= highest + 2n; id++) {
              const actual = operations.find(({ operationId }) => operationId === id);
              const resolution = window.resolve(writerId, id);
              expect(resolution.highest).toBe(highest);
              if (resolution.outcome === "committed") expect(resolution.operation).toEqual(actual);
              if (resolution.outcome === "not committed") expect(actual).toBeUndefined();
              if (id > highest) expect(resolution.outcome).toBe("not committed");
              if (id === highest) expect(resolution.outcome).toBe("committed");
            }
          }
        }
      }),
      { numRuns: 500 },
    );
  });

  it("restored answers for what is within it exactly as the live one does, and has otherwise forgotten", () => {
    fc.assert(
      fc.property(fc.array(anyStep, { maxLength: 25 }), (steps) => {
        const game = play(steps);
        const again = restored(game);
        for (const [writerId, operations] of game.committed) {
          for (const { operationId, first } of operations) {
            const resolution = again.resolve(writerId, operationId);
            const isWithin = first >= game.window.windowFrom(game.head);
            if (isWithin) expect(resolution).toEqual(game.window.resolve(writerId, operationId));
            else expect(resolution.outcome).not.toBe("not committed");
          }
        }
      }),
      { numRuns: 500 },
    );
  });

  it("never takes an id twice: a known one is answered, a forgotten one refused, only higher ones are new", () => {
    fc.assert(
      fc.property(fc.array(anyStep, { maxLength: 25 }), (steps) => {
        const game = play(steps);
        for (const window of [game.window, restored(game)]) {
          for (const [writerId, operations] of game.committed) {
            for (const operation of operations) {
              const count = Number(operation.last - operation.first) + 1;
              let answer: Operation | undefined;
              try {
                answer = window.check(writerId, operation.operationId, CRC, count, game.nowMs);
              } catch (error) {
                expect(error).toBeInstanceOf(OperationIdUsedError);
                continue;
              }
              expect(answer).toEqual(operation);
            }
            const above = operations.at(-1)!.operationId + 1n;
            expect(window.check(writerId, above, CRC, 1, game.nowMs)).toBeUndefined();
          }
        }
      }),
      { numRuns: 300 },
    );
  });
});

describe("a remembered operation", () => {
  const window = () => {
    const each = new OperationWindow(LIMITS);
    each.startRecord(1n);
    each.add("w", operationOf(5n, 1n, 2));
    each.endRecord(10);
    return each;
  };

  it("is answered when it comes again", () => {
    expect(window().check("w", 5n, CRC, 2, 0n)).toMatchObject({ first: 1n, last: 2n });
  });

  it.each([
    ["other content", CRC + 1, 2],
    ["another number of entries", CRC, 3],
  ])("that comes again with %s is refused with its ids", (_, crc, count) => {
    const again = () => window().check("w", 5n, crc, count, 0n);
    expect(again).toThrow(OperationContentMismatchError);
    expect(again).toThrow("1..2");
  });

  it("does not make lower ids of its writer new", () => {
    expect(() => window().check("w", 4n, CRC, 1, 0n)).toThrow(OperationIdUsedError);
  });

  it("says nothing about other writers", () => {
    expect(window().check("v", 1n, CRC, 1, 0n)).toBeUndefined();
    expect(window().resolve("v", 5n)).toEqual({ outcome: "not committed", highest: 0n });
  });
});

describe("the bounds", () => {
  const filled = (count: number, writerId: (index: number) => string, bytes = 1) => {
    const window = new OperationWindow(LIMITS);
    for (let index = 1; index <= count; index++) {
      window.startRecord(BigInt(index));
      window.add(writerId(index), operationOf(BigInt(index), BigInt(index)));
      window.endRecord(bytes);
    }
    return window;
  };

  it("of one writer keep its newest operations", () => {
    const window = filled(6, () => "w");
    const outcomes = [1n, 2n, 3n, 4n, 5n, 6n].map((id) => window.resolve("w", id).outcome);
    expect(outcomes).toEqual(["forgotten", "forgotten", "committed", "committed", "committed", "committed"]);
  });

  it("of all writers keep the newest operations, and the last one of each writer for ever", () => {
    const window = filled(40, (index) => (index === 1 ? "old" : `w${index % 3}`));
    expect(window.resolve("old", 1n).outcome).toBe("committed");
    expect(window.windowFrom(40n)).toBe(29n);
  });

  it("do not make an evicted operation look as if it had never been, when an older one is still kept as the last", () => {
    const window = filled(13, (index) => (index === 1 ? "w" : "v"));
    window.startRecord(14n);
    window.add("w", operationOf(2n, 14n));
    window.add("w", operationOf(3n, 15n));
    window.endRecord(1);
    for (let index = 16; index <= 27; index++) {
      window.startRecord(BigInt(index));
      window.add("v", operationOf(BigInt(index), BigInt(index)));
      window.endRecord(1);
    }
    expect(window.resolve("w", 2n).outcome).toBe("forgotten");
    expect(window.resolve("w", 3n).outcome).toBe("committed");
  });

  it("of bytes keep a take-over from reading more than it should", () => {
    const window = filled(10, () => "w", 200);
    expect(window.windowFrom(10n)).toBeGreaterThanOrEqual(8n);
  });

  it("let an operation that only its mark told of be forgotten, and not be called not committed", () => {
    const window = new OperationWindow(LIMITS);
    window.restoreMark("w", operationOf(7n, 3n), true);
    expect(window.resolve("w", 7n).outcome).toBe("committed");
    window.startRecord(9n);
    window.add("w", operationOf(8n, 9n));
    window.endRecord(1);
    expect(window.resolve("w", 7n)).toEqual({ outcome: "forgotten", highest: 8n });
    expect(window.resolve("w", 8n).outcome).toBe("committed");
  });

  it("do not let records without operations be read back", () => {
    const window = new OperationWindow(LIMITS);
    for (let first = 1n; first <= 5n; first++) {
      window.startRecord(first);
      window.endRecord(1);
    }
    expect(window.windowFrom(5n)).toBe(5n);
    expect(new OperationWindow().windowFrom(9n)).toBe(10n);
  });

  it("of writers refuse a new one while all others are active, and forget the longest silent one after that", () => {
    const window = filled(4, (index) => `w${index}`);
    const lateMs = 1000n + BigInt(LIMITS.writerIdleMsMin);
    expect(() => window.check("new", 1n, CRC, 1, lateMs)).toThrow(TooManyError);
    expect(window.check("new", 1n, CRC, 1, lateMs + 1n)).toBeUndefined();
    window.startRecord(5n);
    window.add("w1", operationOf(5n, 5n, 1, lateMs));
    window.add("new", operationOf(1n, 6n, 1, lateMs + 1n));
    window.endRecord(1);
    expect(window.resolve("w2", 2n)).toEqual({ outcome: "forgotten", highest: 0n });
    expect(window.resolve("w1", 5n).outcome).toBe("committed");
    expect(window.resolve("new", 1n).outcome).toBe("committed");
  });

  it("of writers are one of number: time alone forgets nobody", () => {
    const window = filled(3, (index) => `w${index}`);
    const yearsLaterMs = 1_900_000_000_000n;
    window.startRecord(9n);
    window.add("new", operationOf(1n, 9n, 1, yearsLaterMs));
    window.endRecord(1);
    for (const writerId of ["w1", "w2", "w3"]) {
      const highest = window.highestOf(writerId);
      expect(highest).toBeGreaterThan(0n);
      expect(window.check(writerId, highest, CRC, 1, yearsLaterMs)).toMatchObject({ operationId: highest });
    }
    expect(window.marksWith(new Map()).inHead).toHaveLength(4);
  });

  it("in force are those that the contract promises", () => {
    expect(WINDOW_LIMITS).toMatchObject({ operationsMax: 65_536, operationsPerWriterMax: 4096, writersMax: 1024 });
  });
});
