import type { Clock } from "../oplog/clock.js";
import type { Logger } from "../oplog/logger.js";
import { STATE_HASH_BYTES } from "./state-hash.js";

/** A consumer whose state is not that of the view at the same entry. Which of the two is wrong, nobody can tell from here. */
export interface Divergence {
  readonly consumer: string;
  readonly sequenceId: number;
  /** In hex, like the next one. */
  readonly theirs: string;
  readonly ours: string;
  readonly atWallMs: number;
}

export interface HashComparisonParts {
  readonly log: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** How many consumers diverge now. */
  readonly onChanged: (diverged: number) => void;
}

const RECENT_MAX = 256;
const AWAITED_MAX = 1000;
const DIVERGED_MAX = 1000;

/**
 * Compares the state hashes that consumers report with those of the view, at equal entries: entries that the view has not
 * applied yet, and the ends of the newest batches. A hash of another length is not compared.
 */
export class HashComparison {
  private readonly byConsumer = new Map<string, Divergence>();
  /** The newest one of each consumer that is ahead of the view. */
  private readonly awaited = new Map<string, { readonly sequenceId: number; readonly hash: Uint8Array }>();
  /** Ends of batches; the newest last. Kept once somebody reports. */
  private readonly recent = new Map<number, Buffer>();
  /** The least that is awaited. */
  nextAwaited = Number.POSITIVE_INFINITY;
  private isUsed = false;

  constructor(private readonly parts: HashComparisonParts) {}

  get divergences(): readonly Divergence[] {
    return [...this.byConsumer.values()];
  }

  /** What the consumer says its state at that entry is. `state`: as it is now. */
  report(consumer: string, sequenceId: number, hash: Uint8Array, state: AppliedState): void {
    if (hash.length !== STATE_HASH_BYTES || sequenceId === 0) return;
    const isFirst = !this.isUsed;
    this.isUsed = true;
    if (isFirst) this.noteBatch(state);
    this.awaited.delete(consumer);
    if (sequenceId > state.applied) {
      if (this.awaited.size < AWAITED_MAX) this.awaited.set(consumer, { sequenceId, hash });
    } else {
      const ours = sequenceId === state.applied ? state.stateHash : this.recent.get(sequenceId);
      if (ours !== undefined) this.compare(consumer, sequenceId, hash, ours);
    }
    this.findNext();
  }

  /** `nextAwaited` has just been applied, and nothing after it. */
  reached(state: AppliedState): void {
    const ours = state.stateHash;
    for (const [consumer, { sequenceId, hash }] of this.awaited) {
      if (sequenceId > state.applied) continue;
      this.awaited.delete(consumer);
      if (sequenceId === state.applied) this.compare(consumer, sequenceId, hash, ours);
    }
    this.findNext();
  }

  /** A batch has been applied. */
  noteBatch(state: AppliedState): void {
    if (!this.isUsed) return;
    this.recent.set(state.applied, state.stateHash);
    for (const oldest of this.recent.keys()) {
      if (this.recent.size <= RECENT_MAX) break;
      this.recent.delete(oldest);
    }
  }

  private findNext(): void {
    this.nextAwaited = Number.POSITIVE_INFINITY;
    for (const { sequenceId } of this.awaited.values()) this.nextAwaited = Math.min(this.nextAwaited, sequenceId);
  }

  private compare(consumer: string, sequenceId: number, hash: Uint8Array, ours: Buffer): void {
    const { log, clock, logger, onChanged } = this.parts;
    const known = this.byConsumer.has(consumer);
    const facts = { log, consumer, sequenceId: String(sequenceId) };
    if (Buffer.compare(hash, ours) === 0) {
      if (!this.byConsumer.delete(consumer)) return;
      logger.info({ event: "state_converged", ...facts }, "the state of a consumer is that of the view again");
    } else if (known || this.byConsumer.size < DIVERGED_MAX) {
      const theirs = Buffer.from(hash).toString("hex");
      const divergence = { consumer, sequenceId, theirs, ours: ours.toString("hex"), atWallMs: clock.wallMs() };
      this.byConsumer.set(consumer, divergence);
      if (known) return;
      const hashes = { theirs, ours: divergence.ours };
      logger.error(
        { event: "state_diverged", ...facts, ...hashes },
        "the state of a consumer is not that of the view at the same entry: one of them must be built anew",
      );
    }
    onChanged(this.byConsumer.size);
  }
}

/** What is compared with: a StandbyState. */
export interface AppliedState {
  readonly applied: number;
  readonly stateHash: Buffer;
}
