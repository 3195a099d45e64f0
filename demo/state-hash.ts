import { createHash } from "node:crypto";
import { OpType } from "../src/gen/oplog/v1/entry_pb.js";
import type { OperationBatch } from "./block-cache.js";

const LANES = 4;

/** The state that the operations of a log lead to, and its hash, as standby.proto documents them. */
export class ExpectedState {
  private readonly values = new Map<string, { readonly sequenceId: bigint; readonly payload: Uint8Array }>();

  apply(firstSequenceId: bigint, operations: OperationBatch): void {
    for (const [index, { opType, key, payload }] of operations.entries()) {
      if (opType === OpType.PUT_END) this.values.set(key, { sequenceId: firstSequenceId + BigInt(index), payload });
      else if (opType === OpType.REMOVE) this.values.delete(key);
    }
  }

  hash(): string {
    const sums = new BigUint64Array(LANES);
    for (const [key, { sequenceId, payload }] of this.values) {
      const numbers = Buffer.alloc(12);
      numbers.writeBigUInt64LE(sequenceId);
      numbers.writeUInt32LE(Buffer.byteLength(key), 8);
      const digest = createHash("sha256").update(numbers).update(key).update(payload).digest();
      // Storing into 64 bits is what takes the modulus.
      for (let lane = 0; lane < LANES; lane++) sums[lane] = sums[lane]! + digest.readBigUInt64LE(8 * lane);
    }
    const bytes = Buffer.alloc(8 * LANES);
    sums.forEach((sum, lane) => void bytes.writeBigUInt64LE(sum, 8 * lane));
    return bytes.toString("hex");
  }
}
