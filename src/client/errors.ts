import { type DescMessage, fromBinary, type MessageShape } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { status as Codes, type ServiceError, type StatusObject } from "@grpc/grpc-js";
import { ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import { type Status as RpcStatus, StatusSchema as RpcStatusSchema } from "../gen/google/rpc/status_pb.js";
import type { Status as StreamStatus } from "../gen/oplog/v1/oplog_pb.js";

/** Name of a canonical code, like "NOT_FOUND". */
export type CodeName = keyof typeof Codes;

export interface RpcFailure {
  readonly code: CodeName;
  readonly message: string;
  readonly reason?: string;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly retryAfterMs?: number | undefined;
  readonly cause?: unknown;
}

/**
 * A failed call, or a refused item of AppendStream. `reason` and `metadata` are those of google.rpc.ErrorInfo; the table
 * of them stands at OpLogService in proto/oplog/v1/oplog.proto. An empty reason means that the failure comes from the
 * transport, not from the sidecar; NOT_SENT that the request never left this process.
 */
export class OplogRpcError extends Error {
  readonly code: CodeName;
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;
  /** Set where waiting helps. */
  readonly retryAfterMs: number | undefined;

  constructor(failure: RpcFailure) {
    super(failure.message, { cause: failure.cause });
    this.name = "OplogRpcError";
    this.code = failure.code;
    this.reason = failure.reason ?? "";
    this.metadata = failure.metadata ?? {};
    this.retryAfterMs = failure.retryAfterMs;
  }

  /** Number of the code in google.rpc.Code. */
  get codeNumber(): number {
    return Codes[this.code];
  }

  /** The call never left this process. */
  get isConnectFailure(): boolean {
    return this.reason === "" && this.code === "UNAVAILABLE" && CONNECT_FAILURE.test(this.message);
  }

  /** Of an append: whether it may be in the log, or may yet come to be, in spite of this error. */
  get mayHaveCommitted(): boolean {
    if (this.isConnectFailure || this.reason === NOT_SENT) return false;
    if (OPEN_OUTCOMES.has(this.code)) return true;
    return this.reason === "" && BREAKS.has(this.code) && !REFUSED_UNREAD.test(this.message);
  }

  /** From whatever a call of grpc-js fails with. What is not a status of a call is passed through. */
  static from(error: unknown): unknown {
    return isCallStatus(error) ? fromCallStatus(error) : error;
  }

  /** From the error of one item of AppendStream. */
  static fromStreamStatus(status: StreamStatus): OplogRpcError {
    return fromRpcStatus(status);
  }
}

const DETAILS = "grpc-status-details-bin";
// grpc-js tells these cases apart by text alone.
const CONNECT_FAILURE = /^(No connection established|Name resolution failed|Failed to parse DNS address)/;
const REFUSED_UNREAD = /^Received message larger than max/;

const NOT_SENT = "NOT_SENT";
const OPEN_OUTCOMES = new Set<CodeName>(["UNKNOWN", "DEADLINE_EXCEEDED", "CANCELLED"]);
/** Without a reason: the connection, or a proxy on the way, has broken the call off. */
const BREAKS = new Set<CodeName>(["UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED"]);

/** Why a request was not sent, told such that nobody takes it for one that may have been carried out. */
export function notSent(cause: OplogRpcError): OplogRpcError {
  const { code, message } = cause;
  return cause.mayHaveCommitted ? new OplogRpcError({ code, reason: NOT_SENT, message, cause }) : cause;
}

type CallStatus = ServiceError | StatusObject;

function isCallStatus(error: unknown): error is CallStatus {
  return typeof error === "object" && error !== null && "code" in error && "details" in error && "metadata" in error;
}

function fromCallStatus(status: CallStatus): OplogRpcError {
  const bytes = status.metadata?.get(DETAILS)[0];
  if (bytes instanceof Uint8Array) {
    const detailed = tryDecode(RpcStatusSchema, bytes);
    if (detailed?.code === status.code) return fromRpcStatus(detailed, status);
  }
  return new OplogRpcError({ code: codeName(status.code), message: status.details, cause: status });
}

function fromRpcStatus(status: Pick<RpcStatus, "code" | "message" | "details">, cause?: unknown): OplogRpcError {
  const info = detail(status, ErrorInfoSchema);
  const delay = detail(status, RetryInfoSchema)?.retryDelay;
  return new OplogRpcError({
    code: codeName(status.code),
    message: status.message,
    reason: info?.reason ?? "",
    metadata: info?.metadata ?? {},
    retryAfterMs: delay && Number(delay.seconds) * 1000 + Math.ceil(delay.nanos / 1e6),
    cause,
  });
}

function detail<D extends DescMessage>(status: Pick<RpcStatus, "details">, schema: D): MessageShape<D> | undefined {
  for (const any of status.details) {
    const unpacked = any.typeUrl.endsWith(`/${schema.typeName}`) && tryUnpack(() => anyUnpack(any, schema));
    if (unpacked) return unpacked;
  }
  return undefined;
}

function tryDecode<D extends DescMessage>(schema: D, bytes: Uint8Array): MessageShape<D> | undefined {
  return tryUnpack(() => fromBinary(schema, bytes));
}

/** Details are extra: where a proxy has mangled them, the plain status still tells the code and the message. */
function tryUnpack<T>(unpack: () => T): T | undefined {
  try {
    return unpack();
  } catch {
    return undefined;
  }
}

function codeName(code: number): CodeName {
  return (Codes[code] as CodeName | undefined) ?? "UNKNOWN";
}
