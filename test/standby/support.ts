import { createHash } from "node:crypto";
import * as fc from "fast-check";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { stampEntries } from "../../src/oplog/record.js";
import { type KeyOrderViolation, StandbyState } from "../../src/standby/standby-state.js";
import { type EntryInit, validated } from "../oplog/entries-support.js";

export const TIMESTAMP_MS = 1_700_000_000_000;

export interface Operation {
  readonly opType: OpType;
  readonly key: string;
  readonly payload?: Uint8Array;
  readonly keySequenceId?: bigint;
  readonly leaseMs?: bigint;
}

export const put = (key: string, payload = "", keySequenceId?: bigint): Operation => ({
  opType: OpType.PUT_END,
  key,
  payload: Buffer.from(payload),
  ...(keySequenceId === undefined ? {} : { keySequenceId }),
});
/** With a lease of its own. */
export const leased = (key: string, leaseMs: number): Operation => ({
  opType: OpType.PUT_END,
  key,
  leaseMs: BigInt(leaseMs),
});
const bare = (opType: OpType) => (key: string, keySequenceId?: bigint) =>
  keySequenceId === undefined ? { opType, key } : { opType, key, keySequenceId };
export const remove = bare(OpType.REMOVE);
export const revoke = bare(OpType.PUT_REVOKE);
export const event = bare(OpType.EVENT);

/** A Batch of these operations, numbered from `first` on. */
export function batchOf(operations: readonly Operation[], first = 1, term = 1n, atMs = TIMESTAMP_MS): Buffer {
  return stampEntries([validated(operations as readonly EntryInit[])], BigInt(first), term, atMs);
}

export function aState() {
  const violations: KeyOrderViolation[] = [];
  const state = new StandbyState((violation) => violations.push(violation));
  return {
    state,
    violations,
    /** Goes on where the state stands. */
    apply: (...operations: Operation[]) => state.apply(batchOf(operations, state.applied + 1)),
    applyAt: (atMs: number, ...operations: Operation[]) =>
      state.apply(batchOf(operations, state.applied + 1, 1n, atMs)),
  };
}

/** The rules once more, in the plainest way there is. */
export class Model {
  readonly entries = new Map<string, { payload: string; sequenceId: number; keySequenceId: bigint }>();
  applied = 0;
  violations = 0;

  apply({ opType, key, payload = new Uint8Array(), keySequenceId: given }: Operation): void {
    this.applied++;
    if (opType === OpType.EVENT) return;
    const held = this.entries.get(key);
    const next = (held?.keySequenceId ?? 0n) + 1n;
    const keySequenceId = given ?? (next < 2n ** 64n ? next : next - 1n);
    if (held !== undefined && given !== undefined && given <= held.keySequenceId) {
      this.violations++;
      this.entries.delete(key);
    } else if (opType === OpType.PUT_END) {
      this.entries.set(key, { payload: hex(payload), sequenceId: this.applied, keySequenceId });
    } else if (opType === OpType.REMOVE) {
      this.entries.delete(key);
    } else if (held !== undefined) {
      held.keySequenceId = keySequenceId;
    }
  }

  get hash(): string {
    return hashOf([...this.entries].map(([key, { payload, sequenceId }]) => ({ key, payload, sequenceId })));
  }
}

/** The state hash as standby.proto documents it. */
export function hashOf(entries: readonly { key: string; payload: string; sequenceId: number }[]): string {
  const lanes = [0n, 0n, 0n, 0n];
  for (const { key, payload, sequenceId } of entries) {
    const numbers = Buffer.alloc(12);
    numbers.writeBigUInt64LE(BigInt(sequenceId));
    numbers.writeUInt32LE(Buffer.byteLength(key), 8);
    const digest = createHash("sha256").update(numbers).update(key).update(payload, "hex").digest();
    lanes.forEach((lane, index) => {
      lanes[index] = BigInt.asUintN(64, lane + digest.readBigUInt64LE(index * 8));
    });
  }
  const bytes = Buffer.alloc(32);
  lanes.forEach((lane, index) => void bytes.writeBigUInt64LE(lane, index * 8));
  return hex(bytes);
}

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

/** Few keys and small key sequence ids, so that they meet. */
export const anyOperation: fc.Arbitrary<Operation> = fc
  .record({
    opType: fc.constantFrom(OpType.PUT_END, OpType.PUT_END, OpType.PUT_REVOKE, OpType.REMOVE, OpType.EVENT),
    key: fc.constantFrom("a", "b", "ü", "a long key of forty bytes and some more", ...Array.from("cdefgh")),
    payload: fc.uint8Array({ maxLength: 40 }),
    keySequenceId: fc.option(
      fc.oneof(
        { arbitrary: fc.bigInt({ min: 0n, max: 12n }), weight: 8 },
        { arbitrary: fc.bigInt({ min: 2n ** 64n - 2n, max: 2n ** 64n - 1n }), weight: 1 },
      ),
      { nil: undefined, freq: 2 },
    ),
  })
  .map(({ keySequenceId, ...rest }) => (keySequenceId === undefined ? rest : { ...rest, keySequenceId }));
