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

const ENDPOINT_BYTES_MAX = 256;
/** Everybody prints it: what moves the cursor, ends the line or reverses the text is no part of an address. */
const CONTROL = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u;

/** Throws InvalidArgumentError. */
export function requireEndpoint(endpoint: string, field: string): string {
  const received = Buffer.byteLength(endpoint);
  const control = CONTROL.exec(endpoint)?.[0].codePointAt(0);
  if (control !== undefined) {
    const character = `U+${control.toString(16).toUpperCase().padStart(4, "0")}`;
    throw new InvalidArgumentError(field, `the control character ${character} is no part of an address`, {
      received: character,
    });
  }
  if (received <= ENDPOINT_BYTES_MAX) return endpoint;
  throw new InvalidArgumentError(field, `${received} bytes, the limit is ${ENDPOINT_BYTES_MAX}`, {
    received,
    limit: ENDPOINT_BYTES_MAX,
  });
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
