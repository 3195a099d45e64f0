import type { Clock } from "../oplog/clock.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KvStore } from "../oplog/kv-store.js";
import { readCursors, type StoredCursor } from "./cursors.js";
import { decodeHead } from "./decode.js";
import { readFloor } from "./history.js";
import { readLeadership } from "./leadership.js";
import type { LeaderView } from "./primary.js";

/** A log as the store had it at one time, or as it is known while the store is away. */
export interface LogState {
  readonly logId: Uint8Array;
  readonly head: bigint;
  readonly floor: bigint;
  readonly leader: LeaderView;
  /** Of an elected log: nobody leads, and `leader` was the last one. */
  readonly isVacant: boolean;
  /** Undefined where leadership is not leased, and always while the store is away: it says nothing of a later time. */
  readonly leaseLeftMs: number | undefined;
  readonly cursors: readonly StoredCursor[];
  /** When all of this was read from the store. Undefined: it never was. */
  readonly observedWallMs: number | undefined;
}

/** Rejects with StoreError. */
export async function readLogState(store: KvStore, keys: LogKeys, clock: Clock): Promise<LogState | "missing"> {
  const [head, leadership, floor, cursors] = await Promise.all([
    store.get(keys.head),
    readLeadership(store, keys),
    readFloor(store, keys),
    readCursors(store, keys),
  ]);
  if (head.pair === undefined) return "missing";
  const { logId, lastSequenceId } = decodeHead(head.pair);
  const { term: owner, leader, leaderLeaseId } = leadership;
  return {
    logId,
    head: lastSequenceId,
    floor: floor.sequenceId,
    leader: { id: owner?.owner ?? "", endpoint: owner?.endpoint ?? "", term: owner?.term ?? 0n },
    isVacant: owner?.elected === true && leader === undefined,
    leaseLeftMs: leader && (await store.leaseTimeLeft(leaderLeaseId)),
    cursors: cursors.cursors,
    observedWallMs: clock.wallMs(),
  };
}
