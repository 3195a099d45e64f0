import {
  create,
  type DescMessage,
  type DescMethod,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import { type Client, Metadata, type MethodDefinition } from "@grpc/grpc-js";
import { clientDefinition } from "../grpc/bridge.js";
import { notSent, OplogRpcError } from "./errors.js";

/** A message, the plain object that makes one, or its bytes as they go over the wire. */
export type Request<D extends DescMessage> = MessageInitShape<D> | Buffer;

export interface UnaryOptions {
  /** How long the answer may take. */
  readonly deadlineMs?: number;
  readonly signal?: AbortSignal | undefined;
}

export interface StreamOptions {
  readonly signal?: AbortSignal | undefined;
}

type Definition = MethodDefinition<unknown, unknown>;

const definitions = new Map<DescMethod, { readonly decoded: Definition; readonly raw: Definition }>();

/** How to call a method; made once. */
export function definitionOf(method: DescMethod, isRaw = false): Definition {
  let known = definitions.get(method);
  if (known === undefined) {
    const { parent, name } = method;
    known = { decoded: clientDefinition(parent)[name]!, raw: clientDefinition(parent, [name])[name]! };
    definitions.set(method, known);
  }
  return isRaw ? known.raw : known.decoded;
}

/** What the bridge can encode. */
export function toWire<D extends DescMessage>(schema: D, request: Request<D>): MessageShape<D> | Buffer {
  return Buffer.isBuffer(request) ? request : create(schema, request as MessageInitShape<D>);
}

export function unary<I extends DescMessage, O extends DescMessage>(
  client: Client,
  method: DescMethodUnary<I, O>,
  request: Request<I>,
  options: { readonly deadlineMs: number; readonly signal?: AbortSignal | undefined },
): Promise<MessageShape<O>> {
  const { path, requestSerialize, responseDeserialize } = definitionOf(method);
  return new Promise((resolve, reject) => {
    const { signal } = options;
    if (signal?.aborted) return reject(cancelled(signal));
    const argument = toWire(method.input, request);
    const deadline = Date.now() + options.deadlineMs;
    const onAbort = () => call.cancel();
    const call = client.makeUnaryRequest(
      path,
      requestSerialize,
      responseDeserialize,
      argument,
      new Metadata(),
      { deadline },
      (error, response) => {
        signal?.removeEventListener("abort", onAbort);
        if (error) reject(OplogRpcError.from(error));
        else resolve(response as MessageShape<O>);
      },
    );
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

/**
 * Opens with the first next(), and is cancelled when the consumer leaves the loop. Only iteration reads: a consumer that
 * is slow stops the sidecar by flow control, after 16 messages and a window of bytes.
 */
export async function* serverStream<I extends DescMessage, T>(
  client: Client,
  method: DescMethodServerStreaming<I, DescMessage>,
  request: Request<I>,
  options: StreamOptions & { readonly raw?: boolean },
): AsyncGenerator<T, void, undefined> {
  const { signal } = options;
  if (signal?.aborted) throw cancelled(signal);
  const { path, requestSerialize, responseDeserialize } = definitionOf(method, options.raw);
  const argument = toWire(method.input, request);
  const call = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, argument);
  const onAbort = () => call.cancel();
  signal?.addEventListener("abort", onAbort, { once: true });
  // The status that answers cancel() comes when nobody listens any more.
  call.on("error", ignore);
  try {
    for await (const message of call) yield message as T;
  } catch (error) {
    throw OplogRpcError.from(error);
  } finally {
    signal?.removeEventListener("abort", onAbort);
    call.cancel();
  }
}

export function ignore(): void {}

export function cancelled(signal: AbortSignal): OplogRpcError {
  return notSent(new OplogRpcError({ code: "CANCELLED", message: "aborted before it was sent", cause: signal.reason }));
}
