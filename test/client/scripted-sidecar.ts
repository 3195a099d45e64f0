import { create, type DescMessage, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import {
  status as Codes,
  Metadata,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerWritableStream,
  type ServiceError,
  type sendUnaryData,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";
import type { CodeName } from "../../src/client/errors.js";
import { ErrorInfoSchema, RetryInfoSchema } from "../../src/gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "../../src/gen/google/rpc/status_pb.js";
import { LeadershipService } from "../../src/gen/oplog/v1/leadership_pb.js";
import {
  type AppendStreamRequest,
  AppendStreamRequestSchema,
  OpLogService,
  SubscribeResponseSchema,
} from "../../src/gen/oplog/v1/oplog_pb.js";
import { StandbyService } from "../../src/gen/oplog/v1/standby_pb.js";
import { serverDefinition } from "../../src/grpc/bridge.js";

/** A sidecar that does what a test tells it to, over a real connection. */
export class ScriptedSidecar {
  private constructor(
    private readonly server: Server,
    readonly target: string,
  ) {}

  static async start(handlers: UntypedServiceImplementation, address = "127.0.0.1:0"): Promise<ScriptedSidecar> {
    const server = new Server();
    for (const service of [OpLogService, LeadershipService, StandbyService]) {
      const unscripted = Object.fromEntries(
        service.methods.map((method) => [
          method.name,
          (_call: unknown, reply: unknown) => {
            if (typeof reply === "function") reply(rpcError({ code: "UNIMPLEMENTED", message: "not in the script" }));
          },
        ]),
      );
      server.addService(serverDefinition(service), { ...unscripted, ...handlers });
    }
    const port = await new Promise<number>((resolve, reject) => {
      server.bindAsync(address, ServerCredentials.createInsecure(), (error, bound) =>
        error ? reject(error) : resolve(bound),
      );
    });
    return new ScriptedSidecar(server, address.startsWith("unix:") ? address : `127.0.0.1:${port}`);
  }

  stop(): void {
    this.server.forceShutdown();
  }
}

/** A unary handler from a function of the decoded request. */
export function answers<I extends DescMessage, O extends DescMessage>(
  method: { readonly input: I; readonly output: O },
  answer: (request: ReturnType<typeof fromBinary<I>>) => MessageInitShape<O> | ServiceError,
) {
  return (call: { request: Buffer }, reply: sendUnaryData<unknown>) => {
    const outcome = answer(fromBinary(method.input, call.request));
    if (outcome instanceof Error) reply(outcome as ServiceError);
    else reply(null, create(method.output, outcome as MessageInitShape<O>));
  };
}

export type SubscribeCall = ServerWritableStream<Buffer, unknown>;
export type AppendCall = ServerDuplexStream<Buffer, unknown>;

export function frame(init: MessageInitShape<typeof SubscribeResponseSchema>["frame"]) {
  return create(SubscribeResponseSchema, { frame: init! });
}

export function decodeItem(bytes: Buffer): AppendStreamRequest {
  return fromBinary(AppendStreamRequestSchema, bytes);
}

export interface ScriptedError {
  readonly code: CodeName;
  readonly message: string;
  readonly reason?: string;
  readonly metadata?: Record<string, string>;
  readonly retryAfterMs?: number;
}

export function rpcStatus(error: ScriptedError) {
  const info = create(ErrorInfoSchema, {
    reason: error.reason ?? "",
    domain: "oplog-sidecar",
    metadata: error.metadata ?? {},
  });
  const details = [anyPack(ErrorInfoSchema, info)];
  if (error.retryAfterMs !== undefined) {
    const retryDelay = {
      seconds: BigInt(Math.floor(error.retryAfterMs / 1000)),
      nanos: (error.retryAfterMs % 1000) * 1_000_000,
    };
    details.push(anyPack(RetryInfoSchema, create(RetryInfoSchema, { retryDelay })));
  }
  return { code: Codes[error.code], message: error.message, details };
}

export function rpcError(error: ScriptedError): ServiceError {
  const metadata = new Metadata();
  if (error.reason !== undefined) {
    const bytes = toBinary(StatusSchema, create(StatusSchema, rpcStatus(error)));
    metadata.set("grpc-status-details-bin", Buffer.from(bytes));
  }
  return Object.assign(new Error(error.message), { code: Codes[error.code], details: error.message, metadata });
}
