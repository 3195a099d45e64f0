import type { Clock } from "../oplog/clock.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KvStore } from "../oplog/kv-store.js";
import { DataLossError } from "../oplog/log-errors.js";
import { chainOf } from "../oplog/record.js";
import { type DamagedCursor, readCursors, type StoredCursor } from "./cursors.js";
import { decodeHead } from "./decode.js";
import { isBeingDeleted } from "./deletion.js";
import { readFloor } from "./history.js";
import { readLeadership } from "./leadership.js";
import { claimantOf, type LeaderView, NOBODY } from "./primary.js";

/** A log as the store had it at one time, or as it is known while the store is away. */
export interface LogState {
  readonly logId: Uint8Array;
  readonly head: bigint;
  /** "" = not known. */
  readonly headChain: string;
  readonly floor: bigint;
  readonly leader: LeaderView;
  /** Of an elected log: nobody leads, and `leader` was the last one. */
  readonly isVacant: boolean;
  /** Undefined where leadership is not leased, and always while the store is away: it says nothing of a later time. */
  readonly leaseLeftMs: number | undefined;
  readonly cursors: readonly StoredCursor[];
  readonly damagedCursors: readonly DamagedCursor[];
  /** DeleteLog has begun: nobody reads or writes it any more. */
  readonly isDeleting: boolean;
  /** What of the log is damaged in the store, each with its key. The state is that of a log without it. */
  readonly problems: readonly string[];
  /** When all of this was read from the store. Undefined: it never was. */
  readonly observedWallMs: number | undefined;
}

/** Rejects with StoreError. Of a damaged value only its own part of the state is missing. */
export async function readLogState(store: KvStore, keys: LogKeys, clock: Clock): Promise<LogState | "missing"> {
  const problems: string[] = [];
  const tolerant = async <T>(reading: Promise<T>): Promise<T | undefined> => {
    try {
      return await reading;
    } catch (error) {
      if (!(error instanceof DataLossError)) throw error;
      problems.push(error.message);
      return undefined;
    }
  };
  // First: no cursor is beyond the head of its time, so none is beyond a head that is read after it.
  const cursors = await readCursors(store, keys);
  const [head, leadership, floor] = await Promise.all([
    tolerant(store.get(keys.head).then(({ pair }) => (pair === undefined ? "missing" : decodeHead(pair)))),
    tolerant(readLeadership(store, keys)),
    tolerant(readFloor(store, keys)),
  ]);
  if (head === "missing") return head;
  const term = leadership?.term;
  const leader = leadership?.leader;
  return {
    logId: head?.logId ?? new Uint8Array(),
    head: head?.lastSequenceId ?? 0n,
    headChain: head === undefined ? "" : chainOf(head.recordNonce),
    floor: floor?.sequenceId ?? 1n,
    leader: term === undefined ? NOBODY : claimantOf(term),
    isVacant: term?.elected === true && leader === undefined,
    leaseLeftMs: leadership && leader && (await store.leaseTimeLeft(leadership.leaderLeaseId)),
    cursors: cursors.cursors,
    damagedCursors: cursors.damaged,
    isDeleting: head !== undefined && isBeingDeleted(head, term),
    problems,
    observedWallMs: clock.wallMs(),
  };
}
