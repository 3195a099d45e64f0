import { type DescMessage, fromBinary, type MessageShape } from "@bufbuild/protobuf";
import type { ServerWritableStream } from "@grpc/grpc-js";
import { InvalidArgumentError } from "../oplog/errors.js";

/** A request from its bytes. Throws InvalidArgumentError. */
export function decode<D extends DescMessage>(schema: D, bytes: Buffer): MessageShape<D> {
  try {
    return fromBinary(schema, bytes, { readUnknownFields: false });
  } catch (error) {
    throw new InvalidArgumentError("request", `malformed: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Aborts when the client is gone. */
export function leaving(call: ServerWritableStream<Buffer, unknown>): AbortSignal {
  const controller = new AbortController();
  const leave = () => controller.abort();
  call.on("cancelled", leave);
  call.on("close", leave);
  if (call.cancelled || call.destroyed) leave();
  return controller.signal;
}
