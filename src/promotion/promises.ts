import type { Clock } from "../oplog/clock.js";
import { sleep } from "../oplog/timing.js";
import type { Claim } from "../writing/claim.js";
import type { CampaignLife } from "./campaign-life.js";
import type { LeaseKeeper } from "./lease-keeper.js";
import type { CampaignMessage, PromotionTimes } from "./messages.js";

/** What a leading candidate is told, and what it may rely on because of that. */
export class Promises {
  /** On the monotonic clock. */
  private relied = 0;
  /** That it leads, while it does not take that: until then it is promised nothing. */
  private untold: CampaignMessage | undefined;

  constructor(
    private readonly clock: Clock,
    private readonly send: (message: CampaignMessage) => boolean,
  ) {}

  /** Lets what was promised run out, if the state says that it has to. */
  async outlast(life: CampaignLife): Promise<void> {
    if (life.kind !== "outlasting") return;
    await sleep(this.clock, this.leftMs, life.during("outlasting"));
    life.take({ kind: "settled" });
  }

  lead({ head, term }: Claim, keeper: LeaseKeeper, times: PromotionTimes): void {
    this.untold = { kind: "leading", term, nextSequenceId: head.lastSequenceId + 1n, logId: head.logId, times };
    this.renew(keeper);
  }

  renew({ validUntilMs }: LeaseKeeper): void {
    if (this.untold !== undefined && !this.send(this.untold)) return;
    this.untold = undefined;
    if (validUntilMs - this.clock.monotonicMs() < 1) return;
    if (this.send({ kind: "lease renewed", validUntilMs })) this.relied = validUntilMs;
  }

  /** For how long from now the candidate relies on it that nobody else leads. */
  private get leftMs(): number {
    return Math.max(0, this.relied - this.clock.monotonicMs());
  }
}
