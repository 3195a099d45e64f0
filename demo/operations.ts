import { BlockCache, type OperationBatch, operationsOf } from "./block-cache.js";
import { ContentHash } from "./content-hash.js";
import { ExpectedState } from "./state-hash.js";
import type { TraceRequest } from "./trace.js";

/** A batch and where it stands in the log, whoever appends it: the operations follow from the trace alone. */
export interface NumberedBatch {
  /** Of the only writer of the log: 1, 2, 3 … */
  readonly operationId: bigint;
  readonly firstSequenceId: bigint;
  readonly operations: OperationBatch;
}

/** All that a master appends for these requests, from the first operation after `applied` on. */
export function* batchesAfter(requests: readonly TraceRequest[], applied: bigint): Generator<NumberedBatch> {
  const cache = new BlockCache();
  let operationId = 0n;
  let firstSequenceId = 1n;
  for (const request of requests) {
    for (const touches of cache.batchesOf(request)) {
      operationId++;
      const next = firstSequenceId + BigInt(touches.length);
      if (firstSequenceId > applied) yield { operationId, firstSequenceId, operations: operationsOf(touches) };
      else if (next > applied + 1n) {
        throw new Error(`entry ${applied} is inside of append ${operationId}, which is all or nothing`);
      }
      firstSequenceId = next;
    }
  }
}

export interface WholeLog {
  readonly operations: number;
  /** Of keys and payloads. */
  readonly bytes: number;
  readonly hash: string;
  /** Of the state after the last operation. */
  readonly stateHash: string;
}

/** What the log must hold in the end. */
export function wholeLogOf(requests: readonly TraceRequest[]): WholeLog {
  const hash = new ContentHash();
  const state = new ExpectedState();
  let operations = 0;
  let bytes = 0;
  for (const batch of batchesAfter(requests, 0n)) {
    hash.update(
      batch.operations.map((each, index) => ({ ...each, sequenceId: batch.firstSequenceId + BigInt(index) })),
    );
    state.apply(batch.firstSequenceId, batch.operations);
    operations += batch.operations.length;
    for (const { key, payload } of batch.operations) bytes += key.length + payload.length;
  }
  return { operations, bytes, hash: hash.digest(), stateHash: state.hash() };
}
