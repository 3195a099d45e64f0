import { RENEW_MS_MIN, renewEveryMs, validForMs, validUntilMs } from "../leadership/lease.js";
import type { Clock } from "../oplog/clock.js";
import {
  type KvStore,
  LeaseNotFoundError,
  StoreDataLossError,
  StoreError,
  StoreReplacedError,
} from "../oplog/kv-store.js";
import { StoreLostError } from "../oplog/store-errors.js";
import { Change, sleep } from "../oplog/timing.js";

/** Why a lease can no longer be relied on. */
export type LeaseLoss = "expired" | "store unreachable";

const UNANSWERED_MAX = 8;
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
  private readonly changed = new Change();
  private untilMs: number;
  private renewAtMs: number;
  /** Renewals under way. */
  private unanswered = 0;
  /** A renewal, since the last one that counts. */
  private hasFailed = false;
  /** The store that answered last was another one. */
  replaced: StoreReplacedError | undefined;
  private storeLost: StoreLostError | undefined;
  private defect: unknown;

  private constructor(
    private readonly store: KvStore,
    private readonly clock: Clock,
    readonly leaseId: bigint,
    /** As the store granted it. */
    readonly ttlMs: number,
    grantSentMs: number,
    /** How long the last answer took. */
    private answerMs: number,
  ) {
    this.untilMs = validUntilMs(grantSentMs, ttlMs);
    this.renewAtMs = grantSentMs + renewEveryMs(ttlMs, answerMs);
  }

  /** Rejects with StoreError. */
  static async grant(store: KvStore, clock: Clock, ttlMs: number): Promise<LeaseKeeper> {
    const sentMs = clock.monotonicMs();
    const lease = await store.grantLease(ttlMs, { deadlineMs: Math.max(DEADLINE_MS_MIN, ttlMs) });
    return new LeaseKeeper(store, clock, lease.leaseId, lease.ttlMs, sentMs, clock.monotonicMs() - sentMs);
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

  /** Renews until the lease is lost, or closed. Rejects with a defect. */
  async run(onRenewed: () => void): Promise<void> {
    const { clock, closing, changed } = this;
    for (;;) {
      const { version } = changed;
      if (closing.signal.aborted || this.isOver()) return;
      const mayRenew = this.unanswered < UNANSWERED_MAX;
      if (mayRenew && this.renewAtMs <= clock.monotonicMs()) void this.renew(onRenewed);
      const actAtMs = mayRenew ? Math.min(this.renewAtMs, this.untilMs) : this.untilMs;
      await changed.waitAtMost(clock, actAtMs - clock.monotonicMs(), version, closing.signal);
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

  private isOver(): boolean {
    if (this.defect !== undefined) throw this.defect;
    if (this.lost.aborted) return true;
    if (this.leftMs > 0) return false;
    // Without a renewal that failed or has no answer, this process stood still.
    this.lose(this.unanswered > 0 || this.hasFailed ? "store unreachable" : "expired");
    return true;
  }

  /** Others may be under way: an answer counts however late it is, as long as the lease is still good by then. */
  private async renew(onRenewed: () => void): Promise<void> {
    const { store, clock, leaseId, ttlMs, closing } = this;
    const sentMs = clock.monotonicMs();
    this.renewAtMs = sentMs + renewEveryMs(ttlMs, this.answerMs);
    this.unanswered++;
    try {
      const lease = await store.keepLeaseAlive(leaseId, { deadlineMs: validForMs(ttlMs) });
      this.answerMs = clock.monotonicMs() - sentMs;
      const untilMs = validUntilMs(sentMs, lease.ttlMs);
      const isOver = closing.signal.aborted || this.lost.aborted || this.leftMs <= 0;
      if (isOver || untilMs <= this.untilMs) return;
      this.untilMs = untilMs;
      this.hasFailed = false;
      this.replaced = undefined;
      onRenewed();
    } catch (error) {
      if (!closing.signal.aborted) this.noteFailure(error);
    } finally {
      this.unanswered--;
      this.changed.notify();
    }
  }

  private noteFailure(error: unknown): void {
    this.hasFailed = true;
    this.renewAtMs = Math.min(this.renewAtMs, this.clock.monotonicMs() + RENEW_MS_MIN);
    if (error instanceof StoreReplacedError) this.replaced = error;
    if (error instanceof LeaseNotFoundError) this.lose("expired");
    else if (error instanceof StoreDataLossError) {
      this.storeLost = new StoreLostError(error.message);
      this.lose("store unreachable");
    } else if (!(error instanceof StoreError)) {
      this.defect = error;
      this.lose("store unreachable");
    }
  }

  private lose(loss: LeaseLoss): void {
    this.lostController.abort(loss);
  }
}
