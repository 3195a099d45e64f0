import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { OplogClient } from "../../src/client/client.js";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { type CandidateFields, campaignRequest } from "./campaign-call.js";
import { invalid, type Refusal } from "./refusals.js";

export const LOG = "led";
export const LEADER = "leader";
export const HEAD = 3n;
/** No log of this sidecar's views. */
const UNSEEN = "unseen";
export const YEARS_MS = 315_360_000_000;

export const ms = durationFromMs;
/** Longer than any text that is allowed. */
export const LONG = "x".repeat(257);

/** What a terminal would act upon. */
const UNPRINTABLE = [
  ["U+000A", "a\n\u001b[31mRED b"],
  ["U+001B", "\u001b[2J"],
  ["U+0000", "a:1\0"],
  ["U+007F", "a:1\u007f"],
  ["U+009B", "a:1\u009b31m"],
  ["U+2028", "a:1\u2028"],
  ["U+202E", "a:1\u202e"],
] as const;

/** First messages that are refused. */
export const CANDIDATES: readonly (readonly [string, Buffer, Refusal])[] = [
  ["nothing in it", Buffer.alloc(0), invalid("message")],
  ["bytes that are no message", Buffer.from([0xff, 0xff, 0xff]), invalid("request")],
  ["a length beyond the end", Buffer.from([0x0a, 0x7f, 0x01]), invalid("request")],
  ["an id that is not UTF-8", raw([0x0a, 3, 0x6c, 0x65, 0x64, 0x12, 1, 0xff]), invalid("request")],
  ["only a field that is not known", Buffer.from([0x7a, 1, 0x6b]), invalid("message")],
  ["ready", campaignRequest({ case: "ready", value: { appliedSequenceId: HEAD } }), invalid("message")],
  ["alive", campaignRequest({ case: "alive", value: {} }), invalid("message")],
  ["an empty candidate", raw([]), invalid("candidate.id", { received: "" })],
  ["no log", candidate({ log: "" }), invalid("log", { received: "" })],
  ...["../x", "a/b", ".hidden", "käse", "a".repeat(200), "a\0b"].map(
    (log) => [`the log ${JSON.stringify(log)}`, candidate({ log }), invalid("log", { received: log })] as const,
  ),
  ...["", "a/b", "a b", "käse", "x".repeat(129)].map(
    (id) => [`the id ${JSON.stringify(id)}`, candidate({ id }), invalid("candidate.id")] as const,
  ),
  [
    "an endpoint of 257 bytes",
    candidate({ endpoint: LONG }),
    invalid("candidate.endpoint", { received: "257", limit: "256" }),
  ],
  ...UNPRINTABLE.map(
    ([character, endpoint]) =>
      [
        `an endpoint with ${character}`,
        candidate({ endpoint }),
        invalid("candidate.endpoint", { received: character }),
      ] as const,
  ),
  ["an endpoint that is not UTF-8", raw([0x1a, 1, 0xff]), invalid("request")],
  ...outside("ttl", 1_000, 60_000),
  ...outside("ready_timeout", 100, 600_000),
  ...outside("alive_within", 500, 60_000),
  [
    "an id that is campaigning already",
    candidate({ id: LEADER }),
    { code: "ALREADY_EXISTS", reason: "CANDIDATE_EXISTS", metadata: { log: LOG, id: LEADER } },
  ],
];

/** Messages that a candidate may not send after its first. */
export const FURTHER: readonly (readonly [string, Buffer, Refusal])[] = [
  ["a second candidate", candidate({}), invalid("message")],
  ["nothing in it", Buffer.alloc(0), invalid("message")],
  ["bytes that are no message", Buffer.from([0xff]), invalid("request")],
  [
    "a hash of 65 bytes",
    campaignRequest({ case: "ready", value: { appliedSequenceId: HEAD, stateHash: new Uint8Array(65) } }),
    invalid("ready.state_hash", { received: "65", limit: "64" }),
  ],
];

const notFound: Refusal = {
  code: "NOT_FOUND",
  reason: "CANDIDATE_NOT_FOUND",
  metadata: { log: LOG, id: "nobody" },
};
const notElected: Refusal = { code: "FAILED_PRECONDITION", reason: "NOT_ELECTED", metadata: { log: UNSEEN } };
const noView: Refusal = { code: "FAILED_PRECONDITION", reason: "NO_VIEW", metadata: { log: UNSEEN } };
const staleTerm = (yours: string): Refusal => ({
  code: "FAILED_PRECONDITION",
  reason: "STALE_TERM",
  metadata: { yours, current: "1" },
});
const malformed = Buffer.from([0x0a, 0x7f, 0x01]);
export const keys = (count: number) => Array.from({ length: count }, (_, index) => `key ${index}`);
export const entry = { opType: OpType.PUT_END, key: "key", payload: Buffer.from("payload") };

/** Calls that are refused. */
export const CALLS: readonly (readonly [string, (client: OplogClient) => Promise<unknown>, Refusal])[] = [
  ["Resign of a log without a name", (client) => client.resign({}), invalid("log", { received: "" })],
  ["Resign of a log that nobody campaigns for", (client) => client.resign({ log: UNSEEN }), notElected],
  ["Resign with bytes that are no message", (client) => client.resign(malformed as never), invalid("request")],
  ["HandOver of a log without a name", (client) => client.handOver({ target: "a" }), invalid("log", { received: "" })],
  ["HandOver to nobody", (client) => client.handOver({ log: LOG }), invalid("target")],
  ["HandOver to a bad name", (client) => client.handOver({ log: LOG, target: "a/b" }), invalid("target")],
  ["HandOver to a candidate that is none", (client) => client.handOver({ log: LOG, target: "nobody" }), notFound],
  ["HandOver to oneself", (client) => client.handOver({ log: LOG, target: LEADER }), invalid("target")],
  [
    "HandOver of a log that nobody campaigns for",
    (client) => client.handOver({ log: UNSEEN, target: "a" }),
    notElected,
  ],
  ...[49, 60_001, 0, -1].map(
    (timeoutMs) =>
      [
        `HandOver within ${timeoutMs} ms`,
        (client: OplogClient) => client.handOver({ log: LOG, target: "nobody", timeout: ms(timeoutMs) }),
        invalid("timeout", { received: String(timeoutMs), min: "50", limit: "60000" }),
      ] as const,
  ),
  ...UNPRINTABLE.map(
    ([character, endpoint]) =>
      [
        `ClaimTerm with an endpoint with ${character}`,
        (client: OplogClient) => client.claimTerm({ log: UNSEEN, token: 1n, claimant: "a", endpoint }),
        invalid("endpoint", { received: character }),
      ] as const,
  ),
  [
    "GetPromotionReadiness of a log without a name",
    (client) => client.getPromotionReadiness({}),
    invalid("log", { received: "" }),
  ],
  ["GetPromotionReadiness without a view", (client) => client.getPromotionReadiness({ log: UNSEEN }), noView],
  [
    "RenewObjectLeases of a log without a name",
    (client) => client.renewObjectLeases({ keys: ["key"] }),
    invalid("log", { received: "" }),
  ],
  ["RenewObjectLeases without a view", (client) => client.renewObjectLeases({ log: UNSEEN, keys: ["key"] }), noView],
  [
    "RenewObjectLeases of no key",
    (client) => client.renewObjectLeases({ log: LOG }),
    invalid("keys", { received: "0", limit: "10000" }),
  ],
  [
    "RenewObjectLeases of 10,001 keys",
    (client) => client.renewObjectLeases({ log: LOG, keys: keys(10_001) }),
    invalid("keys", { received: "10001", limit: "10000" }),
  ],
  [
    "RenewObjectLeases of an empty key",
    (client) => client.renewObjectLeases({ log: LOG, keys: ["key", ""] }),
    invalid("keys[1]", { received: "0" }),
  ],
  [
    "RenewObjectLeases of a key of 4,097 bytes",
    (client) => client.renewObjectLeases({ log: LOG, keys: ["k".repeat(4097)] }),
    invalid("keys[0]", { received: "4097", limit: "4096" }),
  ],
  ...[0, -1, YEARS_MS + 1].map(
    (leaseMs) =>
      [
        `RenewObjectLeases for ${leaseMs} ms`,
        (client: OplogClient) => client.renewObjectLeases({ log: LOG, keys: ["key"], lease: ms(leaseMs) }),
        invalid("lease", { received: String(leaseMs), limit: String(YEARS_MS) }),
      ] as const,
  ),
  ...[0n, 2n, 2n ** 64n - 1n].flatMap((term) => [
    [
      `RenewObjectLeases under term ${term}`,
      (client: OplogClient) => client.renewObjectLeases({ log: LOG, keys: ["key"], term }),
      staleTerm(String(term)),
    ] as const,
    [
      `Append under term ${term}`,
      (client: OplogClient) => client.append({ log: LOG, entries: [entry], term }),
      staleTerm(String(term)),
    ] as const,
  ]),
  [
    "Append with a lease beyond ten years",
    (client) => client.append({ log: LOG, entries: [{ ...entry, leaseMs: BigInt(YEARS_MS) + 1n }] }),
    invalid("entries[0].lease_ms", { entry_index: "0", received: String(YEARS_MS + 1), limit: String(YEARS_MS) }),
  ],
  ...[OpType.REMOVE, OpType.PUT_REVOKE, OpType.EVENT].map(
    (opType) =>
      [
        `Append of ${OpType[opType]} with a lease`,
        (client: OplogClient) => client.append({ log: LOG, entries: [{ ...entry, opType, leaseMs: 1n }] }),
        invalid("entries[0].lease_ms", { entry_index: "0" }),
      ] as const,
  ),
];

function outside(field: "ttl" | "ready_timeout" | "alive_within", min: number, max: number) {
  const name = ({ ttl: "ttl", ready_timeout: "readyTimeout", alive_within: "aliveWithin" } as const)[field];
  return [min - 1, max + 1, 0, -min].map((value) => {
    const limits = { received: String(value), min: String(min), limit: String(max) };
    return [
      `${field} of ${value} ms`,
      candidate({ [name]: ms(value) }),
      invalid(`candidate.${field}`, limits),
    ] as const;
  });
}

function candidate(fields: CandidateFields): Buffer {
  return campaignRequest({ case: "candidate", value: { log: LOG, id: "bad", ...(fields as object) } });
}

/** A candidate of these bytes. */
function raw(bytes: readonly number[]): Buffer {
  return Buffer.from([0x0a, bytes.length, ...bytes]);
}
