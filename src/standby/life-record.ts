import type { Clock } from "../oplog/clock.js";
import type { Logger } from "../oplog/logger.js";
import {
  BEGINNING,
  type LifeEvent,
  type LifeState,
  next,
  type Phase,
  reasonOf,
  type Sight,
  seen,
} from "./life-cycle.js";

export interface PhaseChange {
  readonly from: Phase;
  readonly to: Phase;
  readonly atWallMs: number;
  readonly applied: bigint;
  readonly head: bigint;
  readonly reason: string;
}

export interface LifeRecordParts {
  readonly log: string;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly heartbeatMs: number;
  readonly sight: () => Sight;
  /** Told at first, with no `from`, and of each change that is recorded. */
  readonly onPhase: (to: Phase, from?: Phase) => void;
}

export const CHANGES_MAX = 64;
/**
 * Each follower of a busy log is behind now and then, for milliseconds. The phase shows that; it is recorded only if the view
 * has been behind for this long.
 */
const BEHIND_MS_MIN = 1000;

/** The state of a view's life, which depends on time as well: true whenever it is asked for. */
export class LifeRecord {
  private state: LifeState = BEGINNING;
  private recorded: Phase = BEGINNING.kind;
  /** From following to catching up, and not recorded yet. */
  private pending: { readonly change: Omit<PhaseChange, "from">; readonly dueMs: number } | undefined;
  private readonly changesNow: PhaseChange[] = [];

  constructor(private readonly parts: LifeRecordParts) {
    parts.onPhase(this.recorded);
  }

  get now(): LifeState {
    this.look();
    return this.state;
  }

  /** The newest ones, oldest first. */
  get changes(): readonly PhaseChange[] {
    return this.changesNow;
  }

  /** Call it now and then, for the record to be right although nobody asks. */
  look(): void {
    this.take(seen(this.parts.sight(), this.parts.heartbeatMs));
    if (this.pending !== undefined && this.parts.clock.monotonicMs() >= this.pending.dueMs) {
      this.record(this.pending.change);
    }
  }

  take(event: LifeEvent): void {
    const from = this.state.kind;
    this.state = next(this.state, event);
    const to = this.state.kind;
    if (to === from) return;
    const { clock, sight } = this.parts;
    const { applied, head } = sight();
    const change = { to, atWallMs: clock.wallMs(), applied, head, reason: reasonOf(from, event) };
    if (to === this.recorded) this.pending = undefined;
    else if (this.recorded === "following" && to === "catching up") {
      this.pending = { change, dueMs: clock.monotonicMs() + BEHIND_MS_MIN };
    } else this.record(change);
  }

  private record({ to, ...facts }: Omit<PhaseChange, "from">): void {
    const { log, logger, onPhase } = this.parts;
    const change: PhaseChange = { from: this.recorded, to, ...facts };
    this.pending = undefined;
    this.recorded = to;
    this.changesNow.push(change);
    if (this.changesNow.length > CHANGES_MAX) this.changesNow.shift();
    onPhase(to, change.from);
    const { from, applied, head, reason } = change;
    logger.info(
      { event: "standby_phase", log, from, to, applied: String(applied), head: String(head), reason },
      `the view of "${log}" is ${to}: ${reason}`,
    );
  }
}
