import {
  type DescMessage,
  type DescMethod,
  type DescService,
  fromBinary,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import type { MethodDefinition, ServiceDefinition } from "@grpc/grpc-js";

/**
 * From protobuf-es descriptors to grpc-js, for a server. Requests arrive as bytes, so that the handler decides whether
 * to decode them and answers a malformed one with INVALID_ARGUMENT; responses may be messages or bytes.
 */
export function serverDefinition(service: DescService): ServiceDefinition {
  return definition(service, (method) => ({
    requestSerialize: unused,
    requestDeserialize: passThrough,
    responseSerialize: encoder(method.output),
    responseDeserialize: unused,
  }));
}

/** The same for a client. Methods named in `rawResponses` (like "Subscribe") yield bytes instead of messages. */
export function clientDefinition(service: DescService, rawResponses: readonly string[] = []): ServiceDefinition {
  return definition(service, (method) => ({
    requestSerialize: encoder(method.input),
    requestDeserialize: unused,
    responseSerialize: unused,
    responseDeserialize: rawResponses.includes(method.name) ? passThrough : (bytes) => fromBinary(method.output, bytes),
  }));
}

type Codecs = Pick<
  MethodDefinition<unknown, unknown>,
  "requestSerialize" | "requestDeserialize" | "responseSerialize" | "responseDeserialize"
>;

function definition(service: DescService, codecs: (method: DescMethod) => Codecs): ServiceDefinition {
  return Object.fromEntries(
    service.methods.map((method): [string, MethodDefinition<unknown, unknown>] => [
      method.name,
      {
        path: `/${service.typeName}/${method.name}`,
        requestStream: method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming",
        responseStream: method.methodKind === "server_streaming" || method.methodKind === "bidi_streaming",
        ...codecs(method),
      },
    ]),
  );
}

function encoder(schema: DescMessage): (value: unknown) => Buffer {
  return (value) => encode(schema, value);
}

/** Bytes are passed on as they are. */
export function encode(schema: DescMessage, value: unknown): Buffer {
  if (Buffer.isBuffer(value)) return value;
  const bytes = toBinary(schema, value as MessageShape<DescMessage>);
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

const passThrough = (bytes: Buffer): Buffer => bytes;

function unused(): never {
  throw new Error("this side of the bridge is not used");
}
