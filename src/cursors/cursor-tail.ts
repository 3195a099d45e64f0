import type { Clock } from "../oplog/clock.js";
import type { LogKeys } from "../oplog/keys.js";
import { type KvStore, StoreError, StoreUnreachableError, type WatchEvent, WatchLostError } from "../oplog/kv-store.js";
import type { Logger } from "../oplog/logger.js";
import { Backoff, linkSignals, sleep } from "../oplog/timing.js";
import { type CursorsRead, readCursors } from "../stored/cursors.js";

export interface CursorTailParts {
  readonly store: KvStore;
  readonly keys: LogKeys;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly pollMs: number;
  /** Answers from before this revision are of no use. */
  readonly sinceRevision: bigint;
  /** All of them, at one revision. */
  readonly onRead: (read: CursorsRead) => void;
  readonly onChanged: (events: readonly WatchEvent[]) => void;
}

const RETRY_FIRST_MS = 20;
const RETRY_MAX_MS = 1000;

/**
 * The cursors of one log as the store has them: a range, then a watch from there. The watch is not trusted: the range is
 * read again every `pollMs`, and if the watch has not brought by then what the last reading found, it is started again.
 */
export class CursorTail {
  /** Up to where the watch has brought everything, as far as it tells. */
  private watchedRevision = 0n;

  constructor(private readonly parts: CursorTailParts) {}

  /** Follows until the signal aborts, through every break of the store; nothing is told after that. Rejects for a defect. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, logger, keys } = this.parts;
    const backoff = new Backoff(clock, RETRY_FIRST_MS, RETRY_MAX_MS);
    let isWarned = false;
    const isWell = () => {
      backoff.reset();
      isWarned = false;
    };
    while (!signal.aborted) {
      try {
        await this.follow(signal, isWell);
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof StoreError)) throw error;
        if (!isWarned)
          logger.warn({ event: "cursor_tail_broken", log: keys.log, err: error }, "reading the cursors again");
        isWarned = true;
        await sleep(clock, backoff.delayMs(), signal);
      }
    }
  }

  private async follow(signal: AbortSignal, isWell: () => void): Promise<void> {
    const { store, keys, onChanged } = this.parts;
    const { revision } = await this.read(signal);
    this.watchedRevision = revision;
    const stop = new AbortController();
    const { signal: both, unlink } = linkSignals(signal, stop.signal);
    let failure: unknown;
    const poll = this.poll(both).catch((error: unknown) => {
      failure = error;
      stop.abort();
    });
    try {
      const range = { from: keys.cursorsFrom, to: keys.cursorsTo, startRevision: revision + 1n };
      for await (const { events, revision: seen } of store.watch(range, both)) {
        if (both.aborted) break;
        isWell();
        onChanged(events);
        if (seen > this.watchedRevision) this.watchedRevision = seen;
      }
    } finally {
      stop.abort();
      await poll;
      unlink();
    }
    if (!signal.aborted) throw failure ?? new WatchLostError("the watch has ended");
  }

  private async poll(signal: AbortSignal): Promise<void> {
    const { clock, keys, pollMs } = this.parts;
    for (let found = 0n; ; ) {
      await sleep(clock, pollMs, signal);
      if (signal.aborted) return;
      if (this.watchedRevision < found) {
        throw new WatchLostError(`the watch of the cursors of "${keys.log}" is silent since ${this.watchedRevision}`);
      }
      try {
        const { cursors } = await this.read(signal);
        for (const { modRevision } of cursors) if (modRevision > found) found = modRevision;
      } catch (error) {
        // The watch tells whether the store is away for good.
        if (!(error instanceof StoreError)) throw error;
      }
    }
  }

  private async read(signal: AbortSignal): Promise<CursorsRead> {
    const read = await readCursors(this.parts.store, this.parts.keys);
    if (read.revision < this.parts.sinceRevision) {
      throw new StoreUnreachableError("the store answers reads from the past");
    }
    if (!signal.aborted) this.parts.onRead(read);
    return read;
  }
}
