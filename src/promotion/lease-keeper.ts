import { renewEveryMs, validUntilMs } from "../leadership/lease.js";
import type { Clock } from "../oplog/clock.js";
import { type KvStore, LeaseNotFoundError, StoreDataLossError, StoreError } from "../oplog/kv-store.js";
import { StoreLostError } from "../oplog/store-errors.js";
import { linkSignals, sleep } from "../oplog/timing.js";

/** Why a lease can no longer be relied on. */
export type LeaseLoss = "expired" | "store unreachable";

const RETRY_MS = 100;
const DEADLINE_MS_MIN = 100;
const REVOKE_MS = 1000;

/**
 * Keeps one lease of the store alive. By this machine's monotonic clock, the lease counts as lost before it can have run out
 * in the store. From then on nobody may act on it, whatever the store says later.
 */
export class LeaseKeeper {
  private readonly lostController = new AbortController();
  private readonly closing = new AbortController();
  private untilMs: number;
  private storeLost: StoreLostError | undefined;

  private constructor(
    private readonly store: KvStore,
    private readonly clock: Clock,
    readonly leaseId: bigint,
    /** As the store granted it. */
    readonly ttlMs: number,
    grantSentMs: number,
  ) {
    this.untilMs = validUntilMs(grantSentMs, ttlMs);
  }

  /** Rejects with StoreError. */
  static async grant(store: KvStore, clock: Clock, ttlMs: number): Promise<LeaseKeeper> {
    const sentMs = clock.monotonicMs();
    const lease = await store.grantLease(ttlMs, { deadlineMs: Math.max(DEADLINE_MS_MIN, ttlMs) });
    return new LeaseKeeper(store, clock, lease.leaseId, lease.ttlMs, sentMs);
  }

  /** Aborts with a LeaseLoss. */
  get lost(): AbortSignal {
    return this.lostController.signal;
  }

  /** On the monotonic clock. */
  get validUntilMs(): number {
    return this.untilMs;
  }

  /** Throws StoreLostError: the lease went with the data of the store. */
  requireStore(): void {
    if (this.storeLost !== undefined) throw this.storeLost;
  }

  /** Renews until the lease is lost, or closed. */
  async run(onRenewed: () => void): Promise<void> {
    const { closing, ttlMs } = this;
    let waitMs = renewEveryMs(ttlMs);
    for (;;) {
      await sleep(this.clock, Math.min(waitMs, this.leftMs), closing.signal);
      if (closing.signal.aborted) return;
      // It is too late although no attempt failed: this process stood still.
      if (this.leftMs <= 0) return this.lose(waitMs === RETRY_MS ? "store unreachable" : "expired");
      try {
        const isRenewed = await this.renew();
        if (closing.signal.aborted) return;
        waitMs = isRenewed ? renewEveryMs(ttlMs) : RETRY_MS;
        if (isRenewed) onRenewed();
      } catch (error) {
        if (error instanceof LeaseNotFoundError) return this.lose("expired");
        if (error instanceof StoreDataLossError) {
          this.storeLost = new StoreLostError(error.message);
          return this.lose("store unreachable");
        }
        if (!(error instanceof StoreError)) {
          this.lose("store unreachable");
          throw error;
        }
        waitMs = RETRY_MS;
      }
    }
  }

  /**
   * Gives the lease up; its keys are deleted. Tries for one TTL, by when it has run out in a store that was there; one that
   * comes back may have started it anew.
   */
  async close(): Promise<void> {
    this.closing.abort();
    const endMs = this.clock.monotonicMs() + this.ttlMs;
    for (;;) {
      const leftMs = endMs - this.clock.monotonicMs();
      if (leftMs <= 0) return;
      try {
        await this.store.revokeLease(this.leaseId, {
          deadlineMs: Math.max(DEADLINE_MS_MIN, Math.min(leftMs, REVOKE_MS)),
        });
        return;
      } catch (error) {
        if (!(error instanceof StoreError)) throw error;
        if (error instanceof StoreDataLossError) return;
      }
      await sleep(this.clock, RETRY_MS);
    }
  }

  private get leftMs(): number {
    return this.untilMs - this.clock.monotonicMs();
  }

  /** False: no answer while the lease was still good. One that comes later does not count. */
  private async renew(): Promise<boolean> {
    const { store, clock, leaseId, ttlMs, closing } = this;
    const sentMs = clock.monotonicMs();
    const deadlineMs = Math.max(DEADLINE_MS_MIN, Math.min(renewEveryMs(ttlMs), this.leftMs));
    const answered = new AbortController();
    const { signal, unlink } = linkSignals(closing.signal, answered.signal);
    try {
      const renewal = store.keepLeaseAlive(leaseId, { deadlineMs });
      const lease = await Promise.race([renewal, sleep(clock, this.leftMs, signal)]);
      if (lease === undefined || this.leftMs <= 0) return false;
      this.untilMs = validUntilMs(sentMs, lease.ttlMs);
      return true;
    } finally {
      answered.abort();
      unlink();
    }
  }

  private lose(loss: LeaseLoss): void {
    this.lostController.abort(loss);
  }
}
