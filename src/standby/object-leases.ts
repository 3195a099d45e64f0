import type { Clock } from "../oplog/clock.js";
import { LOG_AHEAD_MS_MAX } from "../oplog/log-time.js";
import { LeaseTime } from "./lease-time.js";
import type { ObjectLease, StandbyState } from "./standby-state.js";

/** What a promotion has fixed for all objects at once. */
export interface Promotion {
  readonly atMs: number;
  /** The last entry that somebody else may have written. */
  readonly sequenceId: number;
}

/** Keys whose REMOVE is on its way into the state. */
interface Removal {
  readonly keys: ReadonlySet<string>;
  /** Infinite until it is durable. */
  readonly lastSequenceId: number;
}

/**
 * The leases of the objects in one state: see "Object leases" in proto/oplog/v1/standby.proto.
 *
 * The state keeps the own lease of each object, from its entry or a renewal here. The leases that a promotion grants follow
 * from the time of the promotion, so granting them costs the same for any number of objects.
 */
export class ObjectLeases {
  private promoted: Promotion | undefined;
  /** Steps of the clock count from a promotion to the next. */
  private time: LeaseTime;
  private removal: Removal = { keys: new Set(), lastSequenceId: 0 };

  constructor(
    private readonly state: StandbyState,
    private readonly clock: Clock,
    /** Undefined: objects have the leases of their entries, and none is ever removed. */
    readonly defaultMs: number | undefined,
  ) {
    this.time = this.newTime();
  }

  /** Unix milliseconds. While this sidecar leads, to be read every now and then: see LeaseTime. */
  get nowMs(): number {
    return this.time.nowMs;
  }

  /** To be called when everything of earlier terms has been applied. */
  promote(): Promotion {
    this.time = this.newTime();
    this.promoted = { atMs: this.nowMs, sequenceId: this.state.applied };
    return this.promoted;
  }

  /** Ends this promotion, unless another has followed. */
  demote(promotion: Promotion | undefined): void {
    if (this.promoted === promotion) this.promoted = undefined;
  }

  /** When the lease ends, Unix milliseconds; 0 = there is none. */
  endOf(lease: ObjectLease): number {
    const { defaultMs } = this;
    if (defaultMs === undefined) return lease.ownLeaseUntilMs;
    const endMs = this.endWithoutSteps(lease, defaultMs);
    return endMs + this.laterMs(lease);
  }

  /** Of the keys, those that are not held. Never shortens a lease. */
  renew(keys: readonly string[], leaseMs: number): string[] {
    const untilMs = Math.ceil(this.nowMs + leaseMs);
    return keys.filter((name) => {
      const key = Buffer.from(name);
      const lease = this.isBeingRemoved(name) ? undefined : this.state.leaseOf(key);
      if (lease === undefined) return true;
      this.state.renewLease(key, Math.max(this.endOf(lease), untilMs) - this.laterMs(lease));
      return false;
    });
  }

  /** From now on these keys cannot be renewed, until `removed` or `removalFailed`: their REMOVE is as good as written. */
  removing(keys: readonly Buffer[]): void {
    this.removal = { keys: new Set(keys.map(String)), lastSequenceId: Number.POSITIVE_INFINITY };
  }

  /** They are durable up to this one; what the state holds of a key once it has got there has come after. */
  removed(lastSequenceId: number): void {
    this.removal = { keys: this.removal.keys, lastSequenceId };
  }

  removalFailed(): void {
    this.removal = { keys: new Set(), lastSequenceId: 0 };
  }

  private endWithoutSteps(
    { sequenceId, timestampMs, ownLeaseUntilMs, isRenewed }: ObjectLease,
    defaultMs: number,
  ): number {
    const { promoted } = this;
    if (promoted !== undefined && sequenceId <= promoted.sequenceId) {
      const anewUntilMs = promoted.atMs + defaultMs;
      // Put while the clock of an earlier leader was far ahead: the lease has its length, and starts at the promotion.
      if (timestampMs - promoted.atMs > LOG_AHEAD_MS_MAX && !isRenewed) {
        return ownLeaseUntilMs === 0 ? anewUntilMs : promoted.atMs + (ownLeaseUntilMs - timestampMs);
      }
      // A renewal may be one of an earlier leadership here, which those that led since then knew nothing of.
      if (isRenewed) return Math.max(ownLeaseUntilMs, anewUntilMs);
      return ownLeaseUntilMs <= promoted.atMs ? anewUntilMs : ownLeaseUntilMs;
    }
    return ownLeaseUntilMs === 0 ? timestampMs + defaultMs : ownLeaseUntilMs;
  }

  private laterMs({ timestampMs }: ObjectLease): number {
    return this.promoted === undefined ? 0 : this.time.laterMs(timestampMs);
  }

  private newTime(): LeaseTime {
    return new LeaseTime(this.clock, () => this.state.timestampMs);
  }

  private isBeingRemoved(key: string): boolean {
    return this.state.applied < this.removal.lastSequenceId && this.removal.keys.has(key);
  }
}
