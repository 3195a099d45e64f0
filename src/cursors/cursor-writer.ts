import { toBinary } from "@bufbuild/protobuf";
import { type Cursor, CursorSchema } from "../gen/oplog/store/v1/store_pb.js";
import type { Clock } from "../oplog/clock.js";
import { LogNotFoundError, OplogError, TooManyError } from "../oplog/errors.js";
import type { LogKeys } from "../oplog/keys.js";
import { wholeRange } from "../oplog/kv-pages.js";
import type { KvStore } from "../oplog/kv-store.js";
import { CURSORS_MAX, decodeCursor, type StoredCursor } from "../stored/cursors.js";
import { decodeHead } from "../stored/decode.js";
import { decodeFloor } from "../stored/history.js";
import { type CursorUpdate, completeUpdate, moveCursor } from "./cursor-rules.js";

export interface CursorWriterParts {
  readonly store: KvStore;
  readonly keys: LogKeys;
  readonly clock: Clock;
  /** Told of every position once it is durable. */
  readonly onMoved: (moved: StoredCursor) => void;
}

/** What the store said when the position was written. */
export interface CursorMoved {
  readonly head: bigint;
  readonly floor: bigint;
}

interface Call {
  readonly update: CursorUpdate;
  readonly resolve: (moved: CursorMoved) => void;
  readonly reject: (error: unknown) => void;
}

const ATTEMPTS_MAX = 16;
const CALLS_WAITING_MAX = 1000;
const RETRY_MS = 100;

/**
 * Durable positions of named consumers. One write of a cursor is in flight; the calls that come meanwhile are judged in
 * their order, each against what the one before it leaves, and share the next write.
 */
export class CursorWriter {
  /** By consumer: what waits for the write in flight to end. */
  private readonly waiting = new Map<string, Call[]>();

  constructor(private readonly parts: CursorWriterParts) {}

  /** Resolves when a position that covers this update is stored; rejects with OplogError, or StoreError. */
  async update(update: CursorUpdate): Promise<CursorMoved> {
    const { consumer } = update;
    const complete = completeUpdate(update);
    this.parts.keys.cursor(consumer);
    return new Promise((resolve, reject) => {
      const call = { update: complete, resolve, reject };
      const line = this.waiting.get(consumer);
      if (line === undefined) {
        this.waiting.set(consumer, []);
        void this.write(consumer, [call]);
      } else if (line.length < CALLS_WAITING_MAX) {
        line.push(call);
      } else {
        reject(new TooManyError(`updates of cursor "${consumer}" that wait`, CALLS_WAITING_MAX, RETRY_MS));
      }
    });
  }

  /** Writes until nobody waits any more. */
  private async write(consumer: string, first: Call[]): Promise<void> {
    for (let calls = first; calls.length > 0; ) {
      try {
        await this.writeTogether(consumer, calls);
      } catch (error) {
        for (const { reject } of calls) reject(error);
      }
      calls = this.waiting.get(consumer)!;
      this.waiting.set(consumer, []);
    }
    this.waiting.delete(consumer);
  }

  /** Settles every call, or throws what all of them are told. A refusal too is told only once what it rests on is durable. */
  private async writeTogether(consumer: string, calls: readonly Call[]): Promise<void> {
    const { store, keys, clock, onMoved } = this.parts;
    const key = keys.cursor(consumer);
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      const [headRead, floorRead, cursorRead] = await Promise.all([
        store.get(keys.head),
        store.get(keys.floor),
        store.get(key),
      ]);
      if (headRead.pair === undefined) throw new LogNotFoundError(keys.log);
      const head = decodeHead(headRead.pair).lastSequenceId;
      const stored = cursorRead.pair && decodeCursor(cursorRead.pair.value);
      const verdicts: (OplogError | undefined)[] = [];
      let cursor: Cursor | undefined = stored;
      for (const { update } of calls) {
        const moved = moveCursor(cursor, update, head, clock.wallMs());
        verdicts.push(moved instanceof OplogError ? moved : undefined);
        if (!(moved instanceof OplogError)) cursor = moved;
      }
      if (cursor !== undefined && cursor !== stored) {
        if (stored === undefined) await this.requireRoom();
        const written = await store.txn({
          compares: [{ key, modRevision: cursorRead.pair?.modRevision ?? 0n }],
          writes: [{ kind: "put", key, value: toBinary(CursorSchema, cursor) }],
        });
        if (!written.succeeded) continue;
        onMoved({ consumer, cursor, modRevision: written.revision });
      }
      const moved = { head, floor: decodeFloor(floorRead.pair).sequenceId };
      calls.forEach(({ resolve, reject }, index) => {
        const refusal = verdicts[index];
        if (refusal === undefined) resolve(moved);
        else reject(refusal);
      });
      return;
    }
    throw new TooManyError(`concurrent updates of cursor "${consumer}"`, ATTEMPTS_MAX, RETRY_MS);
  }

  private async requireRoom(): Promise<void> {
    const { store, keys } = this.parts;
    const { pairs } = await wholeRange(store, { from: keys.cursorsFrom, to: keys.cursorsTo, keysOnly: true });
    if (pairs.length >= CURSORS_MAX) throw new TooManyError("cursors of this log", CURSORS_MAX);
  }
}
