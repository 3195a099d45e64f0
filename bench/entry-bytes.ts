import { randomFillSync } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { type Entry, EntrySchema, OpType } from "../src/gen/oplog/v1/entry_pb.js";
import { AppendRequestSchema, AppendStreamRequestSchema } from "../src/gen/oplog/v1/oplog_pb.js";

export const PAYLOAD_BYTES = 200;
const VARIANTS = 16;

/** Random bytes: nothing that a store could compress. */
export function randomPayload(): Buffer {
  return randomFillSync(Buffer.alloc(PAYLOAD_BYTES));
}

export function entryOf(payload: Buffer, number: number): Entry {
  return create(EntrySchema, { opType: OpType.PUT_END, key: `block/${number}`, payload });
}

/** Encoded beforehand, so that the generator's own work does not count. */
export function appendRequests(log: string, entries: number): Buffer[] {
  return variants(log, entries).map((append) => Buffer.from(toBinary(AppendRequestSchema, append)));
}

export function streamRequests(log: string, entries: number): Buffer[] {
  return variants(log, entries).map((append) =>
    Buffer.from(toBinary(AppendStreamRequestSchema, create(AppendStreamRequestSchema, { append }))),
  );
}

function variants(log: string, entries: number) {
  return Array.from({ length: VARIANTS }, (_, variant) =>
    create(AppendRequestSchema, {
      log,
      entries: Array.from({ length: entries }, (_, index) => entryOf(randomPayload(), variant * entries + index)),
    }),
  );
}
