import { create, toBinary } from "@bufbuild/protobuf";
import { HeadSchema } from "../gen/oplog/store/v1/store_pb.js";
import { OperationContentMismatchError, OperationIdUsedError } from "./append-errors.js";
import { TooManyError } from "./errors.js";

export interface WindowLimits {
  readonly operationsMax: number;
  readonly operationsPerWriterMax: number;
  /** Of the records that a take-over reads back. */
  readonly recordBytesMax: number;
  readonly writersMax: number;
  /**
   * A writer silent for less than this is never forgotten. One that has been silent for longer is forgotten only for want of
   * room: it may come once a month, a mark costs little, and to forget it means that it may write twice.
   */
  readonly writerIdleMsMin: number;
}

export const WINDOW_LIMITS: WindowLimits = {
  operationsMax: 65_536,
  operationsPerWriterMax: 4096,
  recordBytesMax: 64 * 1024 * 1024,
  writersMax: 1024,
  writerIdleMsMin: 3_600_000,
};

/** Later than any time. */
const MILLISECONDS_MAX = 2n ** 64n;
/** Marks in the head do no harm below this, */
const HEAD_MARKS_BYTES_MIN = 4096;
/** or below this share of all marks. */
const HEAD_MARKS_SHARE = 8;

export interface Operation {
  readonly operationId: bigint;
  readonly first: bigint;
  readonly last: bigint;
  readonly term: bigint;
  readonly timestampMs: bigint;
  readonly contentCrc32c: number;
}

interface Writer {
  /** Known also when it has left the window. */
  last: Operation;
  encodedMark: Uint8Array | undefined;
  /** Those in the window, in order of commit. */
  readonly recent: Map<bigint, Operation>;
  /** Whatever was committed from this id on is in `recent`, or is `last`. */
  completeFrom: bigint;
}

interface Remembered {
  readonly writerId: string;
  readonly operationId: bigint;
  readonly recordFirst: bigint;
  recordBytes: number;
}

/** In wire form; each is a Head with nothing but one of `writers`. */
export interface MarksToPut {
  readonly inHead: readonly Uint8Array[];
  /** Those of all writers before the record, if they are to be put apart from the head. */
  readonly all: readonly Uint8Array[] | undefined;
}

export type Resolution =
  | {
      readonly outcome: "committed";
      readonly operation: Pick<Operation, "first" | "last" | "term">;
      readonly highest: bigint;
    }
  | { readonly outcome: "not committed"; readonly highest: bigint }
  | { readonly outcome: "forgotten"; readonly highest: bigint }
  /** Cannot be told now; `because` is for people. */
  | { readonly outcome: "unknown"; readonly highest: bigint; readonly because: string };

/**
 * Which operations of which writers are in the log. The last one of every writer is kept in the head and so outlives
 * everything; recent others are kept in memory and can be read back from the records.
 */
export class OperationWindow {
  private readonly writers = new Map<string, Writer>();
  /** Whose marks the head holds: they have changed since all marks were put. */
  private readonly changed = new Set<string>();
  /** Oldest first; elements before `oldest` are dropped. */
  private remembered: Remembered[] = [];
  private oldest = 0;
  private recordBytes = 0;
  private operations = 0;
  private lastRecord: Remembered = { writerId: "", operationId: 0n, recordFirst: 0n, recordBytes: 0 };

  constructor(private readonly limits: WindowLimits = WINDOW_LIMITS) {}

  /** The mark of a writer. All come before the records are read back. */
  restoreMark(writerId: string, operation: Operation, isInHead: boolean): void {
    if (isInHead) this.changed.add(writerId);
    this.writers.set(writerId, newWriter(operation, operation.operationId));
  }

  /** All marks have been restored. Some may be of writers that were forgotten after all marks had been put. */
  forgetBeyondLimit(): void {
    while (this.writers.size > this.limits.writersMax) this.forgetWriter(this.longestSilent()!);
  }

  /** One record's operations, oldest record first. Those of writers that the head has forgotten are passed over. */
  restoreRecord(
    recordFirst: bigint,
    recordBytes: number,
    operations: Iterable<[writerId: string, operation: Operation]>,
  ): void {
    this.startRecord(recordFirst);
    for (const [writerId, operation] of operations) {
      const writer = this.writers.get(writerId);
      if (writer === undefined) continue;
      if (operation.operationId < writer.completeFrom) writer.completeFrom = operation.operationId;
      this.remember(writerId, writer, operation, recordFirst);
    }
    this.endRecord(recordBytes);
  }

  /** The highest operation of a writer; 0n = none is known. */
  highestOf(writerId: string): bigint {
    return this.writers.get(writerId)?.last.operationId ?? 0n;
  }

  /**
   * Whether an append is new. Answers the first commit's result for a retry; throws for an id that is used up, used for
   * other content, or of one writer too many. `newWriters`: how many others are about to be added.
   */
  check(
    writerId: string,
    operationId: bigint,
    contentCrc32c: number,
    count: number,
    nowMs: bigint,
    newWriters = 0,
  ): Operation | undefined {
    const writer = this.writers.get(writerId);
    if (writer === undefined) {
      if (!this.hasRoomFor(newWriters + 1, nowMs)) {
        throw new TooManyError("writers of this log within the last hour", this.limits.writersMax, 60_000);
      }
      return undefined;
    }
    if (operationId > writer.last.operationId) return undefined;
    const known = find(writer, operationId);
    if (known === undefined) throw new OperationIdUsedError(writerId, operationId, writer.last.operationId);
    return requireSame(writerId, known, contentCrc32c, count);
  }

  /** Call before the operations of a new record. */
  startRecord(recordFirst: bigint): void {
    // Bytes are charged also for records without operations: a take-over has to read past them.
    this.lastRecord = { writerId: "", operationId: 0n, recordFirst, recordBytes: 0 };
    this.remembered.push(this.lastRecord);
  }

  /** Call after the last operation of the record. */
  endRecord(recordBytes: number): void {
    this.lastRecord.recordBytes = recordBytes;
    this.recordBytes += recordBytes;
    this.evict();
  }

  add(writerId: string, operation: Operation): void {
    let writer = this.writers.get(writerId);
    if (writer === undefined) {
      // Writers are only forgotten while the table is full, so one that is not in it has committed nothing before.
      const completeFrom = this.writers.size < this.limits.writersMax ? 0n : operation.operationId;
      this.makeRoom(operation.timestampMs);
      writer = newWriter(operation, completeFrom);
      this.writers.set(writerId, writer);
    }
    // A mark whose record has left the window is known no more once another one takes its place.
    const { operationId } = writer.last;
    if (!writer.recent.has(operationId) && operationId !== operation.operationId) {
      writer.completeFrom = operationId + 1n;
    }
    writer.last = operation;
    writer.encodedMark = undefined;
    this.changed.add(writerId);
    this.remember(writerId, writer, operation, this.lastRecord.recordFirst);
  }

  /** 0n stands for the highest one. Called not committed, one above the highest may still commit later. */
  resolve(writerId: string, operationId: bigint): Resolution {
    const writer = this.writers.get(writerId);
    if (operationId === 0n) {
      if (writer !== undefined)
        return { outcome: "committed", operation: writer.last, highest: writer.last.operationId };
      return { outcome: "unknown", highest: 0n, because: "no operation of this writer is known" };
    }
    if (writer === undefined) {
      // Writers are only ever forgotten while the table is full, and it stays full from then on.
      const mayBeForgotten = this.writers.size >= this.limits.writersMax;
      return { outcome: mayBeForgotten ? "forgotten" : "not committed", highest: 0n };
    }
    const highest = writer.last.operationId;
    const operation = find(writer, operationId);
    if (operation !== undefined) return { outcome: "committed", operation, highest };
    // One below the highest was passed over and can never commit any more, ids rise.
    if (operationId >= writer.completeFrom) return { outcome: "not committed", highest };
    return { outcome: "forgotten", highest };
  }

  /**
   * The marks as they are to be put with a record that adds these operations. Encoded once for each operation, however
   * often they are put.
   */
  marksWith(newest: ReadonlyMap<string, Operation>): MarksToPut {
    const added = Array.from(newest, ([writerId, operation]) => encodeMark(writerId, operation));
    const kept = [...this.changed].filter((writerId) => !newest.has(writerId)).map((writerId) => this.markOf(writerId));
    const bytes = kept.reduce((sum, { length }) => sum + length, 0);
    const allBytes = (bytes / kept.length) * this.writers.size;
    if (bytes <= HEAD_MARKS_BYTES_MIN || bytes <= allBytes / HEAD_MARKS_SHARE) {
      return { inHead: [...kept, ...added], all: undefined };
    }
    return { inHead: added, all: [...this.writers.keys()].map((writerId) => this.markOf(writerId)) };
  }

  /** The marks of all writers have been put with a record that is to be added next. */
  allMarksPut(): void {
    this.changed.clear();
  }

  /** Where a take-over starts to read records; `head` + 1 when nothing needs to be read. */
  windowFrom(head: bigint): bigint {
    return this.remembered[this.oldest]?.recordFirst ?? head + 1n;
  }

  private remember(writerId: string, writer: Writer, operation: Operation, recordFirst: bigint): void {
    const { operationId } = operation;
    writer.recent.set(operationId, operation);
    if (writer.recent.size > this.limits.operationsPerWriterMax) forget(writer, writer.recent.keys().next().value!);
    this.operations++;
    this.remembered.push({ writerId, operationId, recordFirst, recordBytes: 0 });
    this.evict();
  }

  private evict(): void {
    const { operationsMax, recordBytesMax } = this.limits;
    // What is not the newest record's own may go, and a record without operations need not be read back.
    while (
      this.oldest < this.remembered.length - 1 &&
      (this.operations > operationsMax || this.recordBytes > recordBytesMax || this.isWithoutOperations(this.oldest))
    ) {
      const gone = this.remembered[this.oldest++]!;
      this.recordBytes -= gone.recordBytes;
      if (gone.writerId !== "") this.operations--;
      const writer = this.writers.get(gone.writerId);
      if (writer?.recent.has(gone.operationId)) forget(writer, gone.operationId);
    }
    if (this.oldest > 4096 && this.oldest > this.remembered.length / 2) {
      this.remembered = this.remembered.slice(this.oldest);
      this.oldest = 0;
    }
  }

  private isWithoutOperations(index: number): boolean {
    const record = this.remembered[index]!;
    return record.writerId === "" && this.remembered[index + 1]!.recordFirst !== record.recordFirst;
  }

  private markOf(writerId: string): Uint8Array {
    const writer = this.writers.get(writerId)!;
    writer.encodedMark ??= encodeMark(writerId, writer.last);
    return writer.encodedMark;
  }

  private hasRoomFor(newWriters: number, nowMs: bigint): boolean {
    let missing = this.writers.size + newWriters - this.limits.writersMax;
    if (missing <= 0) return true;
    const since = nowMs - BigInt(this.limits.writerIdleMsMin);
    for (const { last } of this.writers.values()) if (last.timestampMs < since && --missing <= 0) return true;
    return false;
  }

  private makeRoom(nowMs: bigint): void {
    if (this.writers.size < this.limits.writersMax) return;
    const silent = this.longestSilent(nowMs - BigInt(this.limits.writerIdleMsMin));
    if (silent !== undefined) this.forgetWriter(silent);
  }

  private forgetWriter(writerId: string): void {
    this.writers.delete(writerId);
    this.changed.delete(writerId);
  }

  private longestSilent(before = MILLISECONDS_MAX): string | undefined {
    let silent: string | undefined;
    let since = before;
    for (const [writerId, writer] of this.writers) {
      if (writer.last.timestampMs < since) {
        since = writer.last.timestampMs;
        silent = writerId;
      }
    }
    return silent;
  }
}

function newWriter(last: Operation, completeFrom: bigint): Writer {
  return { last, encodedMark: undefined, recent: new Map(), completeFrom };
}

function find(writer: Writer, operationId: bigint): Operation | undefined {
  return writer.recent.get(operationId) ?? (writer.last.operationId === operationId ? writer.last : undefined);
}

/** Throws for an id that is used again with other content. */
export function requireSame(writerId: string, known: Operation, contentCrc32c: number, count: number): Operation {
  if (known.contentCrc32c !== contentCrc32c || known.last - known.first + 1n !== BigInt(count)) {
    throw new OperationContentMismatchError(writerId, known.operationId, known.first, known.last);
  }
  return known;
}

/** The oldest one of its writer. */
function forget(writer: Writer, operationId: bigint): void {
  writer.recent.delete(operationId);
  writer.completeFrom = operationId + 1n;
}

function encodeMark(writerId: string, last: Operation): Uint8Array {
  const mark = {
    writerId,
    operationId: last.operationId,
    firstSequenceId: last.first,
    lastSequenceId: last.last,
    contentCrc32c: last.contentCrc32c,
    term: last.term,
    timestampMs: last.timestampMs,
  };
  return toBinary(HeadSchema, create(HeadSchema, { writers: [mark] }));
}
