import { createHash } from "node:crypto";
import { type Entry, OpType } from "../../src/gen/oplog/v1/entry_pb.js";

/** The hash that GetStateHashResponse in standby.proto defines, of what these entries make: done over, and simply. */
export function stateHash(entries: readonly Entry[]): string {
  const state = new Map<string, Entry>();
  for (const entry of entries) {
    if (entry.keySequenceId !== undefined) throw new Error("this one does not know the order of keys");
    if (entry.opType === OpType.PUT_END) state.set(entry.key, entry);
    if (entry.opType === OpType.REMOVE) state.delete(entry.key);
  }
  const sums = [0n, 0n, 0n, 0n];
  for (const { key, payload, sequenceId } of state.values()) {
    const keyBytes = Buffer.from(key);
    const numbers = Buffer.alloc(12);
    numbers.writeBigUInt64LE(sequenceId);
    numbers.writeUInt32LE(keyBytes.length, 8);
    const digest = createHash("sha256").update(numbers).update(keyBytes).update(payload).digest();
    for (const lane of sums.keys()) sums[lane] = BigInt.asUintN(64, sums[lane]! + digest.readBigUInt64LE(8 * lane));
  }
  const bytes = Buffer.alloc(32);
  for (const [lane, sum] of sums.entries()) bytes.writeBigUInt64LE(sum, 8 * lane);
  return bytes.toString("hex");
}
