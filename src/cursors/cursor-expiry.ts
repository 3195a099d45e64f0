import type { Clock } from "../oplog/clock.js";
import { OplogError } from "../oplog/errors.js";
import type { LogKeys } from "../oplog/keys.js";
import { type KvStore, StoreError } from "../oplog/kv-store.js";
import type { Logger } from "../oplog/logger.js";
import { sleep } from "../oplog/timing.js";
import { readCursors, type StoredCursor, storedCursorKey } from "../stored/cursors.js";
import { decodeHead } from "../stored/decode.js";

export interface CursorExpiryParts {
  readonly store: KvStore;
  readonly keys: LogKeys;
  readonly clock: Clock;
  readonly logger: Logger;
  /** How long a cursor may be silent; 0 = for ever. */
  readonly cursorExpiryMs: number;
  /** A broken invariant: the process must end. */
  readonly onBroken: (error: unknown) => void;
}

/** How many times a cursor is read before it expires. */
const LOOKS = 20;
const LOOK_MS_MIN = 1_000;
/** Also below the time after which a log that nobody uses is closed. */
const LOOK_MS_MAX = 5 * 60_000;
const FIRST_LOOK_MS_MAX = 60_000;

interface Silence {
  readonly modRevision: bigint;
  readonly sinceMs: number;
}

/**
 * Removes the cursors of one log that have been silent for too long, so that the names of consumers that are gone do not
 * use up the limit. The leader of the log runs it, so only one sidecar does at a time.
 *
 * A cursor is silent if it has not changed while the head was above it: a consumer that has everything has nothing to
 * report. This process judges by what it has seen itself, on its monotonic clock, because the times in a cursor come from
 * other machines. After a change of leader the count starts again. The removal compares the revision that was seen, so a
 * consumer that reports just then keeps its cursor.
 */
export class CursorExpiry {
  /** Of the cursors that are behind. Undefined: nobody has looked yet. */
  private silences: Map<string, Silence> | undefined;
  private leading: AbortController | undefined;

  constructor(private readonly parts: CursorExpiryParts) {}

  /** Some cursor may expire, counted from what has been seen here. */
  get isCounting(): boolean {
    return this.leading !== undefined && (this.silences === undefined || this.silences.size > 0);
  }

  /** Goes on while this sidecar leads. */
  whileLeading(isLeading: boolean): void {
    this.leading?.abort();
    this.leading = undefined;
    if (!isLeading || this.parts.cursorExpiryMs === 0) return;
    this.leading = new AbortController();
    this.silences = undefined;
    this.run(this.leading.signal).catch(this.parts.onBroken);
  }

  private async run(signal: AbortSignal): Promise<void> {
    const { cursorExpiryMs: expiryMs, logger, keys } = this.parts;
    while (!signal.aborted) {
      const lookMs = Math.min(Math.max(expiryMs / LOOKS, LOOK_MS_MIN), LOOK_MS_MAX);
      await sleep(this.parts.clock, this.silences === undefined ? Math.min(lookMs, FIRST_LOOK_MS_MAX) : lookMs, signal);
      if (signal.aborted) return;
      try {
        await this.look(expiryMs);
      } catch (error) {
        if (!(error instanceof StoreError || error instanceof OplogError)) throw error;
        logger.debug({ event: "cursor_expiry_postponed", log: keys.log, err: error }, "cursors are looked at later");
      }
    }
  }

  private async look(expiryMs: number): Promise<void> {
    const { store, keys, clock } = this.parts;
    const { pair } = await store.get(keys.head);
    if (pair === undefined) return;
    const head = decodeHead(pair).lastSequenceId;
    const { cursors } = await readCursors(store, keys);
    const nowMs = clock.monotonicMs();
    const silences = new Map<string, Silence>();
    for (const stored of cursors) {
      const { consumer, cursor, modRevision } = stored;
      if (cursor.appliedSequenceId >= head) continue;
      const known = this.silences?.get(consumer);
      const silence = known?.modRevision === modRevision ? known : { modRevision, sinceMs: nowMs };
      if (nowMs - silence.sinceMs >= expiryMs) await this.remove(stored, nowMs - silence.sinceMs);
      else silences.set(consumer, silence);
    }
    this.silences = silences;
  }

  private async remove({ consumer, cursor, modRevision }: StoredCursor, silentMs: number): Promise<void> {
    const { store, keys, logger } = this.parts;
    const key = storedCursorKey(keys, consumer);
    const { succeeded } = await store.txn({ compares: [{ key, modRevision }], writes: [{ kind: "delete", key }] });
    if (!succeeded) return;
    const facts = {
      log: keys.log,
      consumer,
      applied: String(cursor.appliedSequenceId),
      silentMs: Math.round(silentMs),
    };
    logger.info({ event: "cursor_expired", ...facts }, "a cursor that has been silent for too long was removed");
  }
}
