import type { EventEmitter } from "node:events";
import type { ServerDuplexStream, ServerUnaryCall, ServerWritableStream } from "@grpc/grpc-js";
import { type AnswerBudget, StreamWriter } from "./stream-writer.js";

type Surface = EventEmitter & Pick<ServerUnaryCall<Buffer, unknown>, "cancelled" | "metadata" | "getPeer">;

/** Who calls. Nothing proves it yet: no listener authenticates its callers. */
export type CallerIdentity = "anonymous";

const TRACEPARENT = /^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/;

/** What a handler knows of the call that it serves. */
export class Call {
  readonly identity: CallerIdentity = "anonymous";
  /** The client is gone, or its deadline has passed: nobody hears the answer. */
  hasLeft = false;
  private leaving: AbortController | undefined;

  constructor(private readonly surface: Surface) {
    const leave = () => {
      this.hasLeft = true;
      this.leaving?.abort();
    };
    surface.on("cancelled", leave);
    // Only streams have it.
    surface.on("close", leave);
    if (surface.cancelled) leave();
  }

  get peer(): string {
    return this.surface.getPeer();
  }

  /** Of the trace that the call belongs to (W3C traceparent); "" = none, or none that is well formed. */
  get traceparent(): string {
    const [value] = this.surface.metadata.get("traceparent");
    return typeof value === "string" && TRACEPARENT.test(value) ? value : "";
  }

  /** Aborts when the client leaves. */
  get signal(): AbortSignal {
    this.leaving ??= new AbortController();
    if (this.hasLeft) this.leaving.abort();
    return this.leaving.signal;
  }

  /** Calls `listener` when the client leaves, or now if it has left. */
  onLeft(listener: () => void): void {
    this.surface.on("cancelled", listener);
    if (this.hasLeft) listener();
  }
}

/** A call whose answer is a stream. */
export class AnsweringCall extends Call {
  constructor(
    private readonly answers: ServerWritableStream<Buffer, unknown> | ServerDuplexStream<Buffer, unknown>,
    /** Of all such calls. */
    private readonly budget?: AnswerBudget,
  ) {
    super(answers);
  }

  /** `bytesMax`: what the transport may have left to take. */
  writer(bytesMax: number): StreamWriter {
    return new StreamWriter(this.answers, bytesMax, this.budget);
  }
}

/** A call with a stream in either direction. */
export class DuplexCall extends AnsweringCall {
  constructor(
    readonly stream: ServerDuplexStream<Buffer, unknown>,
    /** What the next request is counted with, in the order in which they come; to be given back to the budget. */
    readonly claim: (length: number) => number,
  ) {
    super(stream);
  }
}
