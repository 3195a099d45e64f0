import type { ServerDuplexStream, ServerWritableStream } from "@grpc/grpc-js";

type OutgoingStream = ServerWritableStream<Buffer, unknown> | ServerDuplexStream<Buffer, unknown>;

/** What the transport has left to take of all streams that share it. */
export class AnswerBudget {
  bytes = 0;

  constructor(private readonly bytesMax: number) {}

  get hasRoom(): boolean {
    return this.bytes < this.bytesMax;
  }
}

/**
 * Writes to a gRPC stream within a bound of bytes that the transport has not taken yet. The stream's own high-water mark
 * counts messages of any size, and its drain event never comes once the call is cancelled. So bytes are counted here, by the
 * callback of each write, and the end of the call releases all who wait.
 */
export class StreamWriter {
  bufferedBytes = 0;
  private isClosed = false;
  private waiting: (() => void)[] = [];

  constructor(
    private readonly call: OutgoingStream,
    private readonly bytesMax: number,
    /** Where this is full, one message at a time still goes out. */
    private readonly shared?: AnswerBudget,
  ) {
    const close = () => {
      if (!this.isClosed && shared !== undefined) shared.bytes -= this.bufferedBytes;
      this.isClosed = true;
      this.release();
    };
    call.on("cancelled", close);
    call.on("close", close);
    call.on("error", close);
  }

  get hasRoom(): boolean {
    if (this.isClosed || this.bufferedBytes === 0) return true;
    return this.bufferedBytes < this.bytesMax && (this.shared?.hasRoom ?? true);
  }

  /** Hands one message to the stream; `sizeBytes` is what it counts. To a call that has ended nothing is written. */
  send(message: unknown, sizeBytes: number): void {
    if (this.isClosed) return;
    const { shared } = this;
    this.bufferedBytes += sizeBytes;
    if (shared !== undefined) shared.bytes += sizeBytes;
    this.call.write(message, () => {
      this.bufferedBytes -= sizeBytes;
      if (shared !== undefined && !this.isClosed) shared.bytes -= sizeBytes;
      if (this.hasRoom) this.release();
    });
  }

  /** Resolves when there is room, or the call has ended. */
  async room(): Promise<void> {
    while (!this.hasRoom) await new Promise<void>((resolve) => this.waiting.push(resolve));
  }

  async write(message: unknown, sizeBytes: number): Promise<void> {
    this.send(message, sizeBytes);
    if (!this.hasRoom) await this.room();
  }

  private release(): void {
    const woken = this.waiting;
    this.waiting = [];
    for (const wake of woken) wake();
  }
}
