import { type LeaderLease, LeadershipEndSchema } from "../gen/oplog/store/v1/store_pb.js";
import type { Clock } from "../oplog/clock.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KvStore } from "../oplog/kv-store.js";
import type { Logger } from "../oplog/logger.js";
import { decodeState } from "../stored/decode.js";
import type { Leadership } from "../stored/leadership.js";
import { unlessStoreFails } from "./store-answers.js";

export interface VacancyParts {
  readonly store: KvStore;
  readonly keys: LogKeys;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Who waits. */
  readonly candidate: string;
}

const RAN_OUT = "its lease ran out: its sidecar died, stood still, or could not reach the store";

/** Whoever waits leaves in the log of the sidecar who led before, how that ended, and for how long nobody led. */
export class Vacancy {
  private last: LeaderLease | undefined;
  private sinceMs: number | undefined;

  constructor(private readonly parts: VacancyParts) {}

  /** To be called with each look at the leadership, while another one leads or nobody does. */
  note({ leader }: Leadership): void {
    if (leader !== undefined) {
      this.last = leader;
      this.sinceMs = undefined;
    } else if (this.last !== undefined && this.sinceMs === undefined) {
      this.sinceMs = this.parts.clock.monotonicMs();
      // Beside the claim, which must not wait for it. A defect in what is stored shows to whoever needs it.
      this.tell(this.last).catch(() => undefined);
    }
  }

  /** Of whoever led before, for the line that tells who leads now. */
  get facts(): object {
    if (this.last === undefined) return {};
    const vacantMs = this.sinceMs === undefined ? 0 : Math.round(this.parts.clock.monotonicMs() - this.sinceMs);
    return { after: this.last.id, afterTerm: String(this.last.term), vacantMs };
  }

  private async tell({ id, endpoint, term }: LeaderLease): Promise<void> {
    const { store, keys, logger, candidate } = this.parts;
    const read = await unlessStoreFails(() => store.get(keys.ended), undefined);
    const end = read?.pair && decodeState(LeadershipEndSchema, read.pair);
    const isPlanned = end !== undefined && end.term === term && end.id === id;
    const because = isPlanned ? end.reason : RAN_OUT;
    const facts = { event: "leader_gone", log: keys.log, candidate, leader: id, endpoint, term: String(term), because };
    logger[isPlanned ? "info" : "warn"](facts, `"${id}" leads term ${term} no more: ${because}`);
  }
}
