import { readdirSync, readFileSync } from "node:fs";
import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { status as GrpcCode } from "@grpc/grpc-js";
import { describe, expect, it } from "vitest";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../../src/gen/google/rpc/error_details_pb.js";
import { StatusSchema as RpcStatusSchema } from "../../src/gen/google/rpc/status_pb.js";
import { toServiceError, toStatus } from "../../src/grpc/status.js";
import * as ofAppends from "../../src/oplog/append-errors.js";
import * as general from "../../src/oplog/errors.js";
import * as ofLeadership from "../../src/oplog/leadership-errors.js";
import * as ofLogs from "../../src/oplog/log-errors.js";
import * as ofStores from "../../src/oplog/store-errors.js";

const errors = { ...general, ...ofAppends, ...ofLeadership, ...ofLogs, ...ofStores };

/** One of each, as they are thrown. */
const EXAMPLES: general.OplogError[] = [
  new errors.OplogError("ABORTED", "ABANDONED", "the caller left"),
  new errors.InvalidArgumentError("entries[3].key", "empty", { entry_index: 3, limit: 1, received: 0 }),
  new errors.TooLargeError("entries[0]", 9, 8, { entry_index: 0 }),
  new errors.TooManyError("subscriptions", 5, 1500),
  new errors.QueueFullError("bytes", 10, 100, 100),
  new errors.TooSlowError(30_000),
  new errors.LogNotFoundError("l"),
  new errors.CursorNotFoundError("l", "c"),
  new errors.CursorDamagedError("l", "c", "the value is damaged"),
  new errors.OperationIdUsedError("w", 1n, 2n),
  new errors.OperationContentMismatchError("w", 1n, 2n, 3n),
  new errors.ExpectedSequenceMismatchError(1n, 2n),
  new errors.NotPrimaryError("p", "p:1", 3n),
  new errors.NotReadyError("a", 2n),
  new errors.StateDivergedError("a", 2n, "aa", "bb"),
  new errors.LeadershipByTokenError("l", 7n, "other"),
  new errors.NotElectedError("l"),
  new errors.CandidateExistsError("l", "a"),
  new errors.CandidateNotFoundError("l", "a"),
  new errors.HandOverAbandonedError("a", 300),
  new errors.HandOverRunningError("a"),
  new errors.StaleTermError(1n, 2n),
  new errors.StaleTokenError(1n, 2n, "other"),
  new errors.TermDivergedError(1n, 2n, 3n),
  new errors.LogReplacedError("aa", "bb"),
  new errors.LogDeletedError("l", "aa", "is being deleted"),
  new errors.CursorRegressedError("applied_sequence_id", 1n, 2n),
  new errors.HistoryDivergedError("l", 9n, "0a", "0b"),
  new errors.StoreReplacedRefusal("another cluster"),
  new errors.StoreAdoptedError(),
  new errors.StoreLostError("a page is damaged"),
  new errors.OperationRuledOutError("w", 7n, 6n),
  new errors.NoViewError("l"),
  new errors.ViewFailedError("l", 7, "trimmed"),
  new errors.NoObjectLeasesError("l"),
  new errors.ViewBehindError("l", 7, 9n),
  new errors.TrimmedError(1n, 2n),
  new errors.BeyondHeadError(2n, 1n),
  new errors.StoreUnavailableError(5, "try again"),
  new errors.StoreRefusalError("no space"),
  new errors.RuledOutError(),
  new errors.ShuttingDownError(),
  new errors.StreamEndedError(),
  new errors.NotOfferedError("durability", "STANDBY_APPLIED"),
  new errors.DataLossError("l", 7n, "a hole"),
  new errors.OutcomeUnknownError("w", 1n, "lost"),
];

interface Row {
  readonly code: string;
  readonly reason: string;
  readonly metadata: string[];
  readonly rest: string;
}

/** The table that stands at OpLogService in the proto file. */
function tableOfProto(): Row[] {
  const proto = readFileSync(new URL("../../proto/oplog/v1/oplog.proto", import.meta.url), "utf8");
  return [...proto.matchAll(/^\/\/ {3}([A-Z_]+) +([A-Z_]+)(?: +(.*))?$/gm)]
    .map(([, code = "", reason = "", rest = ""]) => {
      const names = rest.split(/[;:]/)[0]!;
      const metadata = names
        .split(",")
        .map((name) => name.trim())
        .filter((name) => /^[a-z_]+$/.test(name));
      return { code, reason, metadata, rest };
    })
    .filter(({ code }) => code in GrpcCode);
}

const detailsOf = (error: general.OplogError) => {
  const { details } = toStatus(error);
  return {
    info: details.map((any) => anyUnpack(any, ErrorInfoSchema)).find((each) => each !== undefined),
    retry: details.map((any) => anyUnpack(any, RetryInfoSchema)).find((each) => each !== undefined),
    badRequest: details.map((any) => anyUnpack(any, BadRequestSchema)).find((each) => each !== undefined),
  };
};

describe("the table of errors in the proto file", () => {
  const rows = tableOfProto();

  it("is found at all", () => {
    expect(rows.length).toBeGreaterThan(15);
  });

  it("lists exactly the reasons that there are, with their codes", () => {
    const listed = rows.map(({ code, reason }) => `${code} ${reason}`).sort();
    // Two classes may share a reason.
    expect(listed).toEqual([...new Set(EXAMPLES.map(({ code, reason }) => `${code} ${reason}`))].sort());
  });

  it.each(EXAMPLES.map((error) => [error.reason, error] as const))("names the metadata of %s", (reason, error) => {
    const row = rows.find((each) => each.reason === reason);
    expect(Object.keys(error.facts).filter((fact) => !row?.metadata.includes(fact))).toEqual([]);
    expect(row?.metadata.filter((fact) => !(fact in error.facts))).toEqual([]);
    if (row?.rest.includes("RetryInfo")) expect(error.retryAfterMs).toBeGreaterThan(0);
    else expect(error.retryAfterMs).toBeUndefined();
  });

  it("has an example here of every class of error", async () => {
    const folder = new URL("../../src/oplog/", import.meta.url);
    const files = readdirSync(folder).filter((name) => name.endsWith("errors.ts"));
    const modules = await Promise.all(files.map((name) => import(new URL(name, folder).href) as Promise<object>));
    const classes = modules.flatMap((module) => Object.values(module));
    expect(new Set(EXAMPLES.map((error) => error.constructor))).toEqual(new Set(classes));
  });
});

describe.each(EXAMPLES.map((error) => [error.reason, error] as const))("%s", (reason, error) => {
  it("carries code, reason and facts, in a stream as at the end of a call", () => {
    const inStream = toStatus(error);
    expect(inStream).toMatchObject({ code: GrpcCode[error.code], message: error.message });
    const facts = Object.fromEntries(Object.entries(error.facts).map(([name, fact]) => [name, String(fact)]));
    expect(detailsOf(error).info).toMatchObject({ reason, domain: "oplog-sidecar", metadata: facts });
    const atEnd = toServiceError(error);
    expect(atEnd).toMatchObject({ code: GrpcCode[error.code], details: error.message });
    const [rich] = atEnd.metadata.get("grpc-status-details-bin");
    const status = fromBinary(RpcStatusSchema, rich as Buffer);
    expect(status).toMatchObject({ code: inStream.code, message: inStream.message });
    const plain = ({ details }: typeof status) =>
      details.map(({ typeUrl, value }) => [typeUrl, Buffer.from(value).toString("hex")]);
    expect(plain(status)).toEqual(plain(inStream as unknown as typeof status));
  });

  it("says when to try again, if waiting helps", () => {
    const { retry } = detailsOf(error);
    const { seconds = 0n, nanos = 0 } = retry?.retryDelay ?? {};
    expect(retry === undefined ? undefined : Number(seconds) * 1000 + nanos / 1e6).toBe(error.retryAfterMs);
  });

  it("names the violated field if it is the request's fault", () => {
    const fields = detailsOf(error).badRequest?.fieldViolations.map(({ field }) => field);
    expect(fields).toEqual(error instanceof errors.InvalidArgumentError ? [error.field] : undefined);
  });
});

describe("an error that nobody expected", () => {
  it("is INTERNAL and does not tell the client what happened inside", () => {
    const error = toServiceError(new TypeError("secret path /var/lib"));
    expect(error.code).toBe(GrpcCode.INTERNAL);
    expect(`${error.message} ${error.details}`).not.toContain("secret");
    expect(error.metadata.getMap()).toEqual({});
  });
});
