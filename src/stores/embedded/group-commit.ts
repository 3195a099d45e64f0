import { type CallOptions, StoreUnreachableError } from "../../oplog/kv-store.js";

/** One commit takes at most this much: its writes are copied on the event loop. */
const GROUP_JOBS_MAX = 1_000;
const GROUP_BYTES_MAX = 16 * 1024 * 1024;
/** What may wait behind the commit in flight. */
const QUEUE_JOBS_MAX = 50_000;
const QUEUE_BYTES_MAX = 128 * 1024 * 1024;

/** A write that shares a commit with others. */
export interface Job {
  readonly bytes: number;
  /** Runs inside the write transaction. Throws only if it has written nothing. */
  apply(): void;
  /** The commit that holds it is on disk. */
  committed(): void;
  failed(error: unknown): void;
}

/**
 * Writes in the order of arrival. Each commit takes all writes that queued up while the commit before was on its way to disk,
 * so they share an fsync, and no timer is needed.
 */
export class GroupCommit {
  private queue: Job[] = [];
  private queueBytes = 0;
  private running: Promise<void> | undefined;
  private stoppedBy: Error | undefined;

  constructor(
    /** Applies and commits the jobs in this order; settles each of them; never rejects. */
    private readonly commit: (jobs: readonly Job[]) => Promise<void>,
    private readonly deadlineMs: number,
  ) {}

  /** Resolves with what `apply` returned, once that is on disk. `bytes` is about what it writes. */
  submit<T>(bytes: number, apply: () => T, { deadlineMs = this.deadlineMs }: CallOptions = {}): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      let result: T;
      const job: Job = {
        bytes,
        apply: () => {
          result = apply();
        },
        committed: () => {
          clearTimeout(timer);
          resolve(result);
        },
        failed: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      };
      const timer = setTimeout(() => {
        const outcome = this.withdraw(job) ? "it was not written" : "it may have been written";
        reject(new StoreUnreachableError(`the disk did not take the write within ${deadlineMs} ms; ${outcome}`));
      }, deadlineMs);
      this.enqueue(job);
    });
  }

  /** Fails what waits and what comes; resolves when the commit in flight has ended. */
  async stop(error: Error): Promise<void> {
    this.stoppedBy ??= error;
    for (const job of this.queue.splice(0)) job.failed(this.stoppedBy);
    this.queueBytes = 0;
    await this.running;
  }

  private enqueue(job: Job): void {
    if (this.stoppedBy !== undefined) {
      job.failed(this.stoppedBy);
    } else if (this.queue.length >= QUEUE_JOBS_MAX || this.queueBytes + job.bytes > QUEUE_BYTES_MAX) {
      const behind = `${this.queue.length} writes of ${this.queueBytes} bytes wait for the disk`;
      job.failed(new StoreUnreachableError(`${behind}; this one was not accepted`));
    } else {
      this.queue.push(job);
      this.queueBytes += job.bytes;
      this.running ??= this.run();
    }
  }

  /** Takes back a job that waits. False if it is being written, or is done. */
  private withdraw(job: Job): boolean {
    const index = this.queue.indexOf(job);
    if (index < 0) return false;
    this.queue.splice(index, 1);
    this.queueBytes -= job.bytes;
    return true;
  }

  private async run(): Promise<void> {
    while (this.queue.length > 0) await this.commit(this.takeGroup());
    this.running = undefined;
  }

  private takeGroup(): Job[] {
    let count = 0;
    let bytes = 0;
    while (count < Math.min(this.queue.length, GROUP_JOBS_MAX)) {
      const next = this.queue[count]!.bytes;
      if (count > 0 && bytes + next > GROUP_BYTES_MAX) break;
      bytes += next;
      count++;
    }
    this.queueBytes -= bytes;
    return this.queue.splice(0, count);
  }
}
