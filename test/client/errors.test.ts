import { create } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { OplogRpcError } from "../../src/client/errors.js";
import { StatusSchema } from "../../src/gen/oplog/v1/oplog_pb.js";
import { rpcError, rpcStatus } from "./scripted-sidecar.js";

const NOT_PRIMARY = {
  code: "FAILED_PRECONDITION",
  reason: "NOT_PRIMARY",
  message: "this sidecar does not lead the log",
  metadata: { primary: "b", endpoint: "10.0.0.2:7450", term: "4" },
} as const;

describe("OplogRpcError", () => {
  it("carries what ErrorInfo and RetryInfo say", () => {
    const error = OplogRpcError.from(
      rpcError({ code: "RESOURCE_EXHAUSTED", reason: "QUEUE_FULL", message: "full", metadata: {}, retryAfterMs: 1250 }),
    );

    expect(error).toMatchObject({ code: "RESOURCE_EXHAUSTED", codeNumber: 8, reason: "QUEUE_FULL", message: "full" });
    expect((error as OplogRpcError).retryAfterMs).toBe(1250);
  });

  it("is the same for a call and for an item of a stream", () => {
    const ofCall = OplogRpcError.from(rpcError(NOT_PRIMARY)) as OplogRpcError;
    const ofItem = OplogRpcError.fromStreamStatus(create(StatusSchema, rpcStatus(NOT_PRIMARY)));

    for (const error of [ofCall, ofItem]) expect(error).toMatchObject(NOT_PRIMARY);
  });

  it("keeps the plain status when the details cannot be read", () => {
    const broken = rpcError(NOT_PRIMARY);
    broken.metadata.set("grpc-status-details-bin", Buffer.from([0xff, 0xff, 0xff]));

    expect(OplogRpcError.from(broken)).toMatchObject({
      code: "FAILED_PRECONDITION",
      reason: "",
      message: NOT_PRIMARY.message,
    });
  });

  it("passes through what is no status of a call", () => {
    const bug = new TypeError("x");
    expect(OplogRpcError.from(bug)).toBe(bug);
  });

  it.each([
    ["UNKNOWN", "OUTCOME_UNKNOWN", "lost", true],
    ["DEADLINE_EXCEEDED", "", "Deadline exceeded", true],
    ["CANCELLED", "", "Cancelled on client", true],
    ["UNAVAILABLE", "", "Connection dropped", true],
    ["UNAVAILABLE", "", "No connection established. Last error: refused", false],
    ["UNAVAILABLE", "STORE_UNREACHABLE", "nothing was written", false],
    ["ABORTED", "EXPECTED_SEQUENCE_MISMATCH", "no", false],
    ["CANCELLED", "NOT_SENT", "aborted before it was sent", false],
    ["RESOURCE_EXHAUSTED", "QUEUE_FULL", "full", false],
    ["RESOURCE_EXHAUSTED", "", "Bandwidth exhausted or memory limit exceeded", true],
    ["RESOURCE_EXHAUSTED", "", "Received message larger than max (5000000 vs 4194304)", false],
  ] as const)("of an append, %s %s (%s) may have committed: %s", (code, reason, message, may) => {
    expect(new OplogRpcError({ code, reason, message }).mayHaveCommitted).toBe(may);
  });
});
