import {
  type Head,
  type RecordHeader,
  type WriterMark,
  type WriterMarks,
  WriterMarksSchema,
} from "../gen/oplog/store/v1/store_pb.js";
import type { Clock } from "../oplog/clock.js";
import type { LogKeys } from "../oplog/keys.js";
import { type KvStore, StoreUnreachableError } from "../oplog/kv-store.js";
import { DataLossError, HistoryDivergedError, TrimmedError } from "../oplog/log-errors.js";
import { type Operation, OperationWindow } from "../oplog/operation-window.js";
import { chainOf, isOtherChain } from "../oplog/record.js";
import { sleep } from "../oplog/timing.js";
import { decodeState } from "../stored/decode.js";
import { holeAt, openOwn, overlapAt, readFloor, readPages, requireContinued } from "../stored/history.js";

const READS_MAX = 10;
const REREAD_MS = 50;

/** The last operation of each writer: what the head tells, and the marks it adds to. */
export async function restoreMarks(store: KvStore, keys: LogKeys, clock: Clock, head: Head): Promise<OperationWindow> {
  const window = new OperationWindow();
  for (const mark of head.writers) restore(window, mark, true);
  if (head.marksGeneration > 0n) {
    const { generation, writers } = await readMarks(store, keys, clock, head.marksGeneration);
    // Those that the head adds to are older than its own; later ones, which a later head names, may be newer.
    const isOlder = generation === head.marksGeneration;
    for (const mark of writers) {
      const inHead = window.highestOf(mark.writerId);
      if (inHead === 0n || (!isOlder && mark.operationId > inHead)) restore(window, mark, false);
    }
  }
  window.forgetBeyondLimit();
  return window;
}

async function readMarks(store: KvStore, keys: LogKeys, clock: Clock, generation: bigint): Promise<WriterMarks> {
  for (let attempt = 1; attempt <= READS_MAX; attempt++) {
    const { pair } = await store.get(keys.marks);
    const marks = pair && decodeState(WriterMarksSchema, pair);
    if (marks !== undefined && marks.generation >= generation) return marks;
    await sleep(clock, REREAD_MS);
  }
  throw new StoreUnreachableError(`the store does not show the marks of writers, generation ${generation}`);
}

function restore(window: OperationWindow, mark: WriterMark, isInHead: boolean): void {
  const operation = {
    operationId: mark.operationId,
    first: mark.firstSequenceId,
    last: mark.lastSequenceId,
    term: mark.term,
    timestampMs: mark.timestampMs,
    contentCrc32c: mark.contentCrc32c,
  };
  window.restoreMark(mark.writerId, operation, isInHead);
}

/**
 * What earlier writers have committed: the marks in the head, and the records since its window starts. Each record must
 * continue the one before it, and the head the last one: rejects with HistoryDivergedError or DataLossError if not.
 */
export async function restoreWindow(store: KvStore, keys: LogKeys, clock: Clock, head: Head): Promise<OperationWindow> {
  return new WindowReader(store, keys, clock).read(head);
}

interface ReadRecord {
  readonly first: bigint;
  readonly last: bigint;
  readonly bytes: number;
  readonly operations: readonly [string, Operation][];
}

/** The same more than once: what has been read for an earlier head of the log is not read again for a later one. */
export class WindowReader {
  private records: ReadRecord[] = [];
  /** Of the last of them; "" = not known. */
  private lastChain = "";
  private logId: Uint8Array | undefined;
  private reading: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly store: KvStore,
    private readonly keys: LogKeys,
    private readonly clock: Clock,
  ) {}

  /** One at a time, each for the same head as the one before or a later one. */
  read(head: Head): Promise<OperationWindow> {
    const window = this.reading.then(() => this.readUpTo(head));
    this.reading = window.catch(() => undefined);
    return window;
  }

  private async readUpTo(head: Head): Promise<OperationWindow> {
    const from = head.windowFromSequenceId;
    const hasNone = head.writers.length === 0 && head.marksGeneration === 0n;
    if (from > head.lastSequenceId || hasNone) return this.marks(head);
    const isAnother = this.logId !== undefined && Buffer.compare(this.logId, head.logId) !== 0;
    const newest = this.records.at(-1)?.last ?? 0n;
    if (isAnother || newest > head.lastSequenceId) this.forget();
    else this.records = this.records.filter(({ last }) => last >= from);
    this.logId = head.logId;
    await this.readChained(head);
    let window = await this.marks(head);
    let next = 0n;
    for (const { first, last, bytes, operations } of this.records) {
      // Trimmed meanwhile: what stood before the hole is no basis for saying what is not in the log.
      if (next !== 0n && first > next) window = await this.marks(head);
      next = last + 1n;
      window.restoreRecord(first, bytes, operations);
    }
    return next > head.lastSequenceId ? window : this.marks(head);
  }

  private marks(head: Head): Promise<OperationWindow> {
    return restoreMarks(this.store, this.keys, this.clock, head);
  }

  private forget(): void {
    this.records = [];
    this.lastChain = "";
  }

  /** What was read of another history is of no use to whoever asks again, after the store has been adopted for instance. */
  private async readChained(head: Head): Promise<void> {
    try {
      await this.readOn(head);
      const last = this.records.at(-1)?.last;
      const chain = chainOf(head.recordNonce);
      if (last === head.lastSequenceId && isOtherChain(chain, this.lastChain)) {
        throw new HistoryDivergedError(this.keys.log, last, this.lastChain, chain);
      }
    } catch (error) {
      if (error instanceof HistoryDivergedError || error instanceof DataLossError) this.forget();
      throw error;
    }
  }

  /** An answer may come out of the past (etcd #20418): what is known to be there is asked for again. */
  private async readOn(head: Head): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      const newest = this.records.at(-1);
      const from = newest === undefined ? head.windowFromSequenceId : newest.last + 1n;
      if (from > head.lastSequenceId) return;
      const hole = await this.readFrom(from, head);
      if (hole !== undefined && attempt === READS_MAX) throw hole;
      if (hole === undefined) {
        if (this.records.at(-1)?.last === head.lastSequenceId) return;
        const floor = await readFloor(this.store, this.keys);
        if (floor.sequenceId > head.lastSequenceId) return;
        if (attempt === READS_MAX) {
          throw new StoreUnreachableError(`the store does not show the records up to ${head.lastSequenceId}`);
        }
      }
      await sleep(this.clock, REREAD_MS);
    }
  }

  /** Resolves to what has stopped it, if that was a hole that no trim explains. */
  private async readFrom(from: bigint, head: Head): Promise<DataLossError | undefined> {
    for await (const page of readPages(this.store, this.keys, from)) {
      for (const pair of page.pairs) {
        const { header } = await openOwn(this.store, this.keys, pair, head.logId);
        const { firstSequenceId: first, lastSequenceId: last } = header;
        if (first > head.lastSequenceId) return undefined;
        const hole = await this.holeBefore(header, head.logId);
        if (hole !== undefined) return hole;
        this.records.push({ first, last, bytes: pair.value.length, operations: [...operationsOf(header)] });
        this.lastChain = chainOf(header.nonce);
      }
    }
    return undefined;
  }

  /** Throws if the record does not continue the one before it. */
  private async holeBefore(header: RecordHeader, logId: Uint8Array): Promise<DataLossError | undefined> {
    const { store, keys } = this;
    const { firstSequenceId: first, lastSequenceId: last } = header;
    const before = this.records.at(-1)?.last;
    if (before === undefined) return undefined;
    if (first <= before) throw overlapAt(keys, header, before + 1n);
    const run = { first, last, chain: chainOf(header.nonce), previousChain: chainOf(header.previousNonce) };
    requireContinued(keys, run, before, this.lastChain);
    if (first === before + 1n) return undefined;
    const hole = await holeAt(store, keys, before + 1n, first, logId);
    return hole instanceof TrimmedError ? undefined : hole;
  }
}

function* operationsOf(header: RecordHeader): Iterable<[string, Operation]> {
  for (const writer of header.operations) {
    for (const [index, operationId] of writer.operationId.entries()) {
      const first = header.firstSequenceId + BigInt(writer.firstOffset[index] ?? 0);
      const operation = {
        operationId,
        first,
        last: first + BigInt(writer.entryCount[index] ?? 1) - 1n,
        term: header.term,
        timestampMs: header.timestampMs,
        contentCrc32c: writer.contentCrc32c[index] ?? 0,
      };
      yield [writer.writerId, operation];
    }
  }
}
