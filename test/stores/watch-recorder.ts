import type { KvStore, WatchBatch, WatchEvent, WatchRequest } from "../../src/oplog/kv-store.js";
import { waitFor, within } from "../support/wait.js";

/** Reads a watch in the background and keeps what it saw. */
export class WatchRecorder {
  readonly batches: WatchBatch[] = [];
  /** Settles when the watch ends: undefined for a quiet end, else what it rejected with. */
  readonly ended: Promise<unknown>;
  private readonly abort = new AbortController();

  private constructor(store: KvStore, request: WatchRequest) {
    this.ended = this.read(store.watch(request, this.abort.signal)).then(
      () => undefined,
      (error: unknown) => error,
    );
  }

  /** Resolves when the watch is established; rejects with what ended it if it never was. */
  static async start(store: KvStore, request: WatchRequest): Promise<WatchRecorder> {
    const recorder = WatchRecorder.open(store, request);
    const ended = recorder.ended.then((error) => {
      throw error ?? new Error("the watch ended before it was established");
    });
    ended.catch(() => undefined);
    await Promise.race([waitFor(() => recorder.batches.length > 0, { what: "the watch to be established" }), ended]);
    return recorder;
  }

  static open(store: KvStore, request: WatchRequest): WatchRecorder {
    return new WatchRecorder(store, request);
  }

  get events(): WatchEvent[] {
    return this.batches.flatMap((batch) => [...batch.events]);
  }

  /** Batches that carry events. */
  get changes(): WatchBatch[] {
    return this.batches.filter((batch) => batch.events.length > 0);
  }

  async waitForEvents(count: number): Promise<WatchEvent[]> {
    await waitFor(() => this.events.length >= count, { deadlineMs: 20_000, what: `${count} watch events` });
    return this.events;
  }

  async stop(): Promise<unknown> {
    this.abort.abort();
    return within(this.ended, { what: "the watch to end" });
  }

  private async read(watch: AsyncIterable<WatchBatch>): Promise<void> {
    for await (const batch of watch) this.batches.push(batch);
  }
}

/** "put a=1" and "delete a", without the root of the test. */
export function describeEvent(event: WatchEvent, root: string): string {
  return event.kind === "put"
    ? `put ${event.pair.key.slice(root.length)}=${event.pair.value.toString()}`
    : `delete ${event.key.slice(root.length)}`;
}
