import type { LeaseTable } from "../../oplog/lease-table.js";
import type { Logger } from "../../oplog/logger.js";

/** After a deletion that failed. */
const RETRY_MS = 1_000;
/** Beyond this, setTimeout fires at once. */
const TIMER_MS_MAX = 2 ** 31 - 1;

/** Ends each lease when it has run out. A lease that was renewed meanwhile is left alone. */
export class LeaseExpiry {
  private timer: NodeJS.Timeout | undefined;
  private isStopped = false;
  private isBusy = false;

  constructor(
    private readonly leases: LeaseTable,
    private readonly end: (leaseId: bigint) => Promise<void>,
    private readonly logger: Logger,
  ) {}

  /** To be called when a lease was added. */
  schedule(): void {
    if (!this.isBusy) this.wakeIn(this.leases.nextExpiryMs());
  }

  stop(): void {
    this.isStopped = true;
    clearTimeout(this.timer);
  }

  private wakeIn(delayMs: number | undefined): void {
    clearTimeout(this.timer);
    if (this.isStopped || delayMs === undefined) return;
    this.timer = setTimeout(() => this.endExpired(), Math.min(Math.ceil(delayMs), TIMER_MS_MAX));
    this.timer.unref();
  }

  private async endExpired(): Promise<void> {
    this.isBusy = true;
    const results = await Promise.allSettled(this.leases.expired().map((leaseId) => this.end(leaseId)));
    this.isBusy = false;
    const failure = results.find((result) => result.status === "rejected");
    if (failure !== undefined && !this.isStopped) {
      this.logger.warn({ err: failure.reason }, `cannot end an expired lease, trying again in ${RETRY_MS} ms`);
    }
    this.wakeIn(failure === undefined ? this.leases.nextExpiryMs() : RETRY_MS);
  }
}
