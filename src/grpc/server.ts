import { type DescFile, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import {
  status as GrpcCode,
  type handleUnaryCall,
  Server,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceError,
} from "@grpc/grpc-js";
import { ReflectionService } from "@grpc/reflection";
import { HealthImplementation } from "grpc-health-check";
import { file_google_rpc_error_details } from "../gen/google/rpc/error_details_pb.js";
import { file_google_rpc_status } from "../gen/google/rpc/status_pb.js";
import { file_grpc_health_v1_health } from "../gen/grpc/health/v1/health_pb.js";
import { LeadershipService as LeadershipServiceDescriptor } from "../gen/oplog/v1/leadership_pb.js";
import { OpLogService as OpLogServiceDescriptor } from "../gen/oplog/v1/oplog_pb.js";
import { StandbyService as StandbyServiceDescriptor } from "../gen/oplog/v1/standby_pb.js";
import { OplogError } from "../oplog/errors.js";
import type { Logger } from "../oplog/logger.js";
import { serverDefinition } from "./bridge.js";
import type { LeadershipService } from "./leadership-service.js";
import type { OpLogService } from "./oplog-service.js";
import type { StandbyService } from "./standby-service.js";
import { toServiceError } from "./status.js";

export const MESSAGE_BYTES_MAX = 4 * 1024 * 1024;
/** Each may hold one message of MESSAGE_BYTES_MAX that is still arriving. */
const STREAMS_PER_CONNECTION_MAX = 1024;
/** For the last frames to leave, once no call of ours is open. */
const FLUSH_MS = 250;

export interface GrpcServerParts {
  readonly opLogService: OpLogService;
  readonly leadershipService: LeadershipService;
  readonly standbyService: StandbyService;
  readonly hasReflection: boolean;
  readonly logger: Logger;
  readonly onFinished: (method: string, code: string) => void;
}

/** The gRPC services on one server; addresses are bound by Listeners. */
export class GrpcServer {
  readonly server: Server;
  private readonly health = new HealthImplementation({});
  private openCalls = 0;
  private onIdle: () => void = () => undefined;

  constructor(private readonly parts: GrpcServerParts) {
    this.server = new Server({
      "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
      "grpc.max_send_message_length": -1,
      "grpc.keepalive_time_ms": 20_000,
      "grpc.keepalive_timeout_ms": 5_000,
      // Costs a quarter of the throughput of small calls, and nobody is offered it.
      "grpc.enable_channelz": 0,
      "grpc.max_concurrent_streams": STREAMS_PER_CONNECTION_MAX,
    });
    const service = parts.opLogService;
    this.server.addService(serverDefinition(OpLogServiceDescriptor), {
      Append: this.unary("Append", (call) => service.append(call)),
      AppendStream: this.stream("AppendStream", (call: ServerDuplexStream<Buffer, unknown>) =>
        service.appendStream(call),
      ),
      ResolveAppend: this.unary("ResolveAppend", (call) => service.resolveAppend(call)),
      Read: this.unary("Read", (call) => service.read(call)),
      Subscribe: this.stream("Subscribe", (call: ServerWritableStream<Buffer, unknown>) => service.subscribe(call)),
      UpdateCursor: this.unary("UpdateCursor", (call) => service.updateCursor(call)),
      GetStatus: this.unary("GetStatus", (call) => service.getStatus(call)),
      WatchStatus: this.stream("WatchStatus", (call: ServerWritableStream<Buffer, unknown>) =>
        service.watchStatus(call),
      ),
      ListLogs: this.unary("ListLogs", (call) => service.listLogs(call)),
    });
    const leadership = parts.leadershipService;
    this.server.addService(serverDefinition(LeadershipServiceDescriptor), {
      Campaign: this.stream("Campaign", (call: ServerDuplexStream<Buffer, unknown>) => leadership.campaign(call)),
      Resign: this.unary("Resign", (call) => leadership.resign(call)),
      HandOver: this.unary("HandOver", (call) => leadership.handOver(call)),
      ClaimTerm: this.unary("ClaimTerm", (call) => leadership.claimTerm(call)),
      GetLeader: this.unary("GetLeader", (call) => leadership.getLeader(call)),
      WatchLeader: this.stream("WatchLeader", (call: ServerWritableStream<Buffer, unknown>) =>
        leadership.watchLeader(call),
      ),
    });
    const standby = parts.standbyService;
    this.server.addService(serverDefinition(StandbyServiceDescriptor), {
      GetEntry: this.unary("GetEntry", (call) => standby.getEntry(call)),
      ScanState: this.stream("ScanState", (call: ServerWritableStream<Buffer, unknown>) => standby.scanState(call)),
      GetStateHash: this.unary("GetStateHash", (call) => standby.getStateHash(call)),
      GetPromotionReadiness: this.unary("GetPromotionReadiness", (call) => standby.getPromotionReadiness(call)),
      RenewObjectLeases: this.unary("RenewObjectLeases", (call) => standby.renewObjectLeases(call)),
    });
    this.health.addToServer(this.server);
    if (parts.hasReflection) reflection().addToServer(this.server);
  }

  /** "" is the sidecar as a whole. */
  setServing(service: string, isServing: boolean): void {
    this.health.setStatus(service, isServing ? "SERVING" : "NOT_SERVING");
  }

  /**
   * Ends once all calls have ended; at the deadline those left are cut. Health and reflection streams never end by
   * themselves, so they are cut as soon as no call of the log is open.
   */
  async close(deadlineMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const cut = () => {
        this.server.forceShutdown();
        resolve();
      };
      const timers = [setTimeout(cut, deadlineMs)];
      this.onIdle = () => timers.push(setTimeout(cut, Math.min(FLUSH_MS, deadlineMs)));
      this.server.tryShutdown(() => {
        for (const timer of timers) clearTimeout(timer);
        resolve();
      });
      if (this.openCalls === 0) this.onIdle();
    });
  }

  private begin(): void {
    this.openCalls++;
  }

  private end(method: string, code: string): void {
    this.parts.onFinished(method, code);
    if (--this.openCalls === 0) this.onIdle();
  }

  private unary(
    method: string,
    handle: (call: ServerUnaryCall<Buffer, unknown>) => Promise<unknown>,
  ): handleUnaryCall<Buffer, unknown> {
    return (call, callback) => {
      this.begin();
      handle(call).then(
        (response) => {
          callback(null, response);
          this.end(method, "OK");
        },
        (error: unknown) => callback(this.failure(method, error)),
      );
    };
  }

  private stream<C extends ServerWritableStream<Buffer, unknown> | ServerDuplexStream<Buffer, unknown>>(
    method: string,
    handle: (call: C) => Promise<void>,
  ): (call: C) => void {
    return (call) => {
      this.begin();
      handle(call).then(
        () => {
          call.end();
          this.end(method, call.cancelled ? "CANCELLED" : "OK");
        },
        // For grpc-js an error event is the status to end with, after what has been written.
        (error: unknown) => call.emit("error", this.failure(method, error)),
      );
    };
  }

  private failure(method: string, error: unknown): ServiceError {
    if (!(error instanceof OplogError)) {
      this.parts.logger.error(
        { event: "call_failed", method, err: error },
        "a call failed for a reason that is a defect",
      );
    }
    const failure = toServiceError(error);
    this.end(method, GrpcCode[failure.code]);
    return failure;
  }
}

/** Serves v1 and v1alpha from the descriptors that the generated code carries. */
function reflection(): ReflectionService {
  const files = new Map<string, Buffer>();
  const add = (file: DescFile) => {
    if (files.has(file.proto.name)) return;
    files.set(file.proto.name, Buffer.from(toBinary(FileDescriptorProtoSchema, file.proto)));
    for (const dependency of file.dependencies) add(dependency);
  };
  add(OpLogServiceDescriptor.file);
  add(LeadershipServiceDescriptor.file);
  add(StandbyServiceDescriptor.file);
  add(file_google_rpc_status);
  add(file_google_rpc_error_details);
  add(file_grpc_health_v1_health);
  const message = { format: "Protocol Buffer 3 DescriptorProto", type: {}, fileDescriptorProtos: [...files.values()] };
  return new ReflectionService({ descriptors: message as never });
}
