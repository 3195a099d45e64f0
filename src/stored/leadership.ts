import {
  type LeaderLease,
  LeaderLeaseSchema,
  type Successor,
  SuccessorSchema,
  type Term,
} from "../gen/oplog/store/v1/store_pb.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KvStore } from "../oplog/kv-store.js";
import { decodeState, decodeTerm } from "./decode.js";
import { type LeaderView, primaryOf } from "./primary.js";

/** Who leads a log, as the store tells. The three keys are read one by one: decisions compare their revisions later. */
export interface Leadership {
  readonly term: Term | undefined;
  readonly termRevision: bigint;
  /** Of an elected log: who holds the lease. Undefined = vacant. */
  readonly leader: LeaderLease | undefined;
  readonly leaderRevision: bigint;
  readonly leaderLeaseId: bigint;
  /** Whom the leader invites to take over. */
  readonly successor: Successor | undefined;
  readonly successorRevision: bigint;
  /** Everything up to this revision has been seen. */
  readonly revision: bigint;
}

export async function readLeadership(store: KvStore, keys: LogKeys): Promise<Leadership> {
  const [term, leader, successor] = await Promise.all([
    store.get(keys.term),
    store.get(keys.leader),
    store.get(keys.successor),
  ]);
  return {
    term: decodeTerm(term.pair),
    termRevision: term.pair?.modRevision ?? 0n,
    leader: leader.pair && decodeState(LeaderLeaseSchema, leader.pair),
    leaderRevision: leader.pair?.modRevision ?? 0n,
    leaderLeaseId: leader.pair?.leaseId ?? 0n,
    successor: successor.pair && decodeState(SuccessorSchema, successor.pair),
    successorRevision: successor.pair?.modRevision ?? 0n,
    revision: [leader.revision, successor.revision].reduce((a, b) => (b < a ? b : a), term.revision),
  };
}

/**
 * Whether the store has term, leader and successor as they were read. A read may be answered from the past (etcd #20418),
 * so nobody gives up on one alone: a transaction compares. It also deletes a key that never exists, for without a write
 * it would be a read too.
 */
export async function isCurrent(
  store: KvStore,
  keys: LogKeys,
  seen: Pick<Leadership, "termRevision" | "leaderRevision" | "successorRevision">,
): Promise<boolean> {
  const { succeeded } = await store.txn({
    compares: [
      { key: keys.term, modRevision: seen.termRevision },
      { key: keys.leader, modRevision: seen.leaderRevision },
      { key: keys.successor, modRevision: seen.successorRevision },
    ],
    writes: [{ kind: "delete", key: keys.nothing }],
  });
  return succeeded;
}

/** The leader to name to clients that come to another sidecar. */
export async function readPrimary(store: KvStore, keys: LogKeys): Promise<LeaderView> {
  const [term, leader] = await Promise.all([store.get(keys.term), store.get(keys.leader)]);
  return primaryOf(decodeTerm(term.pair), leader.pair !== undefined);
}

/** Term and leader are read one by one: the higher one tells. */
export function primaryIn({ term, leader }: Leadership): LeaderView {
  const isNewer = leader !== undefined && leader.term > (term?.term ?? 0n);
  return isNewer
    ? { id: leader.id, endpoint: leader.endpoint, term: leader.term }
    : primaryOf(term, leader !== undefined);
}
