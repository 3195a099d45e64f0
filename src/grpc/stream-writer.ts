import type { ServerDuplexStream, ServerWritableStream } from "@grpc/grpc-js";

type OutgoingStream = ServerWritableStream<Buffer, unknown> | ServerDuplexStream<Buffer, unknown>;

/**
 * Writes to a gRPC stream within a bound of bytes that the transport has not taken yet. The stream's own high-water mark
 * counts messages, whatever their size, and its drain event never comes once the call is cancelled; so bytes are counted
 * here by the callback of each write, and the end of the call releases whoever waits.
 */
export class StreamWriter {
  bufferedBytes = 0;
  private isClosed = false;
  private waiting: (() => void)[] = [];

  constructor(
    private readonly call: OutgoingStream,
    private readonly bytesMax: number,
  ) {
    const close = () => {
      this.isClosed = true;
      this.release();
    };
    call.on("cancelled", close);
    call.on("close", close);
    call.on("error", close);
  }

  get hasRoom(): boolean {
    return this.isClosed || this.bufferedBytes < this.bytesMax;
  }

  /** Hands one message to the stream; `sizeBytes` is what it counts. To a call that has ended nothing is written. */
  send(message: unknown, sizeBytes: number): void {
    if (this.isClosed) return;
    this.bufferedBytes += sizeBytes;
    this.call.write(message, () => {
      this.bufferedBytes -= sizeBytes;
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
