import { create, toBinary } from "@bufbuild/protobuf";
import { HeadSchema } from "../gen/oplog/store/v1/store_pb.js";
import { OperationContentMismatchError, OperationIdUsedError, TooManyError } from "./errors.js";

export interface WindowLimits {
  readonly operationsMax: number;
  readonly operationsPerWriterMax: number;
  /** Of the records that a take-over reads back. */
  readonly recordBytesMax: number;
  readonly writersMax: number;
  /** A writer silent for less than this is never forgotten. */
  readonly writerIdleMsMin: number;
}

export const WINDOW_LIMITS: WindowLimits = {
  operationsMax: 65_536,
  operationsPerWriterMax: 4096,
  recordBytesMax: 64 * 1024 * 1024,
  writersMax: 1024,
  writerIdleMsMin: 3_600_000,
};

export interface Operation {
  readonly operationId: bigint;
  readonly first: bigint;
  readonly last: bigint;
  readonly term: bigint;
  readonly timestampMs: bigint;
  readonly contentCrc32c: number;
}

interface Writer {
  last: Operation;
  encodedMark: Uint8Array | undefined;
  /** In order of commit; always holds `last`. */
  readonly recent: Map<bigint, Operation>;
  /** Lowest id that is certainly still in `recent` if it was ever committed. */
  completeFrom: bigint;
}

interface Remembered {
  readonly writerId: string;
  readonly operationId: bigint;
  readonly recordFirst: bigint;
  readonly recordBytes: number;
}

export type Resolution =
  | { readonly outcome: "committed"; readonly operation: Operation; readonly highest: bigint }
  | { readonly outcome: "not committed"; readonly highest: bigint }
  | { readonly outcome: "forgotten"; readonly highest: bigint };

/**
 * Which operations of which writers are in the log. The last one of every writer is kept in the head and so outlives
 * everything; recent others are kept in memory and can be read back from the records.
 */
export class OperationWindow {
  private readonly writers = new Map<string, Writer>();
  /** Oldest first; elements before `oldest` are dropped. */
  private remembered: Remembered[] = [];
  private oldest = 0;
  private recordBytes = 0;
  private operations = 0;
  private lastRecordFirst = 0n;

  constructor(private readonly limits: WindowLimits = WINDOW_LIMITS) {}

  /** The mark of a writer as the head holds it. Comes before the records are read back. */
  restoreMark(writerId: string, operation: Operation): void {
    this.writers.set(writerId, newWriter(operation));
  }

  /** One record's operations, oldest record first. Those of writers that the head has forgotten are passed over. */
  restoreRecord(
    recordFirst: bigint,
    recordBytes: number,
    operations: Iterable<[writerId: string, operation: Operation]>,
  ): void {
    this.startRecord(recordFirst, recordBytes);
    for (const [writerId, operation] of operations) {
      const writer = this.writers.get(writerId);
      if (writer === undefined) continue;
      // The mark stands first in the map from restoreMark; ids rise, so putting it again keeps the order of commit.
      writer.recent.delete(operation.operationId);
      writer.recent.set(operation.operationId, operation);
      if (operation.operationId < writer.completeFrom) writer.completeFrom = operation.operationId;
      if (writer.recent.size > this.limits.operationsPerWriterMax) dropOldest(writer);
      this.remember(writerId, operation.operationId, recordFirst);
    }
  }

  /**
   * Whether an append is new. Answers the first commit's result for a retry; throws for an id that is used up, used for
   * other content, or of one writer too many.
   */
  check(
    writerId: string,
    operationId: bigint,
    contentCrc32c: number,
    count: number,
    nowMs: bigint,
  ): Operation | undefined {
    const writer = this.writers.get(writerId);
    if (writer === undefined) {
      if (this.writers.size >= this.limits.writersMax && this.longestSilent(nowMs) === undefined) {
        throw new TooManyError("writers of this log within the last hour", this.limits.writersMax, 60_000);
      }
      return undefined;
    }
    if (operationId > writer.last.operationId) return undefined;
    const known = writer.recent.get(operationId);
    if (known === undefined) throw new OperationIdUsedError(writerId, operationId, writer.last.operationId);
    if (known.contentCrc32c !== contentCrc32c || known.last - known.first + 1n !== BigInt(count)) {
      throw new OperationContentMismatchError(writerId, operationId, known.first, known.last);
    }
    return known;
  }

  /** Call once before the operations of a new record. */
  startRecord(recordFirst: bigint, recordBytes: number): void {
    this.lastRecordFirst = recordFirst;
    // Bytes are charged also for records without operations: a take-over has to read past them.
    this.remembered.push({ writerId: "", operationId: 0n, recordFirst, recordBytes });
    this.recordBytes += recordBytes;
    this.evict();
  }

  add(writerId: string, operation: Operation): void {
    const writer = this.writers.get(writerId);
    if (writer === undefined) {
      this.makeRoom(operation.timestampMs);
      this.writers.set(writerId, newWriter(operation));
    } else {
      writer.last = operation;
      writer.encodedMark = undefined;
      writer.recent.set(operation.operationId, operation);
      if (writer.recent.size > this.limits.operationsPerWriterMax) dropOldest(writer);
    }
    this.remember(writerId, operation.operationId, this.lastRecordFirst);
  }

  resolve(writerId: string, operationId: bigint): Resolution {
    const writer = this.writers.get(writerId);
    if (writer === undefined) {
      // Writers are only ever forgotten while the table is full, and it stays full from then on.
      const mayBeForgotten = this.writers.size >= this.limits.writersMax;
      return { outcome: mayBeForgotten ? "forgotten" : "not committed", highest: 0n };
    }
    const highest = writer.last.operationId;
    const operation = writer.recent.get(operationId);
    if (operation !== undefined) return { outcome: "committed", operation, highest };
    // An id that was passed over can never commit any more, ids rise.
    if (operationId > highest || operationId > writer.completeFrom) return { outcome: "not committed", highest };
    return { outcome: "forgotten", highest };
  }

  /** Head.writers in wire form: encoded once for each operation, however often the head is written. */
  encodedMarks(): Uint8Array[] {
    return Array.from(this.writers, ([writerId, writer]) => {
      writer.encodedMark ??= encodeMark(writerId, writer.last);
      return writer.encodedMark;
    });
  }

  /** Where a take-over starts to read records; `head` + 1 when nothing needs to be read. */
  windowFrom(head: bigint): bigint {
    return this.remembered[this.oldest]?.recordFirst ?? head + 1n;
  }

  private remember(writerId: string, operationId: bigint, recordFirst: bigint): void {
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
      if (writer !== undefined && writer.last.operationId !== gone.operationId) {
        if (writer.recent.delete(gone.operationId)) writer.completeFrom = firstKey(writer.recent);
      }
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

  private makeRoom(nowMs: bigint): void {
    if (this.writers.size < this.limits.writersMax) return;
    const silent = this.longestSilent(nowMs);
    if (silent !== undefined) this.writers.delete(silent);
  }

  private longestSilent(nowMs: bigint): string | undefined {
    let silent: string | undefined;
    let since = nowMs - BigInt(this.limits.writerIdleMsMin);
    for (const [writerId, writer] of this.writers) {
      if (writer.last.timestampMs < since) {
        since = writer.last.timestampMs;
        silent = writerId;
      }
    }
    return silent;
  }
}

function newWriter(last: Operation): Writer {
  const { operationId } = last;
  return { last, encodedMark: undefined, recent: new Map([[operationId, last]]), completeFrom: operationId };
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

function dropOldest(writer: Writer): void {
  writer.recent.delete(firstKey(writer.recent));
  writer.completeFrom = firstKey(writer.recent);
}

function firstKey(recent: Map<bigint, Operation>): bigint {
  return recent.keys().next().value!;
}
