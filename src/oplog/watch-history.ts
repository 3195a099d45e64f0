import { requireWatch } from "./kv-requests.js";
import { CompactedError, type WatchBatch, type WatchEvent, WatchLostError, type WatchRequest } from "./kv-store.js";

/** Beyond key and value: what an event takes in memory, for its objects and its place in a batch. */
const EVENT_BYTES = 400;

/**
 * The recent changes of a store that sees all its writes pass, and the watches that read them.
 *
 * Watches have no queue of their own: each is a position in the one history, so that memory is bounded by
 * `bytesMax` however many there are, and a consumer that the history has outrun is told so (WatchLostError).
 * Values are shared among watches: readers must not write into them. They must not be parts of larger buffers that hold
 * other things too, or those are kept as well.
 */
export class WatchHistory {
  private readonly batches: WatchBatch[] = [];
  /** Batches before this index are dropped already. */
  private head = 0;
  private bytes = 0;
  /** Invariant: firstKept ≤ revision + 1, and every change since firstKept is in `batches`. */
  private firstKept: bigint;
  private compactedBelow = 0n;
  private isClosed = false;
  private readonly wakes = new Set<() => void>();

  constructor(
    /** Of the last change so far; what came before is not known here. */
    private revision: bigint,
    private readonly bytesMax: number,
  ) {
    this.firstKept = revision + 1n;
  }

  /** Revisions must rise from call to call. */
  publish(batch: WatchBatch): void {
    this.revision = batch.revision;
    this.batches.push(batch);
    this.bytes += batchBytes(batch);
    while (this.bytes > this.bytesMax && this.batches.length - this.head > 1) this.dropOldest();
    this.wakeAll();
  }

  /** Drops the changes before `revision`. */
  compact(revision: bigint): void {
    while (this.head < this.batches.length && this.batches[this.head]!.revision < revision) this.dropOldest();
    if (revision > this.firstKept && revision <= this.revision + 1n) this.firstKept = revision;
    this.compactedBelow = this.firstKept;
    this.wakeAll();
  }

  async *watch(request: WatchRequest, signal: AbortSignal): AsyncGenerator<WatchBatch, void> {
    requireWatch(request);
    let next = request.startRevision;
    if (next < this.firstKept)
      throw new CompactedError(`revision ${next} is gone, the first kept is ${this.firstKept}`);
    let wake = () => {};
    const onWake = () => wake();
    this.wakes.add(onWake);
    signal.addEventListener("abort", onWake);
    let established = false;
    try {
      for (;;) {
        if (signal.aborted) return;
        if (this.isClosed) throw new WatchLostError("the store was closed");
        if (!established) {
          established = true;
          yield { revision: this.revision, events: [] };
          continue;
        }
        if (next < this.firstKept) throw this.outrun(next);
        const batch = this.batches[this.indexOf(next)];
        if (batch === undefined) {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
          continue;
        }
        next = batch.revision + 1n;
        const events = batch.events.filter((event) => isIn(request, keyOf(event)));
        if (events.length > 0) yield { revision: batch.revision, events };
      }
    } finally {
      this.wakes.delete(onWake);
      signal.removeEventListener("abort", onWake);
    }
  }

  /** Ends all watches. */
  close(): void {
    this.isClosed = true;
    this.batches.length = this.head = this.bytes = 0;
    this.wakeAll();
  }

  private wakeAll(): void {
    for (const wake of this.wakes) wake();
  }

  private outrun(next: bigint): CompactedError | WatchLostError {
    return next < this.compactedBelow
      ? new CompactedError(`revision ${next} was compacted, the first kept is ${this.firstKept}`)
      : new WatchLostError(`too slow: revision ${next} is wanted, the history of ${this.bytesMax} bytes has passed it`);
  }

  /** Index of the first batch at or after the revision. */
  private indexOf(revision: bigint): number {
    let low = this.head;
    let high = this.batches.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.batches[middle]!.revision < revision) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  private dropOldest(): void {
    const dropped = this.batches[this.head]!;
    // Lets go of its values now; shifting the array at every drop would be quadratic.
    this.batches[this.head++] = undefined as unknown as WatchBatch;
    this.bytes -= batchBytes(dropped);
    this.firstKept = dropped.revision + 1n;
    if (this.head > 64 && this.head * 2 > this.batches.length) {
      this.batches.splice(0, this.head);
      this.head = 0;
    }
  }
}

function keyOf(event: WatchEvent): string {
  return event.kind === "put" ? event.pair.key : event.key;
}

function isIn({ from, to }: WatchRequest, key: string): boolean {
  return key >= from && key < to;
}

function batchBytes({ events }: WatchBatch): number {
  return events.reduce(
    (sum, event) => sum + EVENT_BYTES + keyOf(event).length + (event.kind === "put" ? event.pair.value.length : 0),
    0,
  );
}
