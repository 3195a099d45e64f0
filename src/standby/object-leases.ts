import type { Clock } from "../oplog/clock.js";
import type { HeldLease, StandbyState } from "./standby-state.js";

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
 * The state keeps the lease that an object has of its own, by its entry or a renewal here; what a promotion grants follows
 * from when it was, so that it costs the same for any number of objects.
 */
export class ObjectLeases {
  private promoted: Promotion | undefined;
  private removal: Removal = { keys: new Set(), lastSequenceId: 0 };

  constructor(
    private readonly state: StandbyState,
    private readonly clock: Clock,
    /** Undefined: objects have the leases of their entries, and none is ever removed. */
    readonly defaultMs: number | undefined,
  ) {}

  /**
   * Unix milliseconds, as the writer stamps entries: a lease lasts as long as it was given for, or longer, by as much as
   * the wall clock goes back meanwhile. It never ends early by that.
   */
  get nowMs(): number {
    return Math.max(this.clock.wallMs(), this.state.timestampMs);
  }

  /** To be called when everything of earlier terms has been applied. */
  promote(): void {
    this.promoted = { atMs: this.nowMs, sequenceId: this.state.applied };
  }

  /** The one that counts at present. */
  get promotion(): Promotion | undefined {
    return this.promoted;
  }

  /** Ends this promotion, unless another has followed. */
  demote(promotion: Promotion | undefined): void {
    if (this.promoted === promotion) this.promoted = undefined;
  }

  /** When the lease ends, Unix milliseconds; 0 = there is none. */
  endOf({ sequenceId, timestampMs, ownLeaseUntilMs }: HeldLease): number {
    const { promoted, defaultMs } = this;
    if (defaultMs === undefined) return ownLeaseUntilMs;
    const isInherited = promoted !== undefined && sequenceId <= promoted.sequenceId;
    if (isInherited && ownLeaseUntilMs <= promoted.atMs) return promoted.atMs + defaultMs;
    return ownLeaseUntilMs === 0 ? timestampMs + defaultMs : ownLeaseUntilMs;
  }

  /** Of the keys, those that are not held. Never shortens a lease. */
  renew(keys: readonly string[], leaseMs: number): string[] {
    const untilMs = Math.ceil(this.nowMs + leaseMs);
    return keys.filter((name) => {
      const key = Buffer.from(name);
      const lease = this.isBeingRemoved(name) ? undefined : this.state.leaseOf(key);
      if (lease === undefined) return true;
      this.state.setLease(key, Math.max(this.endOf(lease), untilMs));
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

  private isBeingRemoved(key: string): boolean {
    return this.state.applied < this.removal.lastSequenceId && this.removal.keys.has(key);
  }
}
