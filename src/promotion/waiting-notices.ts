import type { Log } from "../log/log.js";
import { type StoreError, StoreRefusedError } from "../oplog/kv-store.js";
import type { Logger } from "../oplog/logger.js";
import type { Leadership } from "../stored/leadership.js";
import { primaryOf } from "../stored/primary.js";
import { requireNotLost } from "../stored/store-failures.js";
import type { CampaignMessage, Candidate } from "./messages.js";

export interface WaitingParts {
  readonly log: Log;
  readonly logger: Logger;
  readonly candidate: Candidate;
  readonly send: (message: CampaignMessage) => boolean;
}

/** What a candidate is told while it waits: whom for, or what the store refuses; each thing once. */
export class WaitingNotices {
  private told: string | undefined;
  /** By the store, since the leadership was looked at last. */
  private isRefused = false;

  constructor(private readonly parts: WaitingParts) {}

  looked(): void {
    this.isRefused = false;
  }

  waits({ term, leader }: Leadership): void {
    if (this.isRefused) return;
    const primary = primaryOf(term, leader !== undefined);
    const told = `${primary.term} ${primary.id}`;
    if (this.told !== told && this.parts.send({ kind: "waiting", leader: primary })) this.told = told;
  }

  /** It was its turn, and it waits again: it is told so again. */
  waitsAgain(): void {
    if (!this.isRefused) this.told = undefined;
  }

  /**
   * A refusal lasts until somebody acts, and is told at once; a store that does not answer may soon do so. Throws
   * StoreLostError: what is lost does not come back.
   */
  failed(error: StoreError): void {
    const { log, candidate, logger, send } = this.parts;
    requireNotLost(error);
    if (!(error instanceof StoreRefusedError)) return;
    const refusal = error.message;
    this.isRefused = true;
    if (this.told === refusal) return;
    const facts = { event: "campaign_refused", log: log.name, candidate: candidate.id, refusal };
    logger.warn(facts, "the store refuses what the candidacy needs; trying again until it does not");
    if (send({ kind: "waiting", leader: undefined, refusal })) this.told = refusal;
  }
}
