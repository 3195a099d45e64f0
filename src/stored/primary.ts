import type { Term } from "../gen/oplog/store/v1/store_pb.js";

/** Who is to be told to those who come to the wrong place. */
export interface Primary {
  readonly owner: string;
  readonly endpoint: string;
  readonly term: bigint;
}

/** Of an elected log without a leader: nobody. */
export function primaryOf(term: Term | undefined, hasLeader: boolean): Primary {
  if (term === undefined) return { owner: "", endpoint: "", term: 0n };
  if (term.elected && !hasLeader) return { owner: "", endpoint: "", term: term.term };
  return { owner: term.owner, endpoint: term.endpoint, term: term.term };
}

export interface LeaderView {
  readonly id: string;
  readonly endpoint: string;
  readonly term: bigint;
}
