import {
  create,
  type DescMessage,
  type DescMethod,
  type DescMethodBiDiStreaming,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import type { AnsweringCall, Call, DuplexCall } from "./call.js";
import type { CallLimit } from "./call-limit.js";
import { decode } from "./decode.js";

/**
 * What a caller wants to do with a log: see what is in it and how it is; follow it and move its own cursor; append; lead
 * it; decide over it and over those who lead.
 */
export type Role = "read" | "follow" | "append" | "lead" | "operate";

/** A row of the table of methods. The handler throws OplogError for what the client is to be told. */
export type Method = Row &
  (
    | { readonly kind: "unary"; handle(request: Buffer, call: Call): Promise<unknown> }
    | { readonly kind: "server stream"; handle(request: Buffer, call: AnsweringCall): Promise<void> }
    | { readonly kind: "duplex"; handle(call: DuplexCall): Promise<void> }
  );

interface Row {
  readonly descriptor: DescMethod;
  /** That of who may call it. */
  readonly role: Role;
  readonly limit: CallLimit;
  /** Counted: requests may be large, or are kept, and must find room. Not counted: they are small, and soon dropped. */
  readonly request: "small" | "counted";
}

/** A method whose requests must find room in the budget. */
export function counted(method: Method): Method {
  return { ...method, request: "counted" };
}

export function unary<I extends DescMessage, O extends DescMessage>(
  descriptor: DescMethodUnary<I, O>,
  role: Role,
  limit: CallLimit,
  handle: (request: MessageShape<I>, call: Call) => Promise<MessageInitShape<O>>,
): Method {
  return {
    kind: "unary",
    descriptor,
    role,
    limit,
    request: "small",
    handle: async (bytes, call) => create(descriptor.output, await handle(decode(descriptor.input, bytes), call)),
  };
}

/** The handler reads the request itself; it may answer with bytes. */
export function unaryOfBytes(
  descriptor: DescMethodUnary<DescMessage, DescMessage>,
  role: Role,
  limit: CallLimit,
  handle: (request: Buffer, call: Call) => Promise<unknown>,
): Method {
  return { kind: "unary", descriptor, role, limit, request: "small", handle };
}

export function serverStream<I extends DescMessage>(
  descriptor: DescMethodServerStreaming<I, DescMessage>,
  role: Role,
  limit: CallLimit,
  handle: (request: MessageShape<I>, call: AnsweringCall) => Promise<void>,
): Method {
  return {
    kind: "server stream",
    descriptor,
    role,
    limit,
    request: "small",
    handle: async (bytes, call) => handle(decode(descriptor.input, bytes), call),
  };
}

export function duplex(
  descriptor: DescMethodBiDiStreaming<DescMessage, DescMessage>,
  role: Role,
  limit: CallLimit,
  handle: (call: DuplexCall) => Promise<void>,
): Method {
  return { kind: "duplex", descriptor, role, limit, request: "small", handle };
}
