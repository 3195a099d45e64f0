import { beforeEach, expect } from "vitest";
import type { CursorUpdate } from "../../src/cursors/cursor-rules.js";
import type { Log } from "../../src/log/log.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { trim } from "../../src/stored/trim.js";
import { deleteLog } from "../../src/writing/delete-log.js";
import { aLog, appendTo, type LogShape } from "../following/followers.js";
import { FaultyKvStore, type TxnFilter } from "../support/faulty-kv-store.js";
import { anAppend, anIdentity, inTime, keysOf, resolveFromStore, testClock } from "./support.js";

export const keys = keysOf();
export const never = new AbortController().signal;
/** Of the sidecars of one test. */
export let store: FaultyKvStore;

export function useStore(): void {
  beforeEach(() => {
    store = new FaultyKvStore(new MemoryKvStore({ clock: testClock }));
  });
}

export const sidecar = (id: string, shape: LogShape = {}) => aLog(store, { identity: anIdentity(id), ...shape });
export const at = (applied: bigint, consumer = "c"): CursorUpdate => ({
  consumer,
  received: applied,
  flushed: applied,
  applied,
  stateHash: Buffer.alloc(0),
  appliedChain: "",
  isRewindAllowed: false,
});

export async function stored(): Promise<string[]> {
  const { pairs } = await store.page({ from: keys.allFrom, to: keys.allTo, limit: 10_000, bytesMax: 1e9 });
  return pairs.map(({ key }) => key);
}

export async function logIdIn(log: Log): Promise<Uint8Array> {
  const state = await inTime(log.observe());
  if (typeof state === "string") throw new Error(state);
  return state.logId;
}

/** A log of so many entries, a record each. */
export async function aLogOf(records: number, log: Log): Promise<Uint8Array> {
  for (let each = 1; each <= records; each++) await appendTo(log, anAppend().of(1).by("w", BigInt(each)));
  return logIdIn(log);
}

/** The same, with a cursor, a barrier and a floor. */
export async function aUsedLog(log: Log): Promise<Uint8Array> {
  const logId = await aLogOf(5, log);
  await inTime(log.updateCursor(at(1n)));
  await inTime(resolveFromStore(store, keys, "x", 7n));
  await trim(store, keys, 3n);
  return logId;
}

/** Picks the transactions that put this key. */
export function isPutOf(key: string): TxnFilter {
  return ({ writes }) => writes.some((write) => write.kind === "put" && write.key === key);
}

/** Reads that etcd could answer from the past with, as of now. */
export async function thePresent(...names: string[]): Promise<(count: number) => void> {
  const answers = await Promise.all(names.map(async (key) => ({ key, answer: await store.get(key) })));
  return (count) => {
    for (const { key, answer } of answers) store.answerFromPast(key, answer, count);
  };
}

/** Deletes as a sidecar does that dies after so many transactions of it. */
export async function dieAfter(txns: number, logId: Uint8Array): Promise<void> {
  // A follower may compare the head meanwhile.
  const isStep: TxnFilter = ({ writes }) => !writes.every((write) => "key" in write && write.key === keys.nothing);
  store.passNextTxns(txns, isStep);
  store.failNextTxns(1, isStep);
  await expect(inTime(deleteLog(store, keys, logId, never))).rejects.toThrow("lost on its way");
}
