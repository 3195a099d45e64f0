import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import type { SentEntry } from "../support/history.js";
import type { CandidateEvent, CandidatePlan } from "./candidate.js";

/** What a master process is started with. */
export interface MasterPlan extends CandidatePlan {
  readonly target: string;
  /** Of this process alone. */
  readonly writerId: string;
  readonly everyMs: number;
  /** It tries to append while it does not lead, too. */
  readonly appendsAsStandby: boolean;
  /** Of each attempt. */
  readonly deadlineMs: number;
}

/** One line of its output. */
export type MasterReport =
  | CandidateEvent
  | { readonly kind: "sent"; readonly operation: number }
  | {
      readonly kind: "acknowledged";
      readonly operation: number;
      readonly first: number;
      readonly last: number;
      readonly term: number;
      /** Of the attempt that was answered. */
      readonly sentMs: number;
      readonly atMs: number;
    }
  | {
      readonly kind: "failed";
      readonly operation: number;
      readonly reason: string;
      /** This attempt or an earlier one may have been written. */
      readonly isInDoubt: boolean;
      readonly atMs: number;
    }
  /** No append is under way, and none will be until it is told to go on. */
  | { readonly kind: "held" };

/** Keys come again, so that there is a state to compare; contents do not. */
export function entryOf(writerId: string, operation: number): SentEntry {
  const key = `key ${operation % 100}`;
  return { opType: OpType.PUT_END, key, payload: Buffer.from(`${writerId} operation ${operation}`) };
}
