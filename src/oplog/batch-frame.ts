import type { OpType } from "../gen/oplog/v1/entry_pb.js";
import { type EntryRun, entryOffsets, type Origin } from "./record.js";
import { varintBytes, WireReader, writeVarint } from "./wire.js";

const TAG_BATCH = 0x0a;
const TAG_FIRST = 0x10;
const TAG_LAST = 0x18;
const TAG_LAST_TERM = 0x20;
const TAG_LAST_CHAIN = 0x2a;
const TAG_ENTRY_OP_TYPE = 0x20;
const TAG_ENTRY_KEY = 0x2a;

export interface EntryFilter {
  /** UTF-8; empty = any. */
  readonly keyPrefix: Buffer;
  /** Empty = any. */
  readonly opTypes: ReadonlySet<OpType>;
}

/** What a frame covers, and to which history the last entry belongs. */
export interface Coverage extends Origin {
  readonly first: bigint;
  readonly last: bigint;
}

/**
 * A SubscribeResponse with a Batch that covers first..last, built from bodies without looking into them:
 * SubscribeResponse.batch = 1, Batch.entries = 1, first_sequence_id = 2, last_sequence_id = 3, last_term = 4,
 * last_chain = 5.
 */
export function batchFrame(bodies: readonly Buffer[], coverage: Coverage): Buffer {
  const bodyBytes = bodies.reduce((sum, body) => sum + body.length, 0);
  const { headBytes, tailBytes } = around(bodyBytes, coverage);
  const frame = Buffer.allocUnsafeSlow(headBytes + bodyBytes + tailBytes);
  let at = headBytes;
  for (const body of bodies) {
    frame.set(body, at);
    at += body.length;
  }
  return enclose(frame, bodyBytes, tailBytes, coverage);
}

/** The same around one body that stampEntries has made: in the room that it left, without a copy. */
export function frameInPlace(body: Buffer, coverage: Coverage): Buffer {
  const { headBytes, tailBytes } = around(body.length, coverage);
  const frame = Buffer.from(body.buffer, body.byteOffset - headBytes, headBytes + body.length + tailBytes);
  return enclose(frame, body.length, tailBytes, coverage);
}

function around(bodyBytes: number, { first, last, term, chain }: Coverage): { headBytes: number; tailBytes: number } {
  const chainBytes = chain.length / 2;
  const tailBytes =
    4 +
    varintBytes(Number(first)) +
    varintBytes(Number(last)) +
    varintBytes(Number(term)) +
    varintBytes(chainBytes) +
    chainBytes;
  return { headBytes: 1 + varintBytes(bodyBytes + tailBytes), tailBytes };
}

/** Writes what stands before and after the entries. */
function enclose(frame: Buffer, bodyBytes: number, tailBytes: number, { first, last, term, chain }: Coverage): Buffer {
  frame[0] = TAG_BATCH;
  let at = writeVarint(frame, 1, bodyBytes + tailBytes) + bodyBytes;
  frame[at] = TAG_FIRST;
  at = writeVarint(frame, at + 1, Number(first));
  frame[at] = TAG_LAST;
  at = writeVarint(frame, at + 1, Number(last));
  frame[at] = TAG_LAST_TERM;
  at = writeVarint(frame, at + 1, Number(term));
  frame[at] = TAG_LAST_CHAIN;
  at = writeVarint(frame, at + 1, chain.length / 2);
  frame.write(chain, at, "hex");
  return frame;
}

/** The frame of a whole run, to be sent to any number of subscribers; its body becomes a view into the frame. */
export function frameRun<R extends EntryRun>(run: R): R & { readonly frame: Buffer } {
  const frame = batchFrame([run.body], run);
  const { headBytes } = around(run.body.length, run);
  return { ...run, frame, body: frame.subarray(headBytes, headBytes + run.body.length) };
}

/** The part of a run from `from` on; its frame, if it had one, is not that of the part. */
export function runFrom<R extends EntryRun>(run: R, from: bigint): Omit<R, "frame"> {
  if (from <= run.first) return run;
  const offsets = entryOffsets(run.body);
  return { ...run, frame: undefined, first: from, body: run.body.subarray(offsets[Number(from - run.first)]) };
}

/** A run in parts of at most `bytesMax`, or of one entry that is larger. */
export function splitRun(run: EntryRun, bytesMax: number): EntryRun[] {
  if (run.body.length <= bytesMax) return [run];
  const offsets = entryOffsets(run.body);
  const parts: EntryRun[] = [];
  let start = 0;
  for (let index = 1; index < offsets.length; index++) {
    const isEnd = index === offsets.length - 1;
    if (isEnd || offsets[index + 1]! - offsets[start]! > bytesMax) {
      parts.push({
        term: run.term,
        chain: run.chain,
        first: run.first + BigInt(start),
        last: run.first + BigInt(index - 1),
        body: run.body.subarray(offsets[start], offsets[index]),
      });
      start = index;
    }
  }
  return parts;
}

/** The bytes of those entries of a body that pass. */
export function filterBody(body: Buffer, filter: EntryFilter): Buffer {
  const offsets = entryOffsets(body);
  const passing: Buffer[] = [];
  for (let index = 0; index < offsets.length - 1; index++) {
    const entry = body.subarray(offsets[index], offsets[index + 1]);
    if (passes(entry, filter)) passing.push(entry);
  }
  return passing.length === offsets.length - 1 ? body : Buffer.concat(passing);
}

function passes(entry: Buffer, { keyPrefix, opTypes }: EntryFilter): boolean {
  const outer = new WireReader(entry);
  outer.tag();
  const reader = new WireReader(entry, outer.span());
  let isKeyPassing = keyPrefix.length === 0;
  let isTypePassing = opTypes.size === 0;
  while (!reader.isAtEnd) {
    const tag = reader.tag();
    if (tag === TAG_ENTRY_OP_TYPE) {
      const opType = reader.uint32();
      isTypePassing ||= opTypes.has(opType);
    } else if (tag === TAG_ENTRY_KEY) {
      const at = reader.span();
      const isLongEnough = reader.position - at >= keyPrefix.length;
      isKeyPassing ||= isLongEnough && entry.compare(keyPrefix, 0, keyPrefix.length, at, at + keyPrefix.length) === 0;
    } else {
      reader.skip(tag & 7);
    }
  }
  return isKeyPassing && isTypePassing;
}
