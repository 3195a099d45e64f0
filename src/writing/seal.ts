import { create, toBinary } from "@bufbuild/protobuf";
import {
  type Codec,
  type Head,
  HeadSchema,
  type WriterOperations,
  WriterOperationsSchema,
} from "../gen/oplog/store/v1/store_pb.js";
import { frameInPlace } from "../oplog/batch-frame.js";
import type { Entries } from "../oplog/entries.js";
import { ExpectedSequenceMismatchError, OplogError, StaleTermError } from "../oplog/errors.js";
import type { Operation, OperationWindow } from "../oplog/operation-window.js";
import { type CommittedRun, chainOf, encodeRecord, stampEntries } from "../oplog/record.js";
import type { Appended, AppendItem, AppendOutcome } from "./append-item.js";

export interface RecordLimits {
  readonly entriesMax: number;
  /** Counted as costOf. */
  readonly bytesMax: number;
}

export interface SealedRecord extends CommittedRun {
  readonly nonce: Buffer;
  readonly value: Buffer;
  /** Without the marks of writers, which `headValue` has. */
  readonly head: Head;
  readonly headValue: Uint8Array;
}

export interface Sealed {
  /** In order of arrival. An outcome with ids of `record` holds only once that is durable. */
  readonly settlements: { readonly item: AppendItem; readonly outcome: AppendOutcome }[];
  /** Absent when nothing new is to be written. */
  readonly record: SealedRecord | undefined;
}

export interface SealContext {
  readonly head: Head;
  readonly term: bigint;
  readonly window: OperationWindow;
  readonly limits: RecordLimits;
  readonly codec: Codec;
  readonly wallMs: number;
  /** Of the new record, never used before. */
  readonly nonce: Buffer;
}

/** In the header of a record, for an append that came with a writer id. */
const OPERATION_BYTES = 24;

/** What an append counts towards the size of a record and of the queue. */
export function costOf(item: AppendItem): number {
  return item.entries.costBytes + (item.writerId === "" ? 0 : OPERATION_BYTES);
}

/**
 * Takes appends from the front of the line while they fit into one record, decides each, and numbers the entries of
 * those that are new. Appends are checked here, when it is their turn: only now the head before them is known.
 */
export function seal(line: readonly AppendItem[], context: SealContext): Sealed {
  const { head, term, window, limits } = context;
  const first = head.lastSequenceId + 1n;
  const timestampMs = maxOf(BigInt(context.wallMs), head.timestampMs);
  const settlements: Sealed["settlements"] = [];
  const taken: Entries[] = [];
  const operations = new Map<string, WriterOperations>();
  let last = head.lastSequenceId;
  let bytes = 0;
  for (const item of line) {
    const cost = costOf(item);
    if (taken.length > 0) {
      const entries = Number(last - head.lastSequenceId) + item.entries.count;
      if (entries > limits.entriesMax || bytes + cost > limits.bytesMax) break;
    }
    const decided = decide(item, { last, term, window, timestampMs });
    if (decided !== "new") {
      settlements.push({ item, outcome: decided });
      continue;
    }
    if (taken.length === 0) window.startRecord(first);
    const appended: Appended = {
      first: last + 1n,
      last: last + BigInt(item.entries.count),
      term,
      timestampMs,
      isDuplicate: false,
    };
    if (item.writerId !== "") {
      window.add(item.writerId, operationOf(item, appended));
      noteOperation(operations, item, Number(appended.first - first));
    }
    taken.push(item.entries);
    bytes += cost;
    last = appended.last;
    settlements.push({ item, outcome: { appended } });
  }
  if (taken.length === 0) return { settlements, record: undefined };
  window.endRecord(bytes);

  const body = stampEntries(taken, first, term, Number(timestampMs));
  const { nonce } = context;
  const origin = { term, chain: chainOf(nonce) };
  const run = {
    first,
    last,
    ...origin,
    previousChain: chainOf(head.recordNonce),
    timestampMs,
    body,
    frame: frameInPlace(body, { first, last, ...origin }),
  };
  const value = encodeRecord(
    {
      logId: head.logId,
      nonce,
      firstSequenceId: first,
      lastSequenceId: last,
      term,
      timestampMs,
      operations: [...operations.values()],
      previousNonce: head.recordNonce,
    },
    body,
    context.codec,
  );
  const newHead = create(HeadSchema, {
    logId: head.logId,
    lastSequenceId: last,
    term,
    nonce,
    recordNonce: nonce,
    timestampMs,
    windowFromSequenceId: window.windowFrom(last),
  });
  const headValue = Buffer.concat([toBinary(HeadSchema, newHead), ...window.encodedMarks()]);
  return { settlements, record: { ...run, nonce, value, head: newHead, headValue } };
}

interface Turn {
  readonly last: bigint;
  readonly term: bigint;
  readonly window: OperationWindow;
  readonly timestampMs: bigint;
}

function decide(item: AppendItem, { last, term, window, timestampMs }: Turn): AppendOutcome | "new" {
  try {
    if (item.isAbandoned()) {
      return { error: new OplogError("ABORTED", "ABANDONED", "the caller left before it was this append's turn") };
    }
    if (item.writerId !== "") {
      const known = window.check(item.writerId, item.operationId, item.contentCrc32c, item.entries.count, timestampMs);
      if (known !== undefined) return { appended: { ...known, isDuplicate: true } };
    }
    if (item.expectedTerm !== undefined && item.expectedTerm !== term)
      throw new StaleTermError(item.expectedTerm, term);
    if (item.expectedSequenceId !== undefined && item.expectedSequenceId !== last) {
      throw new ExpectedSequenceMismatchError(item.expectedSequenceId, last);
    }
    return "new";
  } catch (error) {
    if (error instanceof OplogError) return { error };
    throw error;
  }
}

/** Field by field: after a spread each of these, which are kept in thousands, has a hidden class of its own. */
function operationOf(item: AppendItem, { first, last, term, timestampMs }: Appended): Operation {
  return { operationId: item.operationId, first, last, term, timestampMs, contentCrc32c: item.contentCrc32c };
}

function noteOperation(operations: Map<string, WriterOperations>, item: AppendItem, firstOffset: number): void {
  let writer = operations.get(item.writerId);
  if (writer === undefined) {
    writer = create(WriterOperationsSchema, { writerId: item.writerId });
    operations.set(item.writerId, writer);
  }
  writer.operationId.push(item.operationId);
  writer.firstOffset.push(firstOffset);
  writer.entryCount.push(item.entries.count);
  writer.contentCrc32c.push(item.contentCrc32c);
}

function maxOf(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
