import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { SubscribeRequestSchema } from "../../src/gen/oplog/v1/oplog_pb.js";
import { toStart } from "../../src/grpc/convert.js";

type StartInit = NonNullable<MessageInitShape<typeof SubscribeRequestSchema>["start"]>;

const startOf = (start: StartInit) => toStart(create(SubscribeRequestSchema, { log: "l", start }));

describe("where a Subscribe starts", () => {
  it.each<[string, StartInit, string]>([
    ["none", { case: undefined }, "beginning"],
    ["from_beginning", { case: "fromBeginning", value: true }, "beginning"],
    ["from_head", { case: "fromHead", value: true }, "head"],
    ["from_snapshot", { case: "fromSnapshot", value: true }, "snapshot"],
    ["from_head that is false", { case: "fromHead", value: false }, "beginning"],
    ["from_snapshot that is false", { case: "fromSnapshot", value: false }, "beginning"],
  ])("%s starts there", (_, start, kind) => {
    expect(startOf(start)).toMatchObject({ kind });
  });

  it.each<[string, StartInit]>([
    ["from_beginning", { case: "fromBeginning", value: false }],
    ["from_sequence_id", { case: "fromSequenceId", value: 0n }],
    ["from_cursor", { case: "fromCursor", value: "" }],
  ])("refuses %s with a value that names no start", (field, start) => {
    expect(() => startOf(start)).toThrow(expect.objectContaining({ reason: "INVALID_ARGUMENT", field }));
  });
});
