import type { OplogClient } from "../../src/client/client.js";
import type { History, Sequence } from "../support/history.js";
import { waitFor, within } from "../support/wait.js";

/** Follows a log from its beginning, across every break, and records what it sees. */
export class RecordingFollower {
  breaks = 0;
  readonly seen: Sequence;
  private readonly stop = new AbortController();
  private readonly done: Promise<void>;
  private failure: unknown;

  constructor(
    client: OplogClient,
    history: History,
    log: string,
    readonly name: string,
  ) {
    this.seen = history.subscriber(name);
    this.done = this.run(client, log).catch((error: unknown) => {
      this.failure = error;
    });
  }

  async reaches(id: number, deadlineMs = 60_000): Promise<void> {
    const hasReached = () => {
      if (this.failure !== undefined) throw this.failure;
      return this.seen.last >= id;
    };
    await waitFor(hasReached, { deadlineMs, what: `subscriber ${this.name} to reach ${id}` });
  }

  async close(): Promise<void> {
    this.stop.abort();
    await within(this.done, { what: `subscriber ${this.name} to end` });
    if (this.failure !== undefined) throw this.failure;
  }

  private async run(client: OplogClient, log: string): Promise<void> {
    for await (const event of client.follow({ log, consumer: this.name }, { signal: this.stop.signal })) {
      if (event.case === "broken") this.breaks++;
      if (event.case === "batch") for (const entry of event.value.entries) this.seen.add(entry);
    }
  }
}

/** The whole log, or what it has got since the last time, through Read into the history; returns the head. */
export async function readBack(client: OplogClient, history: History, log: string): Promise<number> {
  for (let from = BigInt(history.log.last) + 1n; ; ) {
    const page = await client.read({ log, fromSequenceId: from, maxEntries: 10_000, maxBytes: 3 << 20 });
    for (const entry of page.entries) history.log.add(entry);
    if (page.nextSequenceId > page.headSequenceId) return Number(page.headSequenceId);
    from = page.nextSequenceId;
  }
}
