import { fromBinary } from "@bufbuild/protobuf";
import { STANDBYS_MAX, type StandbyDemand } from "../cursors/standby-positions.js";
import { type AppendRequest, AppendRequestSchema, Durability } from "../gen/oplog/v1/oplog_pb.js";
import { type AppendLimits, contentCrc32c, type Entries, validateEntries } from "../oplog/entries.js";
import { InvalidArgumentError } from "../oplog/errors.js";
import { requireLogName } from "../oplog/keys.js";
import { WIRE_BYTES, WIRE_VARINT, WireError, WireReader } from "../oplog/wire.js";
import { requireWithin } from "./convert.js";

export const WRITER_ID_BYTES_MAX = 128;
/** Log, writer id and numbers, all at their longest, take a third of it. What is refused here would be kept in memory. */
const REST_BYTES_MAX = 1024;
const OPERATION_ID_MAX = 2n ** 63n - 1n;
const DURABILITY_TIMEOUT_MS_DEFAULT = 5000;
const DURABILITY_TIMEOUT_MS_MAX = 60_000;
const TAG_ENTRIES = (2 << 3) | WIRE_BYTES;
const TAG_CORRELATION_ID = (1 << 3) | WIRE_VARINT;
const TAG_APPEND = (2 << 3) | WIRE_BYTES;

/** A checked append, its entries still bytes of the request. */
export interface ParsedAppend {
  readonly log: string;
  readonly entries: Entries;
  readonly expectedSequenceId: bigint | undefined;
  readonly expectedTerm: bigint | undefined;
  readonly writerId: string;
  readonly operationId: bigint;
  readonly contentCrc32c: number;
  /** Undefined: durable in the store is enough. */
  readonly standbys: StandbyDemand | undefined;
}

/**
 * Reads an AppendRequest without decoding its entries. An empty log name stands for `streamLog`; `onLog` hears of the
 * log before anything else is checked.
 * Throws OplogError.
 */
export function parseAppend(
  bytes: Buffer,
  limits: AppendLimits,
  start = 0,
  end = bytes.length,
  streamLog = "",
  onLog: (log: string) => void = () => undefined,
): ParsedAppend {
  const { spans, rest } = split(bytes, start, end);
  const request = decodeRest(rest);
  const log = request.log === "" && streamLog !== "" ? streamLog : requireLogName(request.log);
  if (streamLog !== "" && log !== streamLog) {
    throw new InvalidArgumentError("log", `"${log}"; this stream appends to "${streamLog}"`, { received: log });
  }
  onLog(log);
  requireOperation(request.writerId, request.operationId);
  const standbys = parseDurability(request);
  const entries = validateEntries(bytes, spans, limits);
  return {
    log,
    entries,
    expectedSequenceId: request.expectedSequenceId,
    expectedTerm: request.term,
    writerId: request.writerId,
    operationId: request.operationId,
    contentCrc32c: request.writerId === "" ? 0 : contentCrc32c(entries),
    standbys,
  };
}

/** Where in an AppendStreamRequest the append is. Throws InvalidArgumentError. */
export function parseStreamRequest(bytes: Buffer): { correlationId: bigint; start: number; end: number } {
  const reader = new WireReader(bytes);
  let correlationId = 0n;
  let start = 0;
  let end = -1;
  try {
    while (!reader.isAtEnd) {
      const tag = reader.tag();
      if (tag === TAG_CORRELATION_ID) {
        correlationId = reader.uint64();
      } else if (tag === TAG_APPEND) {
        if (end >= 0) throw new InvalidArgumentError("append", "set more than once");
        start = reader.span();
        end = reader.position;
      } else {
        reader.skip(tag & 7);
      }
    }
  } catch (error) {
    throw error instanceof WireError ? new InvalidArgumentError("request", `malformed: ${error.message}`) : error;
  }
  return { correlationId, start, end: end < 0 ? start : end };
}

/** The spans of the entries, and the bytes of everything else. */
function split(bytes: Buffer, start: number, end: number): { spans: number[]; rest: Buffer } {
  const spans: number[] = [];
  const others: Buffer[] = [];
  const reader = new WireReader(bytes, start, end);
  try {
    while (!reader.isAtEnd) {
      const at = reader.position;
      const tag = reader.tag();
      if (tag === TAG_ENTRIES) {
        spans.push(reader.span(), reader.position);
        continue;
      }
      reader.skip(tag & 7);
      others.push(bytes.subarray(at, reader.position));
    }
  } catch (error) {
    throw error instanceof WireError ? new InvalidArgumentError("request", `malformed: ${error.message}`) : error;
  }
  const rest = others.length === 1 ? others[0]! : Buffer.concat(others);
  if (rest.length > REST_BYTES_MAX) {
    throw new InvalidArgumentError(
      "request",
      `${rest.length} bytes beside its entries, the limit is ${REST_BYTES_MAX}`,
      {
        received: rest.length,
        limit: REST_BYTES_MAX,
      },
    );
  }
  return { spans, rest };
}

function decodeRest(rest: Buffer): AppendRequest {
  try {
    return fromBinary(AppendRequestSchema, rest, { readUnknownFields: false });
  } catch (error) {
    throw new InvalidArgumentError("request", `malformed: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Throws InvalidArgumentError. */
export function requireOperation(writerId: string, operationId: bigint): void {
  if (writerId === "" && operationId === 0n) return;
  if (writerId === "") throw new InvalidArgumentError("writer_id", "empty, though operation_id is set; both or none");
  if (operationId === 0n) throw new InvalidArgumentError("operation_id", "0, though writer_id is set; both or none");
  const bytes = Buffer.byteLength(writerId);
  if (bytes > WRITER_ID_BYTES_MAX) {
    throw new InvalidArgumentError("writer_id", `${bytes} bytes, the limit is ${WRITER_ID_BYTES_MAX}`, {
      received: bytes,
      limit: WRITER_ID_BYTES_MAX,
    });
  }
  if (operationId > OPERATION_ID_MAX) {
    throw new InvalidArgumentError("operation_id", `${operationId}, the limit is ${OPERATION_ID_MAX}`, {
      received: operationId,
      limit: OPERATION_ID_MAX,
    });
  }
}

function parseDurability(request: AppendRequest): StandbyDemand | undefined {
  switch (request.durability) {
    case Durability.UNSPECIFIED:
    case Durability.STORE:
      requireUnset("standby_count", request.standbyCount);
      requireUnset("durability_timeout_ms", request.durabilityTimeoutMs);
      return undefined;
    case Durability.STANDBY_RECEIVED:
      return parseDemand("received", request);
    case Durability.STANDBY_APPLIED:
      return parseDemand("applied", request);
    default:
      throw new InvalidArgumentError("durability", `${request.durability} is no known durability`, {
        received: request.durability,
      });
  }
}

function parseDemand(
  position: StandbyDemand["position"],
  { standbyCount, durabilityTimeoutMs }: AppendRequest,
): StandbyDemand {
  const count = requireWithin("standby_count", standbyCount, 1, STANDBYS_MAX, "standbys");
  const timeoutMs = durabilityTimeoutMs === 0 ? DURABILITY_TIMEOUT_MS_DEFAULT : durabilityTimeoutMs;
  requireWithin("durability_timeout_ms", timeoutMs, 1, DURABILITY_TIMEOUT_MS_MAX, "ms");
  return { position, count, timeoutMs };
}

function requireUnset(field: string, value: number): void {
  if (value !== 0) throw new InvalidArgumentError(field, `${value}, which durability STORE has no use for`);
}
