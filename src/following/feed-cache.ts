import { Arena, isSmall } from "../oplog/arena.js";
import { frameRun } from "../oplog/batch-frame.js";
import type { CommittedRun } from "../oplog/record.js";

export interface FramedRun extends CommittedRun {
  /** The SubscribeResponse that carries the whole run: serialised once, sent to all. */
  readonly frame: Buffer;
}

/** What a run takes beside its frame: objects, ids, the allocation of a buffer. */
const RUN_OVERHEAD_BYTES = 512;

/** The newest runs of a log, contiguous, bounded in bytes; the newest one is always kept. */
export class FeedCache {
  private runs: FramedRun[] = [];
  private oldest = 0;
  private bytes = 0;
  private readonly copies = new Arena();

  constructor(private readonly bytesMax: number) {}

  /** Takes only what is listed: a writer's run carries more, which must not live as long as the cache. */
  push({ first, last, term, chain, previousChain, timestampMs, body, frame }: CommittedRun): void {
    const listed = { first, last, term, chain, previousChain, timestampMs, body };
    const run = this.kept(frame === undefined ? frameRun(listed) : { ...listed, frame });
    this.runs.push(run);
    this.bytes += bytesOf(run);
    while (this.bytes > this.bytesMax && this.oldest < this.runs.length - 1) {
      this.bytes -= bytesOf(this.runs[this.oldest]!);
      // Drops the reference now; the array itself is cut from time to time.
      this.runs[this.oldest++] = undefined as unknown as FramedRun;
    }
    if (this.oldest > 1024 && this.oldest > this.runs.length / 2) {
      this.runs = this.runs.slice(this.oldest);
      this.oldest = 0;
    }
  }

  /** The run that holds this id. */
  find(id: bigint): FramedRun | undefined {
    let low = this.oldest;
    let high = this.runs.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const run = this.runs[middle]!;
      if (id < run.first) high = middle - 1;
      else if (id > run.last) low = middle + 1;
      else return run;
    }
    return undefined;
  }

  clear(): void {
    this.runs = [];
    this.oldest = 0;
    this.bytes = 0;
  }

  private kept(run: FramedRun): FramedRun {
    if (!isSmall(run.frame.length)) return run;
    const frame = this.copies.copy(run.frame);
    const bodyAt = run.body.byteOffset - run.frame.byteOffset;
    const body = frame.subarray(bodyAt, bodyAt + run.body.length);
    return { ...run, body, frame };
  }
}

/** What is kept alive: a frame that is not small may be a part of a larger buffer. */
function bytesOf({ frame }: FramedRun): number {
  return (isSmall(frame.length) ? frame.length : frame.buffer.byteLength) + RUN_OVERHEAD_BYTES;
}
