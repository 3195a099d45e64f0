import { QueueFullError } from "../oplog/append-errors.js";
import type { Entries } from "../oplog/entries.js";
import type { OplogError } from "../oplog/errors.js";

/** When a full queue is worth another attempt. */
export const QUEUE_RETRY_MS = 100;

/** An append on its way to the log. */
export interface AppendItem {
  readonly entries: Entries;
  readonly expectedSequenceId: bigint | undefined;
  /** The term the caller believes it leads. */
  readonly expectedTerm: bigint | undefined;
  /** "" = none, then operationId and contentCrc32c are 0. */
  readonly writerId: string;
  readonly operationId: bigint;
  readonly contentCrc32c: number;
  /** The caller has left: if the append has not been sealed yet, it is dropped. */
  isAbandoned(): boolean;
  /** Called exactly once, in the order of the appends; must not throw. */
  settle(outcome: AppendOutcome): void;
}

export interface Appended {
  readonly first: bigint;
  readonly last: bigint;
  readonly term: bigint;
  readonly timestampMs: bigint;
  readonly isDuplicate: boolean;
}

export type AppendOutcome = { readonly appended: Appended } | { readonly error: OplogError };

/**
 * How much may wait to be written, over all logs, each entry counted with STAMP_BYTES_MAX. The bytes themselves are those of
 * requests, which have a budget of their own from their first byte on. This one bounds what comes on top: the places of the
 * entries, the records that are made of them, and the appends of the sidecar itself.
 */
export class QueueBudget {
  bytes = 0;
  appends = 0;
  /** Called when something was given back. */
  private waiting: (() => void)[] = [];

  constructor(
    readonly bytesMax: number,
    readonly appendsMax: number,
  ) {}

  hasRoomFor(bytes: number): boolean {
    return this.appends < this.appendsMax && (this.bytes + bytes <= this.bytesMax || this.bytes === 0);
  }

  take(bytes: number): void {
    this.bytes += bytes;
    this.appends++;
  }

  give(bytes: number): void {
    this.bytes -= bytes;
    this.appends--;
    if (this.waiting.length > 0) {
      const woken = this.waiting;
      this.waiting = [];
      for (const wake of woken) wake();
    }
  }

  /** Counts the bytes until the work has ended; refuses if there is no room. */
  async within<T>(what: string, bytes: number, work: () => Promise<T>): Promise<T> {
    if (!this.hasRoomFor(bytes)) throw new QueueFullError(what, bytes, this.bytesMax, QUEUE_RETRY_MS);
    this.take(bytes);
    try {
      return await work();
    } finally {
      this.give(bytes);
    }
  }

  /** Resolves once something has been given back. */
  released(): Promise<void> {
    return new Promise((resolve) => this.waiting.push(resolve));
  }
}

/** It had been committed before. */
export function isDuplicate(outcome: AppendOutcome): boolean {
  return "appended" in outcome && outcome.appended.isDuplicate;
}
