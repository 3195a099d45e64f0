import { Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { LeaseNotFoundError, type StoreError, StoreRefusedError, StoreUnreachableError } from "../../oplog/kv-store.js";

/**
 * What a failed call means, by gRPC code and, where one code stands for several outcomes, by etcd's text.
 * The rule: a write is called refused only if it provably was not applied. All else is unknown.
 */
export function toStoreError(failure: ServiceError, address: string): StoreError {
  const options = { cause: failure };
  if (failure.details.includes(LEASE_NOT_FOUND)) return new LeaseNotFoundError(failure.details, options);
  const answer = failure.details.startsWith(NO_ANSWER) ? "gave" : `answered ${status[failure.code]}:`;
  const said = `etcd at ${address} ${answer} ${failure.details}`;
  if (!isRefusal(failure)) return new StoreUnreachableError(said, options);
  const remedy = REMEDIES.find(([text]) => failure.details.includes(text))?.[1];
  return new StoreRefusedError(remedy === undefined ? said : `${said}. ${remedy}`, options);
}

export type Outcome<Response> =
  | { readonly failure: ServiceError; readonly response?: never }
  | { readonly failure?: never; readonly response: Response };

/** Whether the call never reached the point where it could be applied, so that another member may be asked. */
export function neverReachedTheStore(failure: ServiceError): boolean {
  return failure.code === status.UNAVAILABLE && NEVER_REACHED.some((text) => failure.details.startsWith(text));
}

/** Whether the fault may lie with the member or the way to it. */
export function isMemberFault(failure: ServiceError): boolean {
  return failure.code === status.UNAVAILABLE || failure.code === status.DEADLINE_EXCEEDED;
}

/** Whether no answer came in time. */
export function isSilence(failure: ServiceError): boolean {
  return failure.code === status.DEADLINE_EXCEEDED;
}

/** Whether the member is well, and what it passed on to the leader of etcd was lost with that. */
export function isLeaderChange(failure: ServiceError): boolean {
  return failure.details.endsWith(LEADER_CHANGED);
}

/** The failure of a call that is given up before its deadline. Its outcome is unknown. */
export function unanswered(because: string): ServiceError {
  const details = `${NO_ANSWER}: ${because}`;
  return Object.assign(new Error(details), { code: status.UNAVAILABLE, details, metadata: new Metadata() });
}

/** The token has expired, or the member restarted and forgot it. Refused before anything is applied. */
export function isTokenFault(details: string): boolean {
  return details.includes("invalid auth token") || details.includes("revision of auth store is old");
}

/** Whether this side refused an answer for its size. */
export function isAnswerTooLarge({ cause }: StoreError): boolean {
  if (!isServiceError(cause)) return false;
  return cause.code === status.RESOURCE_EXHAUSTED && cause.details.startsWith("Received message larger than max");
}

export function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "details" in error && "code" in error && typeof error.code === "number";
}

const NO_ANSWER = "no answer";
/** As etcd says it, of reads. */
export const LEADER_CHANGED = "leader changed";
const LEASE_NOT_FOUND = "requested lease not found";

const REFUSALS: ReadonlySet<status> = new Set([
  status.INVALID_ARGUMENT,
  status.NOT_FOUND,
  status.PERMISSION_DENIED,
  status.UNAUTHENTICATED,
  status.FAILED_PRECONDITION,
  status.OUT_OF_RANGE,
  status.UNIMPLEMENTED,
]);

const TOO_LARGE = "larger than";
const NO_SPACE = "database space exceeded";
const TOO_MANY = "too many requests";

/**
 * RESOURCE_EXHAUSTED is the server's refusal, but also what this side makes of an answer that is too large and of a
 * stream reset, and then the write may have been applied.
 */
function isRefusal(failure: ServiceError): boolean {
  if (failure.code !== status.RESOURCE_EXHAUSTED) return REFUSALS.has(failure.code);
  return [NO_SPACE, TOO_MANY, "grpc: received message larger than", "Attempted to send message with a size"].some(
    (text) => failure.details.includes(text),
  );
}

/** Refused by a member before it proposes anything, or by the channel for want of a connection. */
const NEVER_REACHED = [
  "etcdserver: no leader",
  "etcdserver: rpc not supported for learner",
  "No connection established",
];

const REMEDIES: readonly (readonly [string, string])[] = [
  [NO_SPACE, "Trim the log, then compact and defragment etcd and disarm the alarm, or raise --quota-backend-bytes"],
  [TOO_MANY, "etcd is overloaded: its apply queue is too far behind, look at its disk"],
  ["request is too large", "etcd's --max-request-bytes must be at least 1572864, the default"],
  [TOO_LARGE, "etcd's --max-request-bytes must be at least 1572864, the default"],
  ["too many operations", "etcd's --max-txn-ops must be at least 128, the default"],
  ["permission denied", "Grant the user a role that may read and write the whole key prefix"],
  ["authentication failed", "Check user name and password"],
  [
    "user name is empty",
    "etcd has authentication enabled: configure a user name and password, or a client certificate",
  ],
  ["invalid auth token", "Log in again failed to help: check that all members share one --auth-token setting"],
];
