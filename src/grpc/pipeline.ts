import type { DescService } from "@bufbuild/protobuf";
import {
  status as GrpcCode,
  type handleUnaryCall,
  type Metadata,
  type Server,
  type ServerDuplexStream,
  type ServerWritableStream,
  type ServiceError,
  type UntypedHandleCall,
} from "@grpc/grpc-js";
import { OplogError, TooManyError } from "../oplog/errors.js";
import type { Logger } from "../oplog/logger.js";
import type { Admission } from "./admission.js";
import { encode, serverDefinition } from "./bridge.js";
import { AnsweringCall, Call, DuplexCall } from "./call.js";
import type { Method } from "./method.js";
import { toServiceError } from "./status.js";
import { AnswerBudget } from "./stream-writer.js";

export interface PipelineParts {
  readonly methods: readonly Method[];
  readonly admission: Admission;
  readonly answers: AnswerBudget;
  readonly logger: Logger;
  readonly onFinished: (method: string, code: string) => void;
}

/** Of answers that the transport has not taken yet; smaller ones are not counted. */
export const UNARY_ANSWERS_BYTES_MAX = 64 * 1024 * 1024;
const SMALL_ANSWER_BYTES_MAX = 4 * 1024;
const RETRY_MS = 1000;

/** What a call goes through once it is admitted: served by the handler of its method, answered or refused, counted. */
export class Pipeline {
  private open = 0;
  private onIdle: () => void = () => undefined;
  private readonly unaryAnswers = new AnswerBudget(UNARY_ANSWERS_BYTES_MAX);

  constructor(private readonly parts: PipelineParts) {}

  /** Throws where a method of a service is missing in the table. */
  addTo(server: Server): void {
    const services = new Set(this.parts.methods.map(({ descriptor }) => descriptor.parent));
    for (const service of services) server.addService(serverDefinition(service), this.handlersOf(service));
  }

  /** Calls `onIdle` whenever no call is open any more, and now if none is. */
  watchIdle(onIdle: () => void): void {
    this.onIdle = onIdle;
    if (this.open === 0) onIdle();
  }

  private handlersOf(service: DescService): Record<string, UntypedHandleCall> {
    return Object.fromEntries(
      service.methods.map((descriptor) => {
        const method = this.parts.methods.find((each) => each.descriptor === descriptor);
        if (method === undefined) throw new Error(`${service.typeName}/${descriptor.name} is missing in the table`);
        return [descriptor.name, this.handlerOf(method)];
      }),
    );
  }

  private handlerOf(method: Method): UntypedHandleCall {
    switch (method.kind) {
      case "unary":
        return this.unary(method, (surface) => {
          const call = new Call(surface);
          return { call, handling: method.handle(surface.request, call) };
        });
      case "server stream":
        return this.stream(method, (surface: ServerWritableStream<Buffer, unknown>) => {
          const call = new AnsweringCall(surface, this.parts.answers);
          return { call, handling: method.handle(surface.request, call) };
        });
      case "duplex":
        return this.stream(method, (surface: ServerDuplexStream<Buffer, unknown>) => {
          const arrival = this.parts.admission.arrivalOf(surface.metadata);
          const call = new DuplexCall(surface, (length) => arrival?.claim(length) ?? 0);
          return { call, handling: method.handle(call) };
        });
    }
  }

  private unary(
    method: Method,
    begin: (surface: Parameters<handleUnaryCall<Buffer, unknown>>[0]) => Begun<unknown>,
  ): handleUnaryCall<Buffer, unknown> {
    return (surface, callback) => {
      const begun = begin(surface);
      this.open++;
      const answered = begun.handling.then((response) => this.answer(method, surface.metadata, response));
      answered.then(
        (answer) => {
          callback(null, answer);
          this.finish(method, "OK");
        },
        (error: unknown) => callback(this.failure(method, begun.call, error)),
      );
    };
  }

  /** What finds no room is dropped: only methods that read have answers that are not small. */
  private answer({ descriptor }: Method, metadata: Metadata, response: unknown): Buffer {
    const { unaryAnswers } = this;
    const answer = encode(descriptor.output, response);
    const { length } = answer;
    if (length <= SMALL_ANSWER_BYTES_MAX) return answer;
    if (!unaryAnswers.hasRoom) {
      throw new TooManyError("bytes of answers that nobody takes", UNARY_ANSWERS_BYTES_MAX, RETRY_MS);
    }
    unaryAnswers.bytes += length;
    this.parts.admission.arrivalOf(metadata)?.whenOver(() => {
      unaryAnswers.bytes -= length;
    });
    return answer;
  }

  private stream<S extends ServerWritableStream<Buffer, unknown> | ServerDuplexStream<Buffer, unknown>>(
    method: Method,
    begin: (surface: S) => Begun<void>,
  ): (surface: S) => void {
    return (surface) => {
      const begun = begin(surface);
      this.open++;
      begun.handling.then(
        () => {
          surface.end();
          this.finish(method, surface.cancelled ? "CANCELLED" : "OK");
        },
        // For grpc-js an error event is the status to end with, after what has been written.
        (error: unknown) => surface.emit("error", this.failure(method, begun.call, error)),
      );
    };
  }

  private failure(method: Method, call: Call, error: unknown): ServiceError {
    if (!(error instanceof OplogError)) {
      const { peer, identity, traceparent } = call;
      this.parts.logger.error(
        { event: "call_failed", method: method.descriptor.name, peer, identity, traceparent, err: error },
        "a call failed for a reason that is a defect",
      );
    }
    const failure = toServiceError(error);
    this.finish(method, GrpcCode[failure.code]);
    return failure;
  }

  private finish(method: Method, code: string): void {
    this.parts.onFinished(method.descriptor.name, code);
    if (--this.open === 0) this.onIdle();
  }
}

interface Begun<T> {
  readonly call: Call;
  readonly handling: Promise<T>;
}
