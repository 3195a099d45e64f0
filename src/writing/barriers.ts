import { create, toBinary } from "@bufbuild/protobuf";
import { BarriersSchema } from "../gen/oplog/store/v1/store_pb.js";
import type { KeyValue } from "../oplog/kv-store.js";
import { decodeState } from "../stored/decode.js";

export const BARRIERS_MAX = 1024;
export const BARRIERS_BYTES_MAX = 64 * 1024;
/** Of one operation id, and of a writer beside its name, in wire form. */
const OPERATION_BYTES = 10;
const WRITER_BYTES = 8;

/** The operations that are ruled out: each was called NOT_COMMITTED while it was above the highest of its writer. */
export class Barriers {
  private readonly byWriter = new Map<string, Set<bigint>>();
  private count = 0;
  private bytes = 0;

  static decode(pair: KeyValue | undefined): Barriers {
    const barriers = new Barriers();
    if (pair === undefined) return barriers;
    for (const { writerId, operationId } of decodeState(BarriersSchema, pair).writers) {
      for (const id of operationId) barriers.insert(writerId, id);
    }
    return barriers;
  }

  encode(): Uint8Array {
    const writers = Array.from(this.byWriter, ([writerId, ids]) => ({ writerId, operationId: [...ids] }));
    return toBinary(BarriersSchema, create(BarriersSchema, { writers }));
  }

  has(writerId: string, operationId: bigint): boolean {
    return this.byWriter.get(writerId)?.has(operationId) ?? false;
  }

  /** False: there are too many. */
  add(writerId: string, operationId: bigint): boolean {
    if (this.has(writerId, operationId)) return true;
    if (this.count >= BARRIERS_MAX || this.bytes + this.costOf(writerId) > BARRIERS_BYTES_MAX) return false;
    this.insert(writerId, operationId);
    return true;
  }

  /** Drops the barriers that the writer has passed: an id at or below its highest can never commit any more. */
  prune(highestOf: (writerId: string) => bigint): void {
    for (const [writerId, ids] of this.byWriter) {
      const highest = highestOf(writerId);
      for (const id of ids) if (id <= highest) this.remove(writerId, ids, id);
    }
  }

  private costOf(writerId: string): number {
    return OPERATION_BYTES + (this.byWriter.has(writerId) ? 0 : Buffer.byteLength(writerId) + WRITER_BYTES);
  }

  private insert(writerId: string, operationId: bigint): void {
    this.bytes += this.costOf(writerId);
    this.count++;
    const ids = this.byWriter.get(writerId);
    if (ids === undefined) this.byWriter.set(writerId, new Set([operationId]));
    else ids.add(operationId);
  }

  private remove(writerId: string, ids: Set<bigint>, operationId: bigint): void {
    ids.delete(operationId);
    if (ids.size === 0) this.byWriter.delete(writerId);
    this.bytes -= this.costOf(writerId);
    this.count--;
  }
}

/** Why an operation that cannot be ruled out is UNKNOWN. */
export const TOO_MANY_BARRIERS = `${BARRIERS_MAX} operations of this log are ruled out whose writers have committed nothing since; ask again once they have`;
