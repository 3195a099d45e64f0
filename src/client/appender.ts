import { toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import {
  AppendRequestSchema,
  type AppendResponse,
  AppendStreamRequestSchema,
  type AppendStreamResponse,
} from "../gen/oplog/v1/oplog_pb.js";
import type { AppendStream } from "./append-stream.js";
import { ignore, type Request, toWire } from "./calls.js";
import { notSent, OplogRpcError, type RpcFailure } from "./errors.js";

/**
 * Pipelined appends over one AppendStream: append() gives the promise of its outcome, and any number of callers may use
 * it at once. Requests go out in the order of the calls. It ends with its stream; make another one to go on.
 *
 * A caller that does not await outcomes awaits ready() before each append().
 */
export class Appender {
  private readonly unsent: Item[] = [];
  private readonly sent: Item[] = [];
  private answered = 0;
  private correlationId = 0n;
  private isFull = false;
  private failure: OplogRpcError | undefined;
  private onRoom: Array<() => void> = [];
  private readonly finished: Promise<void>;

  constructor(private readonly stream: AppendStream) {
    this.finished = this.settleAnswers();
    this.finished.catch(ignore);
  }

  /**
   * Rejects with the OplogRpcError of this append. Of one that was sent and has no answer when the stream ends, that is
   * the error of the stream if the sidecar says by it that the append was not written; else UNKNOWN with reason
   * OUTCOME_UNKNOWN and that error as its cause. One that was not sent is never told as if it may have been written.
   */
  append(request: Request<typeof AppendRequestSchema>): Promise<AppendResponse> {
    if (this.failure !== undefined) return Promise.reject(notSent(this.failure));
    if (this.unsent.length >= UNSENT_MAX) {
      return Promise.reject(new Error(`${UNSENT_MAX} appends wait to be sent: await ready() before append()`));
    }
    return new Promise((resolve, reject) => {
      this.unsent.push({ request, resolve, reject });
      this.pump();
    });
  }

  /** Undefined while an append would go out at once, else a promise of that. Never rejects. */
  ready(): Promise<void> | undefined {
    if (!this.isFull || this.failure !== undefined) return undefined;
    return new Promise((resolve) => this.onRoom.push(resolve));
  }

  /** Waits until everything is answered, and ends the stream. Rejects if the stream broke. */
  async end(): Promise<void> {
    this.failure ??= new OplogRpcError({ code: "CANCELLED", message: "the appender has ended" });
    this.endIfIdle();
    await this.finished;
  }

  /** Gives up at once. */
  cancel(): void {
    this.stream.cancel();
  }

  private pump(): void {
    while (!this.isFull) {
      const item = this.unsent.shift();
      if (item === undefined) break;
      let room: Promise<void> | undefined;
      try {
        this.correlationId += 1n;
        room = this.stream.send(streamRequest(this.correlationId, item.request));
      } catch (error) {
        item.reject(error);
        continue;
      }
      this.sent.push(item);
      if (room === undefined) continue;
      this.isFull = true;
      // When it rejects the answers end as well, and that settles everything.
      room.then(() => this.resume(), ignore);
    }
    this.endIfIdle();
  }

  private resume(): void {
    this.isFull = false;
    this.pump();
    if (!this.isFull) this.wakeWaiting();
  }

  private endIfIdle(): void {
    if (this.failure !== undefined && this.unsent.length === 0) this.stream.end();
  }

  private async settleAnswers(): Promise<void> {
    try {
      for await (const answer of this.stream.answers) this.settle(answer);
      if (this.sent.length > 0)
        throw new OplogRpcError({ code: "UNAVAILABLE", message: "the sidecar ended the stream" });
    } catch (error) {
      this.failure = error instanceof OplogRpcError ? error : new OplogRpcError(defect(error));
      throw error;
    } finally {
      this.failure ??= new OplogRpcError({ code: "UNAVAILABLE", message: "the sidecar ended the stream" });
      this.rejectAll(this.failure);
      this.wakeWaiting();
    }
  }

  private settle(answer: AppendStreamResponse): void {
    const item = this.sent.shift();
    const { outcome } = answer;
    this.answered += 1;
    if (item === undefined) throw new Error(`answer ${answer.correlationId} to nothing that was sent`);
    if (outcome.case === "appended") item.resolve(outcome.value);
    else if (outcome.case === "error") item.reject(OplogRpcError.fromStreamStatus(outcome.value));
    else item.reject(new OplogRpcError({ code: "INTERNAL", message: "an answer without an outcome" }));
  }

  private rejectAll(cause: OplogRpcError): void {
    const message = `the stream ended before the answer: ${cause.message}`;
    for (const item of this.sent.splice(0, this.openOutcomes(cause))) {
      item.reject(new OplogRpcError({ code: "UNKNOWN", reason: "OUTCOME_UNKNOWN", message, cause }));
    }
    for (const item of this.sent.splice(0)) item.reject(cause);
    for (const item of this.unsent.splice(0)) item.reject(notSent(cause));
  }

  /** How many of those without an answer, from the oldest, may have been written. The others were not, says the end. */
  private openOutcomes(cause: OplogRpcError): number {
    if (cause.isConnectFailure) return 0;
    if (cause.reason === "" || cause.mayHaveCommitted) return this.sent.length;
    // The end of a stream may overtake answers that are on their way here.
    return Math.max(0, Number(cause.metadata.answered ?? 0) - this.answered);
  }

  private wakeWaiting(): void {
    for (const wake of this.onRoom.splice(0)) wake();
  }
}

const UNSENT_MAX = 10_000;

function defect(error: unknown): RpcFailure {
  return { code: "INTERNAL", message: error instanceof Error ? error.message : String(error), cause: error };
}

interface Item {
  readonly request: Request<typeof AppendRequestSchema>;
  readonly resolve: (response: AppendResponse) => void;
  readonly reject: (error: unknown) => void;
}

/** Frames the bytes of an AppendRequest without decoding them. */
function streamRequest(correlationId: bigint, request: Request<typeof AppendRequestSchema>): Buffer {
  const wire = toWire(AppendRequestSchema, request);
  const append = Buffer.isBuffer(wire) ? wire : toBinary(AppendRequestSchema, wire);
  const head = new BinaryWriter()
    .tag(AppendStreamRequestSchema.field.correlationId.number, WireType.Varint)
    .uint64(correlationId)
    .tag(AppendStreamRequestSchema.field.append.number, WireType.LengthDelimited)
    .uint32(append.length)
    .finish();
  return Buffer.concat([head, append]);
}
