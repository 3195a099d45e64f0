import { type DescMessage, fromBinary, type MessageShape } from "@bufbuild/protobuf";
import { type Head, HeadSchema, type Term, TermSchema } from "../gen/oplog/store/v1/store_pb.js";
import type { KeyValue } from "../oplog/kv-store.js";
import { DataLossError } from "../oplog/log-errors.js";

export function decodeTerm(pair: KeyValue | undefined): Term | undefined {
  return pair === undefined ? undefined : decodeState(TermSchema, pair);
}

export function decodeHead(pair: KeyValue): Head {
  return decodeState(HeadSchema, pair);
}

/** A value that this sidecar cannot have written is DATA_LOSS. */
export function decodeState<D extends DescMessage>(schema: D, pair: KeyValue): MessageShape<D> {
  try {
    return fromBinary(schema, pair.value);
  } catch (error) {
    throw new DataLossError(pair.key, 0n, `its value is damaged: ${String(error)}`);
  }
}
