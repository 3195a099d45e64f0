import { OplogRpcError } from "../client/errors.js";
import { ContiguityError } from "../client/follow.js";
import { humanDuration } from "./render.js";

export const EXIT_FAILURE = 1;
const EXIT_RPC = 64;
const DATA_LOSS = 15;

/** What happened, then what to do about it. */
export interface Failure {
  readonly exitCode: number;
  readonly lines: string[];
}

export interface FailureContext {
  readonly target: string;
  readonly timeoutMs: number;
  readonly log: string | undefined;
}

/** A failure that has been put into words. */
export class CommandFailure extends Error {
  constructor(
    readonly failure: Failure,
    cause: unknown,
  ) {
    super(failure.lines[0], { cause });
    this.name = "CommandFailure";
  }
}

/** A wrong argument or input; the message says what to change. */
export class UsageError extends Error {}

export function describeFailure(error: unknown, context?: FailureContext): Failure {
  if (error instanceof CommandFailure) return error.failure;
  if (error instanceof OplogRpcError) return describeRpcError(error, context);
  if (error instanceof ContiguityError) {
    const lines = [`the order of the log is broken: ${error.message}`, "Nothing after this point was printed."];
    return { exitCode: EXIT_RPC + DATA_LOSS, lines };
  }
  return { exitCode: EXIT_FAILURE, lines: [error instanceof Error ? error.message : String(error)] };
}

function describeRpcError(error: OplogRpcError, context: FailureContext | undefined): Failure {
  const exitCode = EXIT_RPC + error.codeNumber;
  const target = context?.target ?? "the sidecar";
  if (error.isConnectFailure) return { exitCode, lines: cannotConnect(error, target) };
  if (error.code === "DEADLINE_EXCEEDED" && error.reason === "") {
    const after = context ? ` within ${humanDuration(context.timeoutMs)}` : "";
    const lines = [
      `no answer from ${target}${after}`,
      "--timeout 30s waits longer; `oplogctl status` shows the store.",
    ];
    return { exitCode, lines };
  }
  return { exitCode, lines: [`${error.code}: ${error.message}`, ...advice(error, context)] };
}

function cannotConnect(error: OplogRpcError, target: string): string[] {
  const start = target.startsWith("unix:") || /^(127\.0\.0\.1|localhost|\[::1\]):/.test(target);
  return [
    `cannot connect to ${target}: ${connectProblem(error.message)}`,
    `Is oplogd running there?${start ? ` Start it with: oplogd --listen ${target}` : ""}`,
    "Another address: --target <host:port | unix:///path>, or OPLOGCTL_TARGET.",
  ];
}

/** Why a connection could not be made, without the wrapping of the transport. */
export function connectProblem(message: string): string {
  if (message.includes("ECONNREFUSED")) return "connection refused";
  if (message.includes("ENOENT")) return "no such socket";
  if (message.includes("EACCES")) return "permission denied";
  if (message.includes("Name resolution failed")) return "the host name is not known";
  return message;
}

function advice(error: OplogRpcError, context: FailureContext | undefined): string[] {
  const { metadata, retryAfterMs } = error;
  const log = context?.log ?? "LOG";
  switch (error.reason) {
    case "NOT_PRIMARY":
      return metadata.endpoint
        ? [`The primary is at ${metadata.endpoint}: oplogctl --target ${metadata.endpoint} …`]
        : [`The primary is "${metadata.primary ?? ""}"; it has not announced where it can be reached.`];
    case "EXPECTED_SEQUENCE_MISMATCH":
      return [`Nothing was written. To append after the present head: --expect ${metadata.head}`];
    case "TRIMMED":
      return [`Start at the first entry that is left: --from ${metadata.floor}`];
    case "BEYOND_HEAD":
      return [`The last entry is ${metadata.head}; \`oplogctl tail ${log} --from head\` waits for the next.`];
    case "TOO_LARGE":
      return [`The limit is ${metadata.limit} bytes; split it, or have the operator of oplogd raise the limit.`];
    case "QUEUE_FULL":
    case "TOO_MANY":
      return [`The limit is ${metadata.limit}.${retryAfterMs ? ` Try again in ${humanDuration(retryAfterMs)}.` : ""}`];
    case "STORE_UNREACHABLE":
      return ["`oplogctl status` shows the store and its last failure."];
    case "SHUTTING_DOWN":
      return ["Try again once oplogd has been started anew."];
    default:
      return [];
  }
}

/** What to say of an append that may have been written in spite of its error. */
export function unknownOutcomeAdvice(log: string, hasOperation: boolean): string {
  return hasOperation
    ? "It may have been written. Run the same command again: the same --writer and --operation commit at most once."
    : `It may have been written: see \`oplogctl tail ${log} --from -10 --until-head\`. With --writer and --operation a retry is safe.`;
}
