import type { Clock } from "./clock.js";
import { requireTtl } from "./kv-requests.js";
import { type Lease, LeaseNotFoundError } from "./kv-store.js";

interface Entry {
  readonly ttlMs: number;
  readonly expiresAtMs: number;
}

/**
 * Which leases run, on a monotonic clock. A lease that has run out is gone for its holder at once, though its keys
 * wait for the store to delete them and then to call `remove`.
 */
export class LeaseTable {
  private readonly entries = new Map<bigint, Entry>();

  constructor(private readonly clock: Clock) {}

  grant(leaseId: bigint, ttlMs: number): Lease {
    requireTtl(ttlMs);
    this.entries.set(leaseId, { ttlMs, expiresAtMs: this.clock.monotonicMs() + ttlMs });
    return { leaseId, ttlMs };
  }

  renew(leaseId: bigint): Lease {
    this.requireRunning(leaseId);
    return this.grant(leaseId, this.entries.get(leaseId)!.ttlMs);
  }

  /** Undefined when it has run out. */
  timeLeftMs(leaseId: bigint): number | undefined {
    const entry = this.entries.get(leaseId);
    if (entry === undefined) return undefined;
    const leftMs = Math.ceil(entry.expiresAtMs - this.clock.monotonicMs());
    return leftMs > 0 ? leftMs : undefined;
  }

  requireRunning(leaseId: bigint): void {
    if (this.timeLeftMs(leaseId) === undefined) {
      throw new LeaseNotFoundError(`lease ${leaseId} does not exist; it was revoked or has expired`);
    }
  }

  /** Known, whether it runs or waits for the deletion of its keys. */
  has(leaseId: bigint): boolean {
    return this.entries.has(leaseId);
  }

  remove(leaseId: bigint): void {
    this.entries.delete(leaseId);
  }

  expired(): bigint[] {
    const now = this.clock.monotonicMs();
    return [...this.entries].filter(([, entry]) => entry.expiresAtMs <= now).map(([leaseId]) => leaseId);
  }

  /** Until the next lease runs out; 0 when one has, undefined when there is none. */
  nextExpiryMs(): number | undefined {
    if (this.entries.size === 0) return undefined;
    let next = Number.POSITIVE_INFINITY;
    for (const { expiresAtMs } of this.entries.values()) next = Math.min(next, expiresAtMs);
    return Math.max(0, next - this.clock.monotonicMs());
  }
}
