import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { type Codec, type Head, HeadSchema, WriterMarksSchema } from "../gen/oplog/store/v1/store_pb.js";
import { ExpectedSequenceMismatchError } from "../oplog/append-errors.js";
import { frameInPlace } from "../oplog/batch-frame.js";
import type { Entries } from "../oplog/entries.js";
import { OplogError } from "../oplog/errors.js";
import { StaleTermError } from "../oplog/leadership-errors.js";
import { logTimeMs } from "../oplog/log-time.js";
import type { Operation, OperationWindow } from "../oplog/operation-window.js";
import { type CommittedRun, chainOf, encodeRecord, stampEntries } from "../oplog/record.js";
import type { Appended, AppendItem, AppendOutcome } from "./append-item.js";
import type { Barriers } from "./barriers.js";
import { RecordOperations } from "./record-operations.js";

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
  /** Those of all writers, to be put with it. */
  readonly marksValue: Uint8Array | undefined;
  /** For the window to learn of once the record is durable. */
  readonly operations: RecordOperations;
  /** Counted as costOf. */
  readonly bytes: number;
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
  /** Of all durable records. */
  readonly window: OperationWindow;
  readonly barriers: Barriers;
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
 * Changes nothing but its result, so that the same appends can be sealed again after some have been ruled out.
 *
 * Takes appends from the front of the line while they fit into one record, decides each of them, and numbers the entries
 * of the new ones. Appends are checked here and not earlier, because only now the head before them is known.
 */
export function seal(line: readonly AppendItem[], context: SealContext): Sealed {
  const { head, term, window, barriers, limits } = context;
  const first = head.lastSequenceId + 1n;
  const timestampMs = BigInt(logTimeMs(context.wallMs, Number(head.timestampMs)));
  const settlements: Sealed["settlements"] = [];
  const taken: Entries[] = [];
  const operations = new RecordOperations(window, barriers);
  let last = head.lastSequenceId;
  let bytes = 0;
  for (const item of line) {
    const cost = costOf(item);
    if (taken.length > 0) {
      const entries = Number(last - head.lastSequenceId) + item.entries.count;
      if (entries > limits.entriesMax || bytes + cost > limits.bytesMax) break;
    }
    const decided = decide(item, { last, term, operations, timestampMs });
    if (decided !== "new") {
      settlements.push({ item, outcome: decided });
      continue;
    }
    const appended: Appended = {
      first: last + 1n,
      last: last + BigInt(item.entries.count),
      term,
      timestampMs,
      isDuplicate: false,
    };
    if (item.writerId !== "") operations.add(item.writerId, operationOf(item, appended));
    taken.push(item.entries);
    bytes += cost;
    last = appended.last;
    settlements.push({ item, outcome: { appended } });
  }
  if (taken.length === 0) return { settlements, record: undefined };

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
      operations: operations.inHeader(first),
      previousNonce: head.recordNonce,
    },
    body,
    context.codec,
  );
  const marks = window.marksWith(operations.newest);
  const marksGeneration = head.marksGeneration + (marks.all === undefined ? 0n : 1n);
  const newHead = create(HeadSchema, {
    logId: head.logId,
    lastSequenceId: last,
    term,
    nonce,
    recordNonce: nonce,
    timestampMs,
    windowFromSequenceId: window.windowFrom(head.lastSequenceId),
    marksGeneration,
  });
  const headValue = Buffer.concat([toBinary(HeadSchema, newHead), ...marks.inHead]);
  const marksValue = marks.all && encodeAll(marks.all, marksGeneration);
  return { settlements, record: { ...run, nonce, value, head: newHead, headValue, marksValue, operations, bytes } };
}

interface SealPoint {
  readonly last: bigint;
  readonly term: bigint;
  readonly operations: RecordOperations;
  readonly timestampMs: bigint;
}

function decide(item: AppendItem, { last, term, operations, timestampMs }: SealPoint): AppendOutcome | "new" {
  try {
    if (item.isAbandoned()) {
      return { error: new OplogError("ABORTED", "ABANDONED", "the caller left before it was this append's turn") };
    }
    if (item.writerId !== "") {
      const known = operations.check(item, timestampMs);
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

function encodeAll(marks: readonly Uint8Array[], generation: bigint): Uint8Array {
  const { writers } = fromBinary(HeadSchema, Buffer.concat(marks));
  return toBinary(WriterMarksSchema, create(WriterMarksSchema, { generation, writers }));
}

/** Field by field: after a spread each of these, which are kept in thousands, has a hidden class of its own. */
function operationOf(item: AppendItem, { first, last, term, timestampMs }: Appended): Operation {
  return { operationId: item.operationId, first, last, term, timestampMs, contentCrc32c: item.contentCrc32c };
}
