import { toBinary } from "@bufbuild/protobuf";
import { type Cursor, CursorSchema, type Head } from "../gen/oplog/store/v1/store_pb.js";
import type { Clock } from "../oplog/clock.js";
import { OplogError, TooManyError } from "../oplog/errors.js";
import { wholeRange } from "../oplog/kv-pages.js";
import type { Compare, KeyValue, TxnResult, Write } from "../oplog/kv-store.js";
import { CursorDamagedError, CursorNotFoundError } from "../oplog/log-errors.js";
import { chainOf } from "../oplog/record.js";
import { CURSORS_MAX, openCursor, type StoredCursor, storedCursorKey } from "../stored/cursors.js";
import { fenceOf, requireHead } from "../stored/deletion.js";
import { decodeFloor } from "../stored/history.js";
import { isNewestHead } from "../stored/newest-head.js";
import { AppliedHistory, type AppliedHistoryParts } from "./applied-history.js";
import { type CursorUpdate, completeUpdate, moveCursor } from "./cursor-rules.js";

export interface CursorWriterParts extends AppliedHistoryParts {
  readonly clock: Clock;
  /** Told of every position once it is durable. */
  readonly onMoved: (moved: StoredCursor) => void;
}

/** What the store said when the position was written. */
export interface CursorMoved {
  readonly head: bigint;
  readonly floor: bigint;
}

interface WaitingUpdate {
  readonly update: CursorUpdate;
  readonly resolve: (moved: CursorMoved) => void;
  readonly reject: (error: unknown) => void;
}

const ATTEMPTS_MAX = 16;
const CALLS_WAITING_MAX = 1000;
const RETRY_MS = 100;

/**
 * Durable positions of named consumers. Of each cursor one write is in flight. Calls that come meanwhile are judged in
 * their order, each against the result of the one before, and share the next write.
 */
export class CursorWriter {
  /** By consumer: what waits for the write in flight to end. */
  private readonly waiting = new Map<string, WaitingUpdate[]>();
  private making: Promise<unknown> = Promise.resolve();
  /** By consumer: the revision that was put here last, whose history was compared then. */
  private readonly written = new Map<string, bigint>();

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

  /** Also deletes a damaged cursor. Rejects with OplogError, or StoreError. The next report makes a new cursor. */
  async delete(consumer: string): Promise<void> {
    const { store, keys } = this.parts;
    const key = storedCursorKey(keys, consumer);
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      const [head, { pair }] = await Promise.all([store.get(keys.head), store.get(key)]);
      requireHead(keys, head.pair);
      if (pair === undefined) throw new CursorNotFoundError(keys.log, consumer);
      const { succeeded } = await store.txn({
        compares: [{ key, modRevision: pair.modRevision }],
        writes: [{ kind: "delete", key }],
      });
      if (succeeded) return;
    }
    throw new TooManyError(`concurrent updates of cursor "${consumer}"`, ATTEMPTS_MAX, RETRY_MS);
  }

  /** Writes until nobody waits any more. */
  private async write(consumer: string, first: WaitingUpdate[]): Promise<void> {
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
  private async writeTogether(consumer: string, calls: readonly WaitingUpdate[]): Promise<void> {
    const { store, keys, clock, onMoved } = this.parts;
    const key = keys.cursor(consumer);
    const history = new AppliedHistory(this.parts);
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      const [headRead, floorRead, cursorRead] = await Promise.all([
        store.get(keys.head),
        store.get(keys.floor),
        store.get(key),
      ]);
      const head = requireHead(keys, headRead.pair);
      // Then it may be of another log of this name, that has come since the head was read.
      if (cursorRead.pair !== undefined && cursorRead.pair.modRevision > headRead.revision) continue;
      const isAhead = calls.some(({ update }) => update.appliedChain !== "" && update.applied > head.lastSequenceId);
      // An entry that was seen is told to be lost, so this must not be an answer from the past.
      if (isAhead && !(await isNewestHead(store, keys, headRead.pair))) continue;
      const stored = this.storedFor(calls, cursorRead.pair);
      const lost = await this.lostBefore(history, consumer, stored, cursorRead.pair, head);
      const verdicts: (OplogError | undefined)[] = [];
      let cursor: Cursor | undefined = stored;
      for (const { update } of calls) {
        const diverged =
          (cursor === stored && !update.isRewindAllowed ? lost : undefined) ??
          (await history.divergence(update.applied, update.appliedChain, head));
        const moved = diverged ?? moveCursor(cursor, update, head.lastSequenceId, clock.wallMs());
        verdicts.push(moved instanceof OplogError ? moved : undefined);
        if (!(moved instanceof OplogError)) cursor = moved;
      }
      if (cursor !== undefined && cursor !== stored) {
        const value = toBinary(CursorSchema, await this.chained(history, cursor, stored, head));
        const put: Write = { kind: "put", key, value };
        const compare: Compare = { key, modRevision: cursorRead.pair?.modRevision ?? 0n };
        const written = await (cursorRead.pair !== undefined
          ? store.txn({ compares: [compare], writes: [put] })
          : attempt === 0
            ? this.make(head.logId, compare, put)
            : this.makeInTurn(head.logId, compare, put));
        if (!written.succeeded) continue;
        if (this.written.size >= CURSORS_MAX) this.written.clear();
        this.written.set(consumer, written.revision);
        onMoved({ consumer, cursor, modRevision: written.revision });
      }
      const moved = { head: head.lastSequenceId, floor: decodeFloor(floorRead.pair).sequenceId };
      calls.forEach(({ resolve, reject }, index) => {
        const refusal = verdicts[index];
        if (refusal === undefined) resolve(moved);
        else reject(refusal);
      });
      return;
    }
    throw new TooManyError(`concurrent updates of cursor "${consumer}"`, ATTEMPTS_MAX, RETRY_MS);
  }

  /** Why the cursor as it stands is of another history. One that was put here has been compared. */
  private async lostBefore(
    history: AppliedHistory,
    consumer: string,
    stored: Cursor | undefined,
    pair: KeyValue | undefined,
    head: Head,
  ): Promise<OplogError | undefined> {
    if (stored === undefined || this.written.get(consumer) === pair?.modRevision) return undefined;
    return history.divergence(stored.appliedSequenceId, chainOf(stored.appliedChain), head);
  }

  /** What the consumer does not say of the entry that it has applied, the log does. */
  private async chained(
    history: AppliedHistory,
    cursor: Cursor,
    stored: Cursor | undefined,
    head: Head,
  ): Promise<Cursor> {
    const { appliedSequenceId: applied, appliedChain } = cursor;
    if (applied === 0n || appliedChain.length > 0) return cursor;
    const known = stored?.appliedSequenceId === applied ? chainOf(stored.appliedChain) : "";
    const chain = known === "" ? await history.chainAt(applied, head) : known;
    return { ...cursor, appliedChain: Buffer.from(chain, "hex") };
  }

  /** A damaged cursor can only be replaced: its position is not known. */
  private storedFor(calls: readonly WaitingUpdate[], pair: KeyValue | undefined): Cursor | undefined {
    if (pair === undefined) return undefined;
    const read = openCursor(this.parts.keys, pair);
    if ("cursor" in read) return read.cursor;
    if (calls.every(({ update }) => update.isRewindAllowed)) return undefined;
    throw new CursorDamagedError(this.parts.keys.log, read.consumer, read.problem);
  }

  /**
   * One more cursor, if there is room. Each transaction that makes a cursor compares and puts `cursorsMade`, so the count,
   * which is taken after that key was read, still holds.
   */
  private async make(logId: Uint8Array, compare: Compare, put: Write): Promise<TxnResult> {
    const { store, keys } = this.parts;
    const [{ pair }, fence] = await Promise.all([store.get(keys.cursorsMade), fenceOf(store, keys, logId)]);
    const { pairs } = await wholeRange(store, { from: keys.cursorsFrom, to: keys.cursorsTo, keysOnly: true });
    if (pairs.length >= CURSORS_MAX) {
      const what = `cursors of log "${keys.log}" (DeleteCursor removes one, --cursor-expiry those that are silent)`;
      throw new TooManyError(what, CURSORS_MAX);
    }
    return store.txn({
      compares: [compare, { key: keys.cursorsMade, modRevision: pair?.modRevision ?? 0n }, fence.compare],
      writes: [put, { kind: "put", key: keys.cursorsMade, value: NOTHING }],
    });
  }

  /** One at a time: several at once would fail each other's compare. */
  private makeInTurn(logId: Uint8Array, compare: Compare, put: Write): Promise<TxnResult> {
    const made = this.making.then(() => this.make(logId, compare, put));
    this.making = made.catch(() => undefined);
    return made;
  }
}

const NOTHING = new Uint8Array();
