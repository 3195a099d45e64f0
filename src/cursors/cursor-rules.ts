import { create } from "@bufbuild/protobuf";
import { type Cursor, CursorSchema } from "../gen/oplog/store/v1/store_pb.js";
import { InvalidArgumentError, type OplogError } from "../oplog/errors.js";
import { BeyondHeadError, CursorRegressedError } from "../oplog/log-errors.js";

export const STATE_HASH_BYTES_MAX = 64;

export interface CursorUpdate {
  readonly consumer: string;
  readonly received: bigint;
  readonly flushed: bigint;
  readonly applied: bigint;
  readonly stateHash: Uint8Array;
  /** In hex, as the consumer was told of the entry applied; "" = it does not say. */
  readonly appliedChain: string;
  readonly isRewindAllowed: boolean;
}

/** Fills in the positions that were left out, each from the next one. Throws InvalidArgumentError. */
export function completeUpdate(update: CursorUpdate): CursorUpdate {
  const { applied } = update;
  const flushed = update.flushed === 0n ? applied : update.flushed;
  const received = update.received === 0n ? flushed : update.received;
  if (flushed < applied) throw orderError("flushed_sequence_id", flushed, "applied_sequence_id", applied);
  if (received < flushed) throw orderError("received_sequence_id", received, "flushed_sequence_id", flushed);
  return { ...update, flushed, received };
}

/** Where a complete update takes the cursor, or why it does not. Pure. */
export function moveCursor(
  current: Cursor | undefined,
  update: CursorUpdate,
  head: bigint,
  wallMs: number,
): Cursor | OplogError {
  const { received, flushed, applied, stateHash, appliedChain } = update;
  if (received > head) return new BeyondHeadError(received, head);
  if (current !== undefined && !update.isRewindAllowed) {
    const positions: [string, bigint, bigint][] = [
      ["received_sequence_id", received, current.receivedSequenceId],
      ["flushed_sequence_id", flushed, current.flushedSequenceId],
      ["applied_sequence_id", applied, current.appliedSequenceId],
    ];
    for (const [field, yours, stored] of positions) {
      if (yours < stored) return new CursorRegressedError(field, yours, stored);
    }
  }
  return create(CursorSchema, {
    receivedSequenceId: received,
    flushedSequenceId: flushed,
    appliedSequenceId: applied,
    stateHash,
    updatedAtMs: BigInt(wallMs),
    appliedChain: Buffer.from(appliedChain, "hex"),
  });
}

function orderError(field: string, value: bigint, above: string, bound: bigint): InvalidArgumentError {
  return new InvalidArgumentError(field, `${value} is below ${above}, ${bound}; received >= flushed >= applied`, {
    received: value,
    limit: bound,
  });
}
