import { connect } from "../src/client/client.js";
import type { Entry } from "../src/gen/oplog/v1/entry_pb.js";
import { ContentHash } from "./content-hash.js";

export interface StandbyOrders {
  readonly target: string;
  readonly log: string;
  readonly name: string;
}

/** What a standby has received when it was told to finish. */
export interface StandbyReport {
  /** Different sequence ids. */
  readonly received: number;
  /** Sequence ids that came again. */
  readonly duplicated: number;
  /** Sequence ids that were passed over. */
  readonly skipped: number;
  readonly reconnects: number;
  readonly hash: string;
  /** The last sequence id of each batch and when it came: monotonic clock of the machine, nanoseconds. */
  readonly arrivals: readonly { readonly lastSequenceId: number; readonly receivedNs: bigint }[];
  readonly failure?: string;
}

export type ToStandby = { readonly follow: StandbyOrders } | { readonly finishAt: number };
export type FromStandby = { readonly received: number } | { readonly report: StandbyReport };

const FINISH_MS_MAX = 30_000;
const PROGRESS_MS = 200;

/** A process that follows the log from its beginning and, told the head, reports once it has got there. */
class Standby {
  private lastSequenceId = 0;
  private received = 0;
  private duplicated = 0;
  private skipped = 0;
  private reconnects = 0;
  private finishAt = Infinity;
  private readonly hash = new ContentHash();
  private readonly arrivals: StandbyReport["arrivals"][number][] = [];
  private readonly stop = new AbortController();

  async run({ target, log, name }: StandbyOrders): Promise<StandbyReport> {
    const client = connect(target);
    const start = { case: "fromBeginning", value: true } as const;
    let failure: string | undefined;
    try {
      for await (const event of client.follow({ log, start, consumer: name }, { signal: this.stop.signal })) {
        if (event.case === "broken") this.reconnects++;
        else if (event.case === "batch") this.take(event.value.entries);
        if (this.lastSequenceId >= this.finishAt) break;
      }
    } catch (error) {
      failure = String(error);
    }
    client.close();
    const { received, duplicated, skipped, reconnects, arrivals } = this;
    const report = { received, duplicated, skipped, reconnects, hash: this.hash.digest(), arrivals };
    return failure === undefined ? report : { ...report, failure };
  }

  progress(): number {
    return this.received;
  }

  /** With a deadline: what has not come by then is lost. */
  finish(at: number): void {
    this.finishAt = at;
    if (this.lastSequenceId >= at) this.stop.abort();
    else setTimeout(() => this.stop.abort(), FINISH_MS_MAX).unref();
  }

  private take(entries: readonly Entry[]): void {
    const receivedNs = process.hrtime.bigint();
    for (const { sequenceId } of entries) {
      const id = Number(sequenceId);
      if (id <= this.lastSequenceId) {
        this.duplicated++;
        continue;
      }
      this.skipped += id - this.lastSequenceId - 1;
      this.received++;
      this.lastSequenceId = id;
    }
    this.hash.update(entries);
    this.arrivals.push({ lastSequenceId: this.lastSequenceId, receivedNs });
  }
}

const standby = new Standby();
const tell = (message: FromStandby) => process.send?.(message);

process.on("disconnect", () => process.exit());
process.on("message", (message: ToStandby) => {
  if ("finishAt" in message) return standby.finish(message.finishAt);
  const progress = setInterval(() => tell({ received: standby.progress() }), PROGRESS_MS);
  void standby.run(message.follow).then((report) => {
    clearInterval(progress);
    tell({ report });
  });
});
