import { OplogRpcError } from "../client/errors.js";
import { ContiguityError } from "../client/follow.js";
import { humanDuration, keyText, shellWord } from "./render.js";
import { inTypedNames } from "./typed-names.js";

export const EXIT_FAILURE = 1;
export const EXIT_USAGE = 2;
/** The answer came, and it is no. */
export const EXIT_NO = 3;
const EXIT_RPC = 64;
const DATA_LOSS = 15;
export const EXIT_DATA_LOSS = EXIT_RPC + DATA_LOSS;

/** What happened, then what to do about it. */
export interface Failure {
  readonly exitCode: number;
  readonly lines: string[];
  /** Where the sidecar, or the way to it, has failed. */
  readonly rpc?: OplogRpcError;
}

export interface FailureContext {
  readonly target: string;
  readonly timeoutMs: number;
  readonly log: string | undefined;
  /** Name of the command. */
  readonly command: string;
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

/** For a person: the first line tells what happened, the others what to do. */
export function failureText({ lines }: Failure): string {
  return `oplogctl: ${lines.join("\n  ")}\n`;
}

/** For a program: one line, with what the sidecar has said. */
export function failureJson({ exitCode, lines, rpc }: Failure): string {
  const [message, ...advice] = lines;
  const answer = rpc && {
    code: rpc.code,
    reason: rpc.reason,
    metadata: rpc.metadata,
    ...(rpc.retryAfterMs === undefined ? {} : { retry_after_ms: rpc.retryAfterMs }),
  };
  return `${JSON.stringify({ error: { exit_code: exitCode, message, advice, ...answer } })}\n`;
}

export function describeFailure(error: unknown, context?: FailureContext): Failure {
  if (error instanceof CommandFailure) return error.failure;
  if (error instanceof OplogRpcError) return describeRpcError(error, context);
  if (error instanceof ContiguityError) {
    const lines = [`the order of the log is broken: ${error.message}`, "Nothing after this point was printed."];
    return { exitCode: EXIT_DATA_LOSS, lines };
  }
  const exitCode = error instanceof UsageError ? EXIT_USAGE : EXIT_FAILURE;
  return { exitCode, lines: [error instanceof Error ? error.message : String(error)] };
}

/** What others have chosen, such as the address of a leader, must not steer the terminal. */
function describeRpcError(error: OplogRpcError, context: FailureContext | undefined): Failure {
  return { exitCode: EXIT_RPC + error.codeNumber, lines: rpcErrorLines(error, context).map(keyText), rpc: error };
}

function rpcErrorLines(error: OplogRpcError, context: FailureContext | undefined): string[] {
  const target = context?.target ?? "the sidecar";
  if (error.isConnectFailure) return cannotConnect(error, target);
  if (error.code === "DEADLINE_EXCEEDED" && error.reason === "") {
    const after = context ? ` within ${humanDuration(context.timeoutMs)}` : "";
    return [`no answer from ${target}${after}`, unansweredAdvice(context)];
  }
  return [`${error.code}: ${inTypedNames(error.message, context?.command)}`, ...advice(error, context)];
}

function unansweredAdvice(context: FailureContext | undefined): string {
  const waitLonger = "--timeout 30s waits longer;";
  return context?.command === "status"
    ? `${waitLonger} what that oplogd says of itself: /readyz and its log (--admin-listen, 127.0.0.1:7451 unless told).`
    : `${waitLonger} \`oplogctl status\` shows the store.`;
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
  if (message.includes("Failed to parse DNS address")) return "this is no host:port and no unix:///path";
  return message;
}

function advice(error: OplogRpcError, context: FailureContext | undefined): string[] {
  const { metadata, retryAfterMs } = error;
  const log = context?.log ?? "LOG";
  switch (error.reason) {
    case "NOT_PRIMARY":
      return notPrimaryAdvice(metadata, log);
    case "NOT_READY":
      return notReadyAdvice(context?.target, log);
    case "NOT_ELECTED":
      return [
        `\`oplogctl leader ${log}\` shows who writes it, and on what ground.`,
        "Unless it is claimed by tokens, a campaign makes it an elected log: oplogctl campaign --help",
      ];
    case "LEADERSHIP_BY_TOKEN":
      return ["Once claimed by token, a log is claimed by tokens alone."];
    case "CANDIDATE_EXISTS":
      return ["Each candidate needs an id of its own: --id OTHER"];
    case "CANDIDATE_NOT_FOUND":
      return [`Those who wait: oplogctl leader ${log}`];
    case "HAND_OVER_ABANDONED":
      return [
        `--hold 10s waits longer. Where its sidecar keeps a view (--views), \`oplogctl readiness ${log}\` shows what that lacks.`,
      ];
    case "STATE_DIVERGED":
      return [`Compare the candidate's state with: oplogctl state ${log}`];
    case "HISTORY_DIVERGED":
      return [
        `Who has this entry: oplogctl where-parted ${log} --at ${metadata.sequence_id} --chain ${metadata.yours}`,
        "If the store was restored on purpose, `oplogctl adopt` at this sidecar takes it as it is now.",
      ];
    case "NO_VIEW":
      return [`Start oplogd with --views ${log}, or ask a sidecar that has it.`];
    case "VIEW_FAILED":
      return ["A view that has stopped begins anew when oplogd is restarted; its log tells why it stopped."];
    case "EXPECTED_SEQUENCE_MISMATCH":
      return [`Nothing was written. To append after the present head: --expect ${metadata.head}`];
    case "LOG_DELETED":
      return ["A log that is made by that name is another one: start again without what is left of this one."];
    case "TRIMMED":
      return [`Start at the first entry that is left: --from ${metadata.floor}`];
    case "BEYOND_HEAD":
      return [`The last entry is ${metadata.head}; \`oplogctl tail ${log} --from head -f\` waits for the next.`];
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

/** With several sidecars, only the one that has won knows of it. */
function notReadyAdvice(target: string | undefined, log: string): string[] {
  const there = target === undefined ? "" : ` --target ${target}`;
  return [
    `\`oplogctl${there} leader ${log}\` shows who is preparing itself.`,
    `If it does not get ready: \`oplogctl${there} resign ${log}\` ends that, and the next candidate has its turn.`,
  ];
}

function notPrimaryAdvice({ endpoint, primary }: OplogRpcError["metadata"], log: string): string[] {
  if (endpoint) return [`The primary is at ${endpoint}: oplogctl --target ${shellWord(endpoint)} …`];
  if (primary) return [`The primary is "${primary}"; it has not announced where it can be reached.`];
  return [`Nobody leads it at the moment. Who stands for it: oplogctl leader ${log}`];
}

/** What to say of an append that may have been written in spite of its error. */
export function unknownOutcomeAdvice(log: string, hasOperation: boolean): string {
  return hasOperation
    ? "It may have been written. Run the same command again: the same --writer and --operation commit at most once."
    : `It may have been written: see \`oplogctl tail ${log}\`. With --writer and --operation a retry is safe.`;
}
