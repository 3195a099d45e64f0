import { type DescMessage, fromBinary, type MessageShape } from "@bufbuild/protobuf";
import { InvalidArgumentError } from "../oplog/errors.js";
import { controlCharacterIn } from "../oplog/text.js";

/** A request from its bytes. Throws InvalidArgumentError. */
export function decode<D extends DescMessage>(schema: D, bytes: Buffer): MessageShape<D> {
  try {
    return fromBinary(schema, bytes, { readUnknownFields: false });
  } catch (error) {
    throw new InvalidArgumentError("request", `malformed: ${error instanceof Error ? error.message : String(error)}`);
  }
}

const ENDPOINT_BYTES_MAX = 256;

/** Endpoints are printed by all kinds of programs. Throws InvalidArgumentError. */
export function requireEndpoint(endpoint: string, field: string): string {
  const received = Buffer.byteLength(endpoint);
  const control = controlCharacterIn(endpoint);
  if (control !== undefined) {
    const message = `the control character ${control} is no part of an address`;
    throw new InvalidArgumentError(field, message, { received: control });
  }
  if (received <= ENDPOINT_BYTES_MAX) return endpoint;
  throw new InvalidArgumentError(field, `${received} bytes, the limit is ${ENDPOINT_BYTES_MAX}`, {
    received,
    limit: ENDPOINT_BYTES_MAX,
  });
}
