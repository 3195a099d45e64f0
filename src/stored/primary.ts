import type { Term } from "../gen/oplog/store/v1/store_pb.js";

/** Who leads, as people and clients are told. An empty id: nobody leads, or nobody was named. */
export interface LeaderView {
  readonly id: string;
  readonly endpoint: string;
  readonly term: bigint;
}

export const NOBODY: LeaderView = { id: "", endpoint: "", term: 0n };

export function claimantOf({ owner, endpoint, term }: Term): LeaderView {
  return { id: owner, endpoint, term };
}

/** Of an elected log without a leader: nobody. */
export function primaryOf(term: Term | undefined, hasLeader: boolean): LeaderView {
  if (term === undefined) return NOBODY;
  return term.elected && !hasLeader ? { ...NOBODY, term: term.term } : claimantOf(term);
}
