import { setTimeout as sleep } from "node:timers/promises";
import { type Duration, durationFromMs } from "@bufbuild/protobuf/wkt";
import type { Campaign } from "../src/client/campaign.js";
import { connect, type OplogClient } from "../src/client/client.js";
import { OplogRpcError } from "../src/client/errors.js";
import { type Leading, LostReason } from "../src/gen/oplog/v1/leadership_pb.js";
import { type Acknowledged, Master } from "./master.js";
import { batchesAfter, type NumberedBatch } from "./operations.js";
import { loadTrace, type TraceRequest } from "./trace.js";

export interface ReplicaOrders {
  readonly target: string;
  readonly log: string;
  readonly id: string;
  readonly ttlMs: number;
  readonly trace: string | undefined;
  readonly requestsMax: number;
}

/** What a promotion took, as the sidecar tells it. */
export interface PromotionTimes {
  readonly fenceMs: number;
  readonly catchUpMs: number;
  readonly objectLeasesMs: number;
}

export type FromReplica =
  | { readonly kind: "waiting"; readonly leader: string }
  | { readonly kind: "leading"; readonly term: number; readonly nextSequenceId: number; readonly times: PromotionTimes }
  | { readonly kind: "acknowledged"; readonly append: Acknowledged }
  /** As leader it has appended everything that there is. */
  | { readonly kind: "done" }
  | { readonly kind: "lost"; readonly reason: string; readonly message: string }
  | { readonly kind: "refused"; readonly message: string };

export type ToReplica =
  | { readonly start: ReplicaOrders }
  /** Not to append beyond this entry. */
  | { readonly appendUpTo: number };

const RETRY_MS = 100;

/**
 * One of several masters of a KV cache, in a process of its own: follows the log, stands for its leadership, and while it
 * leads goes on with the trace where the log ends.
 */
class Replica {
  private applied = 0n;
  private appendUpTo = 0;
  private wake: () => void = () => undefined;
  private changed = this.nextChange();

  async run(orders: ReplicaOrders): Promise<void> {
    const client = connect(orders.target);
    const { requests } = await loadTrace(orders.trace, orders.requestsMax);
    void this.follow(client, orders);
    for (;;) {
      try {
        await this.campaign(client, orders, requests);
      } catch (error) {
        if (!(error instanceof OplogRpcError)) throw error;
        tell({ kind: "lost", reason: "the stream has ended", message: error.message });
      }
      await sleep(RETRY_MS);
    }
  }

  allow(appendUpTo: number): void {
    this.appendUpTo = appendUpTo;
    this.notify();
  }

  private async follow(client: OplogClient, { log, id }: ReplicaOrders): Promise<void> {
    const start = { case: "fromBeginning", value: true } as const;
    for await (const event of client.follow({ log, start, consumer: `replica-${id}` })) {
      if (event.case !== "batch") continue;
      this.applied = event.value.lastSequenceId;
      this.notify();
    }
  }

  private async campaign(
    client: OplogClient,
    { log, id, ttlMs }: ReplicaOrders,
    requests: readonly TraceRequest[],
  ): Promise<void> {
    const candidate = { log, id, ttl: durationFromMs(ttlMs), aliveWithin: durationFromMs(ttlMs) };
    const over = new AbortController();
    const campaign = client.campaign(candidate, { aliveEveryMs: ttlMs / 4 });
    try {
      for await (const { message } of campaign) {
        if (message.case === "waiting") tell({ kind: "waiting", leader: message.value.leader?.id ?? "" });
        else if (message.case === "prepare") await this.prepare(campaign, message.value.finalSequenceId);
        else if (message.case === "leading") void this.lead(client, log, requests, message.value, over.signal);
        else if (message.case === "lost") {
          const { reason, message: why } = message.value;
          tell({ kind: "lost", reason: LostReason[reason].toLowerCase(), message: why });
        }
      }
    } finally {
      over.abort();
    }
  }

  private async prepare(campaign: Campaign, finalSequenceId: bigint): Promise<void> {
    while (this.applied < finalSequenceId) await this.changed;
    campaign.ready(finalSequenceId);
  }

  private async lead(
    client: OplogClient,
    log: string,
    requests: readonly TraceRequest[],
    { term, nextSequenceId, times }: Leading,
    over: AbortSignal,
  ): Promise<void> {
    tell({
      kind: "leading",
      term: Number(term),
      nextSequenceId: Number(nextSequenceId),
      times: {
        fenceMs: milliseconds(times?.fence),
        catchUpMs: milliseconds(times?.catchUp),
        objectLeasesMs: milliseconds(times?.objectLeases),
      },
    });
    const acknowledged = (append: Acknowledged) => tell({ kind: "acknowledged", append });
    const master = new Master(client, log, term, acknowledged, over);
    try {
      await master.replay(this.allowed(batchesAfter(requests, nextSequenceId - 1n), over));
      if (!over.aborted) tell({ kind: "done" });
    } catch (error) {
      tell({ kind: "refused", message: String(error) });
    }
  }

  private async *allowed(batches: Iterable<NumberedBatch>, over: AbortSignal): AsyncGenerator<NumberedBatch> {
    for (const batch of batches) {
      while (batch.firstSequenceId > this.appendUpTo && !over.aborted) await this.changed;
      if (over.aborted) return;
      yield batch;
    }
  }

  private nextChange(): Promise<void> {
    return new Promise((resolve) => {
      this.wake = resolve;
    });
  }

  private notify(): void {
    const { wake } = this;
    this.changed = this.nextChange();
    wake();
  }
}

function milliseconds(duration: Duration | undefined): number {
  return duration === undefined ? 0 : Number(duration.seconds) * 1000 + duration.nanos / 1e6;
}

const tell = (message: FromReplica) => process.send?.(message);
const replica = new Replica();

process.on("disconnect", () => process.exit());
process.on("message", (message: ToReplica) => {
  if ("appendUpTo" in message) replica.allow(message.appendUpTo);
  else void replica.run(message.start);
});
