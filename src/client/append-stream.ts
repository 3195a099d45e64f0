import { type Client, type ClientDuplexStream, status as Codes, type StatusObject } from "@grpc/grpc-js";
import { type AppendStreamRequestSchema, type AppendStreamResponse, OpLogService } from "../gen/oplog/v1/oplog_pb.js";
import { definitionOf, ignore, type Request, type StreamOptions, toWire } from "./calls.js";
import { notSent, OplogRpcError } from "./errors.js";

export interface AppendStreamOptions extends StreamOptions {
  /** Requests that may be unanswered; 1,024 unless told. */
  readonly inFlightMax?: number;
}

const IN_FLIGHT_MAX = 1024;

/**
 * One AppendStream call, for one sender and one reader. The sender awaits what send() returns, or else memory would grow
 * with the requests that the sidecar has not taken yet; the reader iterates `answers`, once, to its end.
 */
export class AppendStream {
  /**
   * In the order of the requests. Ends after end(), when all are answered; throws OplogRpcError when the call breaks. An
   * error may overtake answers that have not been read yet: see AppendStream in oplog.proto for what it says of them.
   */
  readonly answers: AsyncGenerator<AppendStreamResponse, void, undefined>;
  private readonly call: ClientDuplexStream<unknown, unknown>;
  private readonly inFlightMax: number;
  private inFlight = 0;
  private needsDrain = false;
  private room: PromiseWithResolvers<void> | undefined;
  private failure: OplogRpcError | undefined;
  private ending: OplogRpcError | undefined;

  constructor(client: Client, options: AppendStreamOptions = {}) {
    const { path, requestSerialize, responseDeserialize } = definitionOf(OpLogService.method.appendStream);
    this.inFlightMax = options.inFlightMax ?? IN_FLIGHT_MAX;
    this.call = client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize);
    this.call.on("error", ignore);
    this.call.on("drain", () => {
      this.needsDrain = false;
      this.admit();
    });
    this.call.on("status", (status: StatusObject) => this.close(status));
    const onAbort = () => this.cancel();
    options.signal?.addEventListener("abort", onAbort, { once: true });
    this.call.on("status", () => options.signal?.removeEventListener("abort", onAbort));
    if (options.signal?.aborted) this.cancel();
    this.answers = this.read();
  }

  /**
   * Sends now. Returns undefined while there is room for more, else a promise to await before the next send(); it
   * rejects when the call has ended meanwhile. Throws when the call has ended, or when the promise was not awaited.
   */
  send(request: Request<typeof AppendStreamRequestSchema>): Promise<void> | undefined {
    if (this.ending) throw notSent(this.ending);
    if (this.room) throw new Error("AppendStream is full: await what send() returned before sending again");
    this.inFlight += 1;
    if (!this.call.write(toWire(OpLogService.method.appendStream.input, request))) this.needsDrain = true;
    if (!this.needsDrain && this.inFlight < this.inFlightMax) return undefined;
    this.room = withResolvers();
    return this.room.promise;
  }

  /** No more requests; those that were sent are still answered. */
  end(): void {
    this.call.end();
  }

  /** Gives up at once. What is unanswered may or may not be in the log. */
  cancel(): void {
    this.call.cancel();
  }

  private async *read(): AsyncGenerator<AppendStreamResponse, void, undefined> {
    try {
      for await (const answer of this.call) {
        this.inFlight -= 1;
        this.admit();
        yield answer as AppendStreamResponse;
      }
      // A call that failed before it was iterated ends quietly.
      if (this.failure !== undefined) throw this.failure;
    } catch (error) {
      throw OplogRpcError.from(error);
    } finally {
      this.call.cancel();
    }
  }

  private admit(): void {
    if (this.room === undefined || this.needsDrain || this.inFlight >= this.inFlightMax) return;
    this.room.resolve();
    this.room = undefined;
  }

  private close(status: StatusObject): void {
    if (status.code !== Codes.OK) this.failure = OplogRpcError.from(status) as OplogRpcError;
    this.ending = this.failure ?? new OplogRpcError({ code: "CANCELLED", message: "the stream has ended" });
    this.room?.reject(this.ending);
    this.room = undefined;
  }
}

type PromiseWithResolvers<T> = {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (reason: unknown) => void;
};

/** Node 20 has no Promise.withResolvers. */
function withResolvers(): PromiseWithResolvers<void> {
  let resolve!: () => void;
  let reject!: (reason: unknown) => void;
  const promise = new Promise<void>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  // Whoever awaits it sees the rejection; a sender that has stopped sending need not.
  promise.catch(ignore);
  return { promise, resolve, reject };
}
