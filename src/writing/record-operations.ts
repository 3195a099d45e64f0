import { create } from "@bufbuild/protobuf";
import { type WriterOperations, WriterOperationsSchema } from "../gen/oplog/store/v1/store_pb.js";
import { OperationIdUsedError, OperationRuledOutError } from "../oplog/append-errors.js";
import { type Operation, type OperationWindow, requireSame } from "../oplog/operation-window.js";
import type { AppendItem } from "./append-item.js";
import type { Barriers } from "./barriers.js";

interface EnteredRecord {
  readonly first: bigint;
  /** Its cost for whoever reads it back. */
  readonly bytes: number;
  readonly marksValue: Uint8Array | undefined;
}

/** The operations of one record that is being put together, before the window knows of them. */
export class RecordOperations {
  private readonly byWriter = new Map<string, Operation[]>();
  /** Of those, how many the window does not know. */
  private newWriters = 0;

  constructor(
    private readonly window: OperationWindow,
    private readonly barriers: Barriers,
  ) {}

  /** Answers what a retry is to be told; undefined: it is new. Throws OplogError for what may not be written. */
  check({ writerId, operationId, contentCrc32c, entries }: AppendItem, nowMs: bigint): Operation | undefined {
    const here = this.byWriter.get(writerId);
    const highest = here?.at(-1)?.operationId ?? this.window.highestOf(writerId);
    const isRuledOut = operationId > highest && this.barriers.has(writerId, operationId);
    if (isRuledOut) {
      const upTo = this.barriers.upTo(writerId);
      throw new OperationRuledOutError(writerId, operationId, upTo > highest ? upTo : highest);
    }
    if (here !== undefined && operationId > highest) return undefined;
    const known = here?.find((operation) => operation.operationId === operationId);
    if (known !== undefined) return requireSame(writerId, known, contentCrc32c, entries.count);
    const before = this.window.check(writerId, operationId, contentCrc32c, entries.count, nowMs, this.newWriters);
    if (before === undefined && here !== undefined) throw new OperationIdUsedError(writerId, operationId, highest);
    return before;
  }

  add(writerId: string, operation: Operation): void {
    const here = this.byWriter.get(writerId);
    if (here !== undefined) here.push(operation);
    else this.byWriter.set(writerId, [operation]);
    if (here === undefined && this.window.highestOf(writerId) === 0n) this.newWriters++;
  }

  hasAnyOf(barriers: Barriers): boolean {
    for (const [writerId, operations] of this.byWriter) {
      if (operations.some(({ operationId }) => barriers.has(writerId, operationId))) return true;
    }
    return false;
  }

  /** The marks of the writers once the record is durable. */
  get newest(): Map<string, Operation> {
    return new Map(Array.from(this.byWriter, ([writerId, operations]) => [writerId, operations.at(-1)!]));
  }

  /** The record is durable. */
  enter({ first, bytes, marksValue }: EnteredRecord): void {
    if (marksValue !== undefined) this.window.allMarksPut();
    this.window.startRecord(first);
    for (const [writerId, operations] of this.byWriter) {
      for (const operation of operations) this.window.add(writerId, operation);
    }
    this.window.endRecord(bytes);
  }

  /** As the header of a record whose first id is this tells them. */
  inHeader(first: bigint): WriterOperations[] {
    return Array.from(this.byWriter, ([writerId, operations]) =>
      create(WriterOperationsSchema, {
        writerId,
        operationId: operations.map(({ operationId }) => operationId),
        firstOffset: operations.map((operation) => Number(operation.first - first)),
        entryCount: operations.map((operation) => Number(operation.last - operation.first) + 1),
        contentCrc32c: operations.map(({ contentCrc32c }) => contentCrc32c),
      }),
    );
  }
}
