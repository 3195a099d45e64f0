import { fromBinary } from "@bufbuild/protobuf";
import { type CandidateEntry, CandidateEntrySchema } from "../gen/oplog/store/v1/store_pb.js";
import type { LogKeys } from "../oplog/keys.js";
import { wholeRange } from "../oplog/kv-pages.js";
import type { KeyValue, KvStore } from "../oplog/kv-store.js";

/** An entry that cannot be read. It goes with its lease, or when a candidate of that id enters. */
export interface DamagedCandidate {
  /** As the key has it. */
  readonly id: string;
  readonly problem: string;
}

/** Who campaigns for a log, at whichever sidecar. */
export async function readCandidates(
  store: KvStore,
  { candidatesFrom: from, candidatesTo: to }: LogKeys,
): Promise<(CandidateEntry | DamagedCandidate)[]> {
  const { pairs } = await wholeRange(store, { from, to });
  return pairs.map((pair) => openCandidate(pair, from));
}

/** One that is damaged costs nobody else. */
export function openCandidate({ key, value }: KeyValue, from: string): CandidateEntry | DamagedCandidate {
  try {
    return fromBinary(CandidateEntrySchema, value);
  } catch (error) {
    return { id: key.slice(from.length), problem: `the value of ${key} is damaged: ${String(error)}` };
  }
}
