import { InvalidArgumentError } from "commander";
import type { FollowRequest } from "../client/follow.js";
import { OpType } from "../gen/oplog/v1/entry_pb.js";

const UINT64_MAX = (1n << 64n) - 1n;
const UNIT_MS: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };
const DURATION_MAX_MS = 24 * 3_600_000;

export const OP_TYPES = {
  "put-end": OpType.PUT_END,
  "put-revoke": OpType.PUT_REVOKE,
  remove: OpType.REMOVE,
  event: OpType.EVENT,
} as const;

export type OpName = keyof typeof OP_TYPES;
export const OP_NAMES = Object.keys(OP_TYPES) as OpName[];

export type Start = NonNullable<FollowRequest["start"]>;

export function parseTarget(text: string): string {
  if (text === "") throw new InvalidArgumentError("It must be host:port, host or unix:///path.");
  return text;
}

export function parseUint64(text: string): bigint {
  if (!/^\d{1,20}$/.test(text) || BigInt(text) > UINT64_MAX) {
    throw new InvalidArgumentError("It must be a whole number from 0 to 2^64-1.");
  }
  return BigInt(text);
}

/** As hex or as base64, which is how bytes look in JSON. */
export function parseChain(text: string): Buffer {
  if (/^[0-9a-fA-F]{32}$/.test(text)) return Buffer.from(text, "hex");
  if (/^[A-Za-z0-9+/]{22}==$/.test(text)) return Buffer.from(text, "base64");
  throw new InvalidArgumentError("It must be 16 bytes, as 32 hex digits or 24 characters of base64.");
}

export function parseCount(text: string): number {
  const count = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(count) || count < 1) {
    throw new InvalidArgumentError("It must be a whole number from 1.");
  }
  return count;
}

export function parseDurationMs(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text);
  const ms = match ? Math.round(Number(match[1]) * UNIT_MS[match[2]!]!) : 0;
  if (ms < 1 || ms > DURATION_MAX_MS) {
    throw new InvalidArgumentError("It must be a duration with its unit, up to 24h, like 500ms, 5s or 1m.");
  }
  return ms;
}

/** "remove,event" */
export function parseOps(text: string): OpName[] {
  const names = text.split(",");
  if (!names.every(isOpName)) throw new InvalidArgumentError(`It must be one or more of ${OP_NAMES.join(", ")}.`);
  return names;
}

export function isOpName(text: unknown): text is OpName {
  return OP_NAMES.includes(text as OpName);
}

export function parseStart(text: string): Start {
  if (text === "begin") return { case: "fromBeginning", value: true };
  if (text === "head") return { case: "fromHead", value: true };
  if (/^\d{1,20}$/.test(text) && BigInt(text) >= 1n) return { case: "fromSequenceId", value: parseUint64(text) };
  if (text.startsWith("@")) return { case: "fromTime", value: parseTimestamp(text.slice(1)) };
  if (text.startsWith("cursor:")) return { case: "fromCursor", value: text.slice("cursor:".length) };
  throw new InvalidArgumentError(
    "It must be begin, head, N, @TIME (RFC 3339) or cursor:NAME; -n N is the last N entries.",
  );
}

function parseTimestamp(text: string): { seconds: bigint; nanos: number } {
  const ms = /^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$/.test(text)
    ? Date.parse(text)
    : Number.NaN;
  if (Number.isNaN(ms)) {
    throw new InvalidArgumentError("The time must be RFC 3339, like @2025-01-31T12:00:00Z or with +02:00.");
  }
  const seconds = Math.floor(ms / 1000);
  return { seconds: BigInt(seconds), nanos: (ms - seconds * 1000) * 1_000_000 };
}
