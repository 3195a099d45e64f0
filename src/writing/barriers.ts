import { create, toBinary } from "@bufbuild/protobuf";
import { BarriersSchema } from "../gen/oplog/store/v1/store_pb.js";
import type { KeyValue } from "../oplog/kv-store.js";
import { LOG_AHEAD_MS_MAX, logTimeMs } from "../oplog/log-time.js";
import { decodeState } from "../stored/decode.js";

export const BARRIERS_MAX = 1024;
export const BARRIERS_BYTES_MAX = 64 * 1024;
/** Of one operation id, and of a writer beside its name, in wire form. */
const OPERATION_BYTES = 10;
const WRITER_BYTES = 28;
const HOUR_MS = 3_600_000;
/** At least a day after the last answer, since the time of that is noted to the hour. */
export const KEPT_MS_MIN = 25 * HOUR_MS;

interface RuledOut {
  readonly ids: Set<bigint>;
  /** Everything up to this that is not committed; 0n = nothing. */
  upTo: bigint;
  /** When one was asked about last; 0 = not known. */
  askedMs: number;
}

/**
 * The operations that are ruled out: each was called NOT_COMMITTED while it was above the highest of its writer.
 *
 * Their number has a bound, which those of silent writers must not use up for good. So where it is reached, all operations of
 * one writer up to the highest that is ruled out are ruled out too: ids rise, so the writer hardly needs them. If that is
 * not enough, those are dropped that were asked about longest ago, once the log has gone on for more than a day since. By
 * then the leader has settled what was on its way; only who sends such an operation anew could still have it written.
 */
export class Barriers {
  private readonly byWriter = new Map<string, RuledOut>();
  private count = 0;
  private bytes = 0;
  /** Nothing can be folded or dropped while this is the time of the newest entry. */
  private roomlessAtMs: number | undefined;

  static decode(pair: KeyValue | undefined): Barriers {
    const barriers = new Barriers();
    if (pair === undefined) return barriers;
    for (const { writerId, operationId, upToOperationId, timestampMs } of decodeState(BarriersSchema, pair).writers) {
      barriers.insert(writerId, { ids: new Set(operationId), upTo: upToOperationId, askedMs: Number(timestampMs) });
    }
    return barriers;
  }

  encode(): Uint8Array {
    const writers = Array.from(this.byWriter, ([writerId, { ids, upTo, askedMs }]) => ({
      ...{ writerId, operationId: [...ids] },
      ...{ upToOperationId: upTo, timestampMs: BigInt(askedMs) },
    }));
    return toBinary(BarriersSchema, create(BarriersSchema, { writers }));
  }

  has(writerId: string, operationId: bigint): boolean {
    const known = this.byWriter.get(writerId);
    return known !== undefined && (operationId <= known.upTo || known.ids.has(operationId));
  }

  /** Everything of this writer up to here is ruled out, or committed; 0n = that is not known of any. */
  upTo(writerId: string): bigint {
    return this.byWriter.get(writerId)?.upTo ?? 0n;
  }

  /**
   * Rules the operation out. `headMs`: the time of the newest entry. "unchanged": it was so before, and nothing need be put.
   * "refused": there are too many.
   */
  add(writerId: string, operationId: bigint, wallMs: number, headMs: number): "changed" | "unchanged" | "refused" {
    const nowMs = logTimeMs(wallMs, headMs);
    const known = this.byWriter.get(writerId);
    if (known !== undefined && this.has(writerId, operationId)) {
      if (nowMs - known.askedMs < HOUR_MS) return "unchanged";
      known.askedMs = nowMs;
      return "changed";
    }
    if (!this.makeRoom(writerId, nowMs, headMs)) return "refused";
    const found = this.remove(writerId) ?? { ids: new Set(), upTo: 0n, askedMs: nowMs };
    if (operationId > found.upTo) found.ids.add(operationId);
    found.askedMs = Math.max(found.askedMs, nowMs);
    this.insert(writerId, found);
    return "changed";
  }

  /** Drops the barriers that the writer has passed: an id at or below its highest can never commit any more. */
  prune(highestOf: (writerId: string) => bigint): void {
    for (const [writerId, known] of this.byWriter) {
      const highest = highestOf(writerId);
      if (highest === 0n) continue;
      const ids = new Set([...known.ids].filter((id) => id > highest));
      const upTo = known.upTo > highest ? known.upTo : 0n;
      if (ids.size === known.ids.size && upTo === known.upTo) continue;
      this.remove(writerId);
      if (ids.size > 0 || upTo > 0n) this.insert(writerId, { ids, upTo, askedMs: known.askedMs });
    }
  }

  private makeRoom(writerId: string, nowMs: number, headMs: number): boolean {
    const isFull = () => {
      const bytes = OPERATION_BYTES + (this.byWriter.has(writerId) ? 0 : writerBytes(writerId));
      return this.count >= BARRIERS_MAX || this.bytes + bytes > BARRIERS_BYTES_MAX;
    };
    while (isFull()) {
      if (this.roomlessAtMs === headMs) return false;
      if (!this.foldLargest() && !this.dropSilent(nowMs, headMs)) this.roomlessAtMs = headMs;
    }
    return true;
  }

  private foldLargest(): boolean {
    let largest = "";
    let most = 1;
    for (const [writerId, known] of this.byWriter) {
      if (placesOf(known) <= most) continue;
      most = placesOf(known);
      largest = writerId;
    }
    if (most === 1) return false;
    const { ids, upTo, askedMs } = this.remove(largest)!;
    const highest = [...ids].reduce((high, id) => (id > high ? id : high), upTo);
    this.insert(largest, { ids: new Set(), upTo: highest, askedMs });
    return true;
  }

  private dropSilent(nowMs: number, headMs: number): boolean {
    let silent: string | undefined;
    let sinceMs = headMs - KEPT_MS_MIN;
    for (const [writerId, known] of this.byWriter) {
      // Of a version that did not note it, or by the mistake of a clock.
      if (known.askedMs === 0 || known.askedMs > nowMs + LOG_AHEAD_MS_MAX) known.askedMs = nowMs;
      if (known.askedMs >= sinceMs) continue;
      sinceMs = known.askedMs;
      silent = writerId;
    }
    return silent !== undefined && this.remove(silent) !== undefined;
  }

  private insert(writerId: string, ruledOut: RuledOut): void {
    this.byWriter.set(writerId, ruledOut);
    this.count += placesOf(ruledOut);
    this.bytes += bytesOf(writerId, ruledOut);
  }

  private remove(writerId: string): RuledOut | undefined {
    const known = this.byWriter.get(writerId);
    if (known === undefined) return undefined;
    this.byWriter.delete(writerId);
    this.roomlessAtMs = undefined;
    this.count -= placesOf(known);
    this.bytes -= bytesOf(writerId, known);
    return known;
  }
}

function placesOf({ ids, upTo }: RuledOut): number {
  return ids.size + (upTo === 0n ? 0 : 1);
}

function bytesOf(writerId: string, { ids }: RuledOut): number {
  return writerBytes(writerId) + ids.size * OPERATION_BYTES;
}

function writerBytes(writerId: string): number {
  return Buffer.byteLength(writerId) + WRITER_BYTES;
}

/** Why an operation that cannot be ruled out is UNKNOWN. */
export const TOO_MANY_BARRIERS = `operations of ${BARRIERS_MAX} writers are ruled out, or of fewer with long names, that have committed nothing since; ask again once one of them has, or a day later`;
