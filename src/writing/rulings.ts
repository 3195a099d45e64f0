import type { Clock } from "../oplog/clock.js";
import { TooManyError } from "../oplog/errors.js";
import type { Resolution } from "../oplog/operation-window.js";

/** A question that only the store can decide; see Rulings. */
export interface Question {
  readonly writerId: string;
  /** To be ruled out; 0n = only to be told the highest operation. */
  readonly operationId: bigint;
  /** Undefined: cannot be decided here any more. */
  settle(answer: Resolution | undefined): void;
  fail(error: unknown): void;
}

/** So often at most, whatever is asked meanwhile: a barrier is a write, and the list of them may be long. */
export const RULING_INTERVAL_MS = 50;
const QUESTIONS_MAX = 1000;

/** Questions that wait for the next barrier. All that have come are put together. */
export class Rulings {
  private waiting: Question[] = [];
  private lastMs = Number.NEGATIVE_INFINITY;

  /** Throws TooManyError. */
  ask(writerId: string, operationId: bigint): Promise<Resolution | undefined> {
    if (this.waiting.length >= QUESTIONS_MAX) {
      throw new TooManyError("unanswered ResolveAppend calls of this log", QUESTIONS_MAX, RULING_INTERVAL_MS);
    }
    return new Promise((settle, fail) => this.waiting.push({ writerId, operationId, settle, fail }));
  }

  /** Until the next may be put; undefined: nobody asks. */
  dueInMs(clock: Clock): number | undefined {
    return this.waiting.length === 0 ? undefined : Math.max(0, this.lastMs + RULING_INTERVAL_MS - clock.monotonicMs());
  }

  /** All that wait, if it is time. */
  takeDue(clock: Clock): Question[] {
    if (this.dueInMs(clock) !== 0) return [];
    const questions = this.waiting;
    this.waiting = [];
    this.lastMs = clock.monotonicMs();
    return questions;
  }

  abandon(): void {
    for (const { settle } of this.waiting) settle(undefined);
    this.waiting = [];
  }
}
