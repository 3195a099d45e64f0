import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { pause } from "../../src/client/back-off.js";
import type { Campaign } from "../../src/client/campaign.js";
import type { OplogClient } from "../../src/client/client.js";
import { OplogRpcError } from "../../src/client/errors.js";
import { type CampaignResponse, LostReason } from "../../src/gen/oplog/v1/leadership_pb.js";

export interface CandidatePlan {
  readonly log: string;
  readonly id: string;
  readonly ttlMs: number;
  readonly readyTimeoutMs?: number;
  readonly aliveWithinMs?: number;
  /** False: it never answers Prepare. */
  readonly answersPrepare?: boolean;
}

/** What has happened to a candidate; times are those of `machineMs`. */
export type CandidateEvent =
  | { readonly kind: "waiting"; readonly leader: string }
  | { readonly kind: "preparing"; readonly term: number; readonly isHandOver: boolean }
  | {
      readonly kind: "leading";
      readonly term: number;
      readonly next: number;
      readonly applied: number;
      readonly atMs: number;
    }
  | { readonly kind: "promised"; readonly term: number; readonly untilMs: number }
  /** By its own decision, which it is about to tell. */
  | { readonly kind: "resigned"; readonly term: number; readonly atMs: number }
  | { readonly kind: "lost"; readonly reason: keyof typeof LostReason; readonly atMs: number }
  | { readonly kind: "broken"; readonly reason: string; readonly message: string; readonly atMs: number };

const AGAIN_MS = 50;
const ALIVE_SHARE = 4;

/** Milliseconds on a clock that never jumps and that all processes of the machine share. */
export function machineMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** Follows the log as a standby does, and stands for its leadership, again whenever it has lost it. */
export class Candidate {
  /** The newest term that it has led; whether it still does, it may not know. */
  ledTerm: bigint | undefined;
  isLeading = false;
  private applied = 0n;
  private campaign: Campaign | undefined;
  private waiting: { readonly id: bigint; readonly resolve: () => void }[] = [];

  constructor(
    private readonly client: OplogClient,
    private readonly plan: CandidatePlan,
    private readonly tell: (event: CandidateEvent) => void = () => undefined,
  ) {}

  async run(signal: AbortSignal): Promise<void> {
    await Promise.all([this.follow(signal), this.stand(signal)]);
  }

  /** Gives up what it leads; it stands again soon. */
  resign(): void {
    this.isLeading = false;
    this.tell({ kind: "resigned", term: Number(this.ledTerm), atMs: machineMs() });
    this.campaign?.resign();
  }

  private async follow(signal: AbortSignal): Promise<void> {
    const { log, id } = this.plan;
    for await (const event of this.client.follow({ log, consumer: id }, { signal })) {
      if (event.case !== "batch") continue;
      this.applied = event.value.lastSequenceId;
      const arrived = this.waiting.filter((each) => each.id <= this.applied);
      this.waiting = this.waiting.filter((each) => each.id > this.applied);
      for (const { resolve } of arrived) resolve();
    }
  }

  private async stand(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        await this.standOnce(signal);
      } catch (error) {
        if (!(error instanceof OplogRpcError)) throw error;
        const { reason, code, message } = error;
        this.tell({ kind: "broken", reason: reason || code, message, atMs: machineMs() });
      }
      this.isLeading = false;
      await pause(AGAIN_MS, signal);
    }
  }

  private async standOnce(signal: AbortSignal): Promise<void> {
    const { log, id, ttlMs, readyTimeoutMs, aliveWithinMs } = this.plan;
    const candidate = {
      log,
      id,
      ttl: durationFromMs(ttlMs),
      ...(readyTimeoutMs === undefined ? {} : { readyTimeout: durationFromMs(readyTimeoutMs) }),
      ...(aliveWithinMs === undefined ? {} : { aliveWithin: durationFromMs(aliveWithinMs) }),
    };
    const alive = aliveWithinMs === undefined ? {} : { aliveEveryMs: aliveWithinMs / ALIVE_SHARE };
    const campaign = this.client.campaign(candidate, { signal, ...alive });
    this.campaign = campaign;
    for await (const { message } of campaign) this.take(message, campaign);
  }

  private take(message: CampaignResponse["message"], campaign: Campaign): void {
    const { tell } = this;
    switch (message.case) {
      case "waiting":
        tell({ kind: "waiting", leader: message.value.leader?.id ?? "" });
        break;
      case "prepare": {
        const { term, finalSequenceId, isHandOver } = message.value;
        tell({ kind: "preparing", term: Number(term), isHandOver });
        if (this.plan.answersPrepare === false) break;
        void this.hasApplied(finalSequenceId).then(() => campaign.ready(finalSequenceId));
        break;
      }
      case "leading":
        this.ledTerm = message.value.term;
        this.isLeading = true;
        tell({
          kind: "leading",
          term: Number(message.value.term),
          next: Number(message.value.nextSequenceId),
          applied: Number(this.applied),
          atMs: machineMs(),
        });
        break;
      case "leaseRenewed": {
        const untilMs = Number(message.value.validUntilMonotonicNs) / 1e6;
        tell({ kind: "promised", term: Number(this.ledTerm), untilMs });
        break;
      }
      case "lost": {
        this.isLeading = false;
        const reason = LostReason[message.value.reason] as keyof typeof LostReason;
        tell({ kind: "lost", reason, atMs: machineMs() });
      }
    }
  }

  private hasApplied(id: bigint): Promise<void> {
    if (this.applied >= id) return Promise.resolve();
    return new Promise((resolve) => this.waiting.push({ id, resolve }));
  }
}
