import { create } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { ServerDuplexStream } from "@grpc/grpc-js";
import {
  CampaignRequestSchema,
  CampaignResponseSchema,
  type Candidate as CandidateMessage,
  LostReason,
} from "../gen/oplog/v1/leadership_pb.js";
import { systemClock } from "../oplog/clock.js";
import { InvalidArgumentError } from "../oplog/errors.js";
import { requireConsumerName } from "../oplog/keys.js";
import type { Campaigns, OpenCampaign } from "../promotion/campaigns.js";
import type { CampaignMessage, Candidate, Lost } from "../promotion/messages.js";
import { durationMs, toChain } from "./convert.js";
import { decode, requireEndpoint } from "./decode.js";
import { StreamWriter } from "./stream-writer.js";

const MESSAGE_BYTES = 512;
const MESSAGES_BYTES_MAX = 64 * 1024;
const STATE_HASH_BYTES_MAX = 64;

/** One Campaign stream: passes its messages to the campaign, and sends back what the campaign tells. */
export class CampaignStream {
  private open: OpenCampaign | undefined;
  private isRefused = false;
  private refuse: (error: unknown) => void = () => undefined;
  private readonly writer: StreamWriter;

  constructor(
    private readonly call: ServerDuplexStream<Buffer, unknown>,
    private readonly campaigns: Campaigns,
    /** Aborts when the sidecar is about to stop. */
    private readonly draining: AbortSignal,
  ) {
    this.writer = new StreamWriter(call, MESSAGES_BYTES_MAX);
  }

  /** Resolves when the candidacy has ended; rejects with OplogError where it is refused. */
  async run(): Promise<void> {
    const { call, draining } = this;
    let entered: (open: OpenCampaign | undefined) => void = () => undefined;
    const entry = new Promise<OpenCampaign | undefined>((resolve) => {
      entered = resolve;
    });
    const refused = new Promise<never>((_, reject) => {
      this.refuse = reject;
    });
    refused.catch(() => undefined);
    const leave = (why: string) => {
      this.isRefused = true;
      this.open?.campaign.resign(why);
      entered(undefined);
    };
    const stop = () => leave("this sidecar stops");
    call.on("data", (bytes: Buffer) => {
      try {
        if (!this.isRefused) this.take(bytes);
        entered(this.open);
      } catch (error) {
        this.isRefused = true;
        this.open?.campaign.resign("the candidate sent what it may not");
        this.refuse(error);
      }
    });
    call.on("end", () => leave("the candidate has ended the stream; it leads only while that is open"));
    for (const event of ["cancelled", "close", "error"]) call.on(event, () => leave("the candidate has left"));
    draining.addEventListener("abort", stop);
    try {
      if (draining.aborted) stop();
      const open = await Promise.race([entry, refused]);
      if (open === undefined) return;
      await Promise.race([open.ended, refused]);
    } finally {
      draining.removeEventListener("abort", stop);
      // A refused one gives up what it holds before the stream ends.
      await this.open?.ended.catch(() => undefined);
    }
  }

  private take(bytes: Buffer): void {
    const { message } = decode(CampaignRequestSchema, bytes);
    if (this.open === undefined) {
      if (message.case !== "candidate") {
        throw new InvalidArgumentError("message", `the first one is to be candidate, not ${message.case ?? "empty"}`);
      }
      const { log } = message.value;
      this.open = this.campaigns.enter(log, toCandidate(message.value), (each) => this.send(each));
      return;
    }
    const { campaign } = this.open;
    switch (message.case) {
      case "ready": {
        const { appliedSequenceId: applied, stateHash, term } = message.value;
        const appliedChain = toChain(message.value.appliedChain, "ready.applied_chain");
        if (stateHash.length > STATE_HASH_BYTES_MAX) {
          throw new InvalidArgumentError(
            "ready.state_hash",
            `${stateHash.length} bytes, the limit is ${STATE_HASH_BYTES_MAX}`,
            { received: stateHash.length, limit: STATE_HASH_BYTES_MAX },
          );
        }
        campaign.ready({ applied, stateHash, appliedChain, term });
        return;
      }
      case "alive":
        campaign.alive();
        return;
      default:
        throw new InvalidArgumentError(
          "message",
          `${message.case ?? "empty"} after candidate; ready or alive may follow`,
        );
    }
  }

  private send(message: CampaignMessage): boolean {
    if (!this.writer.hasRoom && message.kind !== "lost") return false;
    this.writer.send(create(CampaignResponseSchema, { message: toMessage(message) }), MESSAGE_BYTES);
    return true;
  }
}

function toCandidate(message: CandidateMessage): Candidate {
  const { id, endpoint, ttl, readyTimeout, noHandshake, aliveWithin } = message;
  return {
    id: requireConsumerName(id, "candidate.id"),
    endpoint: requireEndpoint(endpoint, "candidate.endpoint"),
    ttlMs: durationMs("candidate.ttl", ttl, 5000, 1000, 60_000),
    readyTimeoutMs: durationMs("candidate.ready_timeout", readyTimeout, 30_000, 100, 600_000),
    needsHandshake: !noHandshake,
    aliveWithinMs: aliveWithin && durationMs("candidate.alive_within", aliveWithin, 0, 500, 60_000),
  };
}

function toMessage(message: CampaignMessage) {
  switch (message.kind) {
    case "waiting": {
      const { leader, refusal = "" } = message;
      const told = leader && { id: leader.id, endpoint: leader.endpoint, term: leader.term };
      return { case: "waiting" as const, value: { storeRefusal: refusal, ...(told && { leader: told }) } };
    }
    case "prepare": {
      const { term, final, isHandOver } = message;
      const finalChain = Buffer.from(final.chain, "hex");
      return { case: "prepare" as const, value: { term, finalSequenceId: final.id, finalChain, isHandOver } };
    }
    case "leading": {
      const { term, nextSequenceId, logId, times } = message;
      const value = {
        term,
        nextSequenceId,
        logId,
        times: {
          fence: durationFromMs(times.fenceMs),
          catchUp: durationFromMs(times.catchUpMs),
          objectLeases: durationFromMs(times.objectLeasesMs),
        },
      };
      return { case: "leading" as const, value };
    }
    case "lost": {
      const { reason, message: why } = message.lost;
      return { case: "lost" as const, value: { reason: REASONS[reason], message: why } };
    }
    case "lease renewed": {
      // In this order: a stop between the two readings only makes the promise shorter.
      const nowNs = process.hrtime.bigint();
      const validForMs = BigInt(Math.max(0, Math.floor(message.validUntilMs - systemClock.monotonicMs())));
      return {
        case: "leaseRenewed" as const,
        value: { validForMs, validUntilMonotonicNs: nowNs + validForMs * 1_000_000n },
      };
    }
  }
}

const REASONS: Record<Lost["reason"], LostReason> = {
  expired: LostReason.EXPIRED,
  fenced: LostReason.FENCED,
  resigned: LostReason.RESIGNED,
  "handed over": LostReason.HANDED_OVER,
  "store unreachable": LostReason.STORE_UNREACHABLE,
  "store replaced": LostReason.STORE_REPLACED,
  "not ready": LostReason.NOT_READY,
  silent: LostReason.SILENT,
};
