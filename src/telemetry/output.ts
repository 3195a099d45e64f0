import { constants, openSync, writeSync } from "node:fs";
import { isatty } from "node:tty";

/** What waits for a reader; beyond that the oldest lines are dropped. */
const WAITING_BYTES_MAX = 1024 * 1024;
const RETRY_MS = 20;
/** While everything else stands still, at the very end. */
const RETRY_AT_END_MS = 5;

/**
 * Lines to standard output that never wait for whoever reads them. What the reader does not take stays here up to a
 * bound; then the oldest lines are dropped and counted. A line that cannot be written at all (the disk is full, nobody has
 * the pipe open any more) is dropped too.
 */
export class Output {
  /** Since the start. */
  linesDropped = 0;
  /** Told, once lines can be written again, how many are missing before. */
  onFlowing: (linesMissing: number) => void = () => undefined;
  private readonly fd: number;
  /** Partly written; never dropped. */
  private begun: Buffer | undefined;
  private waiting: Buffer[] = [];
  private oldest = 0;
  private waitingBytes = 0;
  private missing = 0;
  private timer: NodeJS.Timeout | undefined;

  constructor(
    fd: 1 | 2,
    private readonly waitingBytesMax = WAITING_BYTES_MAX,
  ) {
    this.fd = withoutBlocking(fd);
  }

  write(line: string): void {
    this.enqueue(Buffer.from(line));
    // Otherwise the timer will.
    if (this.timer === undefined) this.writeOut();
  }

  /** Standing still for at most so long while the reader takes what waits. */
  flush(deadlineMs: number): void {
    const giveUpAtMs = performance.now() + deadlineMs;
    const sleeper = new Int32Array(new SharedArrayBuffer(4));
    while (!this.writeOut() && performance.now() < giveUpAtMs) Atomics.wait(sleeper, 0, 0, RETRY_AT_END_MS);
  }

  private enqueue(line: Buffer): void {
    this.waiting.push(line);
    this.waitingBytes += line.length;
    while (this.waitingBytes > this.waitingBytesMax) {
      this.next();
      this.drop();
    }
  }

  /** Whether nothing waits any more. */
  private writeOut(): boolean {
    clearTimeout(this.timer);
    this.timer = undefined;
    for (let line = this.begun ?? this.next(); line !== undefined; line = this.next()) {
      this.begun = this.rest(line);
      if (this.begun !== undefined) {
        this.timer = setTimeout(() => this.writeOut(), RETRY_MS).unref();
        return false;
      }
    }
    return true;
  }

  private next(): Buffer | undefined {
    const line = this.waiting[this.oldest];
    if (line === undefined) return undefined;
    this.waitingBytes -= line.length;
    this.waiting[this.oldest++] = undefined as unknown as Buffer;
    if (this.oldest === this.waiting.length || this.oldest > 1024) {
      this.waiting = this.waiting.slice(this.oldest);
      this.oldest = 0;
    }
    return line;
  }

  /** What of the line could not be written yet. */
  private rest(line: Buffer): Buffer | undefined {
    try {
      const written = writeSync(this.fd, line);
      if (written < line.length) return line.subarray(written);
    } catch (error) {
      if (isBusy(error)) return line;
      this.drop();
      return undefined;
    }
    if (this.missing > 0) {
      const { missing } = this;
      this.missing = 0;
      this.onFlowing(missing);
    }
    return undefined;
  }

  private drop(): void {
    this.linesDropped++;
    this.missing++;
  }
}

function isBusy(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "EAGAIN" || code === "EINTR";
}

/** The descriptor to write to. A full pipe, socket or terminal then answers EAGAIN; files do not keep anyone waiting. */
function withoutBlocking(fd: 1 | 2): number {
  if (!isatty(fd)) {
    // Node turns off blocking for a pipe or a socket when it makes its stream of it.
    const stream = fd === 1 ? process.stdout : process.stderr;
    stream.on("error", () => undefined);
    return fd;
  }
  try {
    // Opened anew, since the shell has the same terminal open and expects it to block.
    return openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  } catch {
    return fd;
  }
}
