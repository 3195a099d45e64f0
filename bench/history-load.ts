import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { connect } from "../src/client/client.js";
import { BatchSchema, SubscribeResponseSchema } from "../src/gen/oplog/v1/oplog_pb.js";
import type { Measured } from "./generator.js";

export interface HistoryLoad {
  readonly target: string;
  readonly log: string;
  readonly entries: number;
}

const BATCH = SubscribeResponseSchema.field.batch.number;
const ENTRIES = BatchSchema.field.entries.number;

/** Receives the whole log as raw frames, and counts the entries in them without decoding these. */
export async function readHistory({ target, log, entries }: HistoryLoad): Promise<Measured> {
  const client = connect(target);
  const startMs = performance.now();
  const start = { case: "fromBeginning", value: true } as const;
  let received = 0;
  for await (const frame of client.subscribe({ log, start }, { raw: true })) {
    received += entriesIn(frame);
    if (received >= entries) break;
  }
  const seconds = (performance.now() - startMs) / 1000;
  client.close();
  return { entriesPerSecond: received / seconds };
}

function entriesIn(frame: Buffer): number {
  const reader = new BinaryReader(frame);
  const [field] = reader.tag();
  if (field !== BATCH) return 0;
  reader.uint32();
  let entries = 0;
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (field === ENTRIES && type === WireType.LengthDelimited) {
      entries++;
      const entryBytes = reader.uint32();
      reader.pos += entryBytes;
    } else {
      reader.skip(type, field);
    }
  }
  return entries;
}
