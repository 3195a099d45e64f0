import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { AppendRequestSchema, AppendStreamRequestSchema, Durability } from "../../src/gen/oplog/v1/oplog_pb.js";
import { parseAppend, parseStreamRequest } from "../../src/grpc/append-request.js";
import { contentCrc32c } from "../../src/oplog/entries.js";
import { OplogError } from "../../src/oplog/errors.js";
import { anyEntry, LIMITS, validated } from "../oplog/entries-support.js";

type Request = MessageInitShape<typeof AppendRequestSchema>;
const REQUEST: Request = { log: "l", entries: [{ opType: OpType.PUT_END, key: "k" }] };
const encode = (init: Request) => Buffer.from(toBinary(AppendRequestSchema, create(AppendRequestSchema, init)));
const parse = (init: Request, streamLog = "") => parseAppend(encode(init), LIMITS, 0, undefined, streamLog);

function refusalOf(work: () => unknown): OplogError {
  try {
    work();
  } catch (error) {
    if (error instanceof OplogError) return error;
    throw error;
  }
  throw new Error("it was accepted");
}

describe("an append request", () => {
  it("gives its entries as the bytes that were sent, and everything else as it was set", () => {
    fc.assert(
      fc.property(fc.array(anyEntry, { minLength: 1, maxLength: 5 }), (entries) => {
        const parsed = parse({ ...REQUEST, entries, writerId: "w", operationId: 7n, expectedSequenceId: 0n, term: 3n });
        expect(parsed).toMatchObject({
          log: "l",
          writerId: "w",
          operationId: 7n,
          expectedSequenceId: 0n,
          expectedTerm: 3n,
        });
        expect(parsed.entries.count).toBe(entries.length);
        expect(parsed.contentCrc32c).toBe(contentCrc32c(validated(entries)));
      }),
    );
  });

  it("with its fields in another order is the same", () => {
    const { entries, log } = create(AppendRequestSchema, REQUEST);
    const parsed = parseAppend(Buffer.concat([encode({ entries }), encode({ log })]), LIMITS);
    expect(parsed).toMatchObject({ log: "l", writerId: "", operationId: 0n, contentCrc32c: 0 });
    expect(parsed).toMatchObject({ expectedSequenceId: undefined, expectedTerm: undefined });
  });

  it.each<[string, Request, string]>([
    ["no log", { ...REQUEST, log: "" }, "log"],
    ["a log that is a path", { ...REQUEST, log: "../x" }, "log"],
    ["no entries", { ...REQUEST, entries: [] }, "entries"],
    ["an operation id and no writer", { ...REQUEST, operationId: 1n }, "writer_id"],
    ["a writer and no operation id", { ...REQUEST, writerId: "w" }, "operation_id"],
    ["a writer id of 129 bytes", { ...REQUEST, writerId: "é".repeat(65), operationId: 1n }, "writer_id"],
    ["an operation id of 2^63", { ...REQUEST, writerId: "w", operationId: 2n ** 63n }, "operation_id"],
    ["a count of standbys that STORE has no use for", { ...REQUEST, standbyCount: 1 }, "standby_count"],
    ["a timeout that STORE has no use for", { ...REQUEST, durabilityTimeoutMs: 1 }, "durability_timeout_ms"],
    ["STANDBY_RECEIVED and no count", { ...REQUEST, durability: Durability.STANDBY_RECEIVED }, "standby_count"],
    ["17 standbys", { ...REQUEST, durability: Durability.STANDBY_APPLIED, standbyCount: 17 }, "standby_count"],
    [
      "a timeout above a minute",
      { ...REQUEST, durability: Durability.STANDBY_APPLIED, standbyCount: 1, durabilityTimeoutMs: 60_001 },
      "durability_timeout_ms",
    ],
    ["a durability that nobody knows", { ...REQUEST, durability: 9 as Durability }, "durability"],
    ["a bad second entry", { ...REQUEST, entries: [{ opType: OpType.EVENT }, {}] }, "entries[1].op_type"],
  ])("with %s is refused, and the field named", (_, request, field) => {
    expect(refusalOf(() => parse(request))).toMatchObject({ code: "INVALID_ARGUMENT", facts: { field } });
  });

  it("for standbys tells what is demanded of them, and waits 5 s unless told", () => {
    const { STANDBY_RECEIVED, STANDBY_APPLIED } = Durability;
    expect(parse({ ...REQUEST, durability: STANDBY_RECEIVED, standbyCount: 16 }).standbys).toEqual({
      position: "received",
      count: 16,
      timeoutMs: 5000,
    });
    const applied = { ...REQUEST, durability: STANDBY_APPLIED, standbyCount: 1, durabilityTimeoutMs: 60_000 };
    expect(parse(applied).standbys).toEqual({ position: "applied", count: 1, timeoutMs: 60_000 });
    expect(parse({ ...REQUEST, durability: Durability.STORE }).standbys).toBeUndefined();
  });

  it("with the highest operation id and a writer id of 128 bytes is accepted", () => {
    const operationId = 2n ** 63n - 1n;
    expect(parse({ ...REQUEST, writerId: "é".repeat(64), operationId })).toMatchObject({ operationId });
  });

  it("on a stream may leave the log out, and may not change it", () => {
    expect(parse({ ...REQUEST, log: "" }, "s").log).toBe("s");
    expect(parse({ ...REQUEST, log: "s" }, "s").log).toBe("s");
    expect(refusalOf(() => parse({ ...REQUEST, log: "other" }, "s")).facts).toMatchObject({ field: "log" });
  });

  it("of garbage is refused with OplogError alone", () => {
    const garbage = fc.oneof(
      fc.uint8Array({ maxLength: 60 }),
      fc.tuple(fc.nat(200), fc.nat(255)).map(([at, byte]) => {
        const bytes = encode({ ...REQUEST, writerId: "w", operationId: 7n });
        bytes[at % bytes.length] = byte;
        return bytes;
      }),
    );
    fc.assert(
      fc.property(garbage, (bytes) => {
        try {
          parseAppend(Buffer.from(bytes), LIMITS);
          parseStreamRequest(Buffer.from(bytes));
        } catch (error) {
          expect(error).toBeInstanceOf(OplogError);
        }
      }),
      { numRuns: 3000 },
    );
  });
});

describe("a request on a stream", () => {
  const encodeStream = (init: MessageInitShape<typeof AppendStreamRequestSchema>) =>
    Buffer.from(toBinary(AppendStreamRequestSchema, create(AppendStreamRequestSchema, init)));

  it("tells its correlation id, and where its append is", () => {
    const bytes = encodeStream({ correlationId: 2n ** 64n - 1n, append: REQUEST });
    const { correlationId, start, end } = parseStreamRequest(bytes);
    expect(correlationId).toBe(2n ** 64n - 1n);
    expect(bytes.subarray(start, end).equals(encode(REQUEST))).toBe(true);
    expect(parseAppend(bytes, LIMITS, start, end).log).toBe("l");
  });

  it("without an append is refused for what it lacks", () => {
    const bytes = encodeStream({ correlationId: 1n });
    const { start, end } = parseStreamRequest(bytes);
    expect(refusalOf(() => parseAppend(bytes, LIMITS, start, end)).facts).toMatchObject({ field: "log" });
  });

  it("with two appends is refused", () => {
    const twice = Buffer.concat([encodeStream({ append: REQUEST }), encodeStream({ append: REQUEST })]);
    expect(refusalOf(() => parseStreamRequest(twice)).facts).toMatchObject({ field: "append" });
  });
});
