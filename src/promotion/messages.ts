import type { LeaderView } from "../stored/primary.js";

/** Who stands for the leadership of a log, and on what terms: see Candidate in leadership.proto. */
export interface Candidate {
  readonly id: string;
  /** "" = that of the sidecar. */
  readonly endpoint: string;
  readonly ttlMs: number;
  readonly readyTimeoutMs: number;
  readonly needsHandshake: boolean;
  /** Undefined: the candidate does not promise to send anything. */
  readonly aliveWithinMs: number | undefined;
}

/** What a candidate is told. */
export type CampaignMessage =
  /** The leader is undefined where the store tells nothing; `refusal`: what the store says to the candidacy. */
  | { readonly kind: "waiting"; readonly leader: LeaderView | undefined; readonly refusal?: string }
  | { readonly kind: "prepare"; readonly term: bigint; readonly final: FinalEntry; readonly isHandOver: boolean }
  | {
      readonly kind: "leading";
      readonly term: bigint;
      readonly nextSequenceId: bigint;
      readonly logId: Uint8Array;
      readonly times: PromotionTimes;
    }
  /** On the monotonic clock of this process. */
  | { readonly kind: "lease renewed"; readonly validUntilMs: number }
  /** The last one. */
  | { readonly kind: "lost"; readonly lost: Lost };

/** The last entry of the terms before. */
export interface FinalEntry {
  /** 0n = there is none. */
  readonly id: bigint;
  /** In hex; "" = not known. */
  readonly chain: string;
}

export interface PromotionTimes {
  readonly fenceMs: number;
  readonly catchUpMs: number;
  readonly objectLeasesMs: number;
}

/** How a candidacy has ended. */
export interface Lost {
  readonly reason: LostReason;
  readonly message: string;
}

export type LostReason =
  | "expired"
  | "fenced"
  | "resigned"
  | "handed over"
  | "store unreachable"
  | "store replaced"
  | "not ready"
  | "silent";
