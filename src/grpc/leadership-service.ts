import { create } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { ServerDuplexStream, ServerUnaryCall, ServerWritableStream } from "@grpc/grpc-js";
import {
  ClaimTermRequestSchema,
  ClaimTermResponseSchema,
  GetLeaderRequestSchema,
  GetLeaderResponseSchema,
  HandOverRequestSchema,
  HandOverResponseSchema,
  LeadershipMode,
  ResignRequestSchema,
  ResignResponseSchema,
  WatchLeaderRequestSchema,
  WatchLeaderResponseSchema,
} from "../gen/oplog/v1/leadership_pb.js";
import type { Logs } from "../log/logs.js";
import { InvalidArgumentError, TooManyError } from "../oplog/errors.js";
import { requireConsumerName } from "../oplog/keys.js";
import { linkSignals } from "../oplog/timing.js";
import type { Campaigns } from "../promotion/campaigns.js";
import type { Leadership } from "../stored/leadership.js";
import { decode, leaving, requireEndpoint } from "./calls.js";
import { CampaignStream } from "./campaign-stream.js";
import { durationMs } from "./convert.js";
import { StreamWriter } from "./stream-writer.js";

export interface LeadershipServiceParts {
  readonly logs: Logs;
  readonly campaigns: Campaigns;
  readonly streamsMax: number;
  /** Aborts when the sidecar is about to stop: no new work. */
  readonly draining: AbortSignal;
}

const TOKEN_MAX = 2n ** 63n - 1n;
const ANSWER_BYTES = 512;
const ANSWERS_BYTES_MAX = 64 * 1024;

/** oplog.v1.LeadershipService. Each method throws OplogError for what the client is to be told. */
export class LeadershipService {
  private openStreams = 0;

  constructor(private readonly parts: LeadershipServiceParts) {}

  campaign(call: ServerDuplexStream<Buffer, unknown>): Promise<void> {
    return new CampaignStream(call, this.parts.campaigns, this.parts.draining).run();
  }

  async resign(call: ServerUnaryCall<Buffer, unknown>) {
    const { log } = decode(ResignRequestSchema, call.request);
    return create(ResignResponseSchema, await this.parts.campaigns.resign(log));
  }

  async handOver(call: ServerUnaryCall<Buffer, unknown>) {
    const { log, target, timeout } = decode(HandOverRequestSchema, call.request);
    const { term, finalSequenceId, heldMs } = await this.parts.campaigns.handOver(
      log,
      requireConsumerName(target, "target"),
      durationMs("timeout", timeout, 3000, 50, 60_000),
    );
    return create(HandOverResponseSchema, { term, finalSequenceId, held: durationFromMs(heldMs) });
  }

  async claimTerm(call: ServerUnaryCall<Buffer, unknown>) {
    const { log, token, claimant, endpoint } = decode(ClaimTermRequestSchema, call.request);
    if (token === 0n || token > TOKEN_MAX) {
      throw new InvalidArgumentError("token", `${token}; 1 to ${TOKEN_MAX} are allowed`, {
        received: token,
        limit: TOKEN_MAX,
      });
    }
    const id = requireConsumerName(claimant, "claimant");
    const { term, head } = await this.parts.logs.get(log).primary.claimByToken(token, {
      id,
      endpoint: requireEndpoint(endpoint, "endpoint"),
    });
    return create(ClaimTermResponseSchema, { term, finalSequenceId: head.lastSequenceId, logId: head.logId });
  }

  async getLeader(call: ServerUnaryCall<Buffer, unknown>) {
    const { log: name } = decode(GetLeaderRequestSchema, call.request);
    const log = this.parts.logs.get(name);
    const [leadership, candidates] = await Promise.all([log.readLeadership(), log.readCandidates()]);
    const { leader, leaderLeaseId } = leadership;
    const leftMs = leader && (await log.leaseLeftMs(leaderLeaseId));
    const { role, term } = log.primary;
    return create(GetLeaderResponseSchema, {
      ...toLeadership(leadership),
      ...(leftMs === undefined ? {} : { leaseLeft: durationFromMs(Math.round(leftMs)) }),
      candidates: candidates.map(({ id, endpoint }) => ({ id, endpoint })),
      preparing: role === "preparing" && leader?.term === term,
    });
  }

  async watchLeader(call: ServerWritableStream<Buffer, unknown>): Promise<void> {
    const { log } = decode(WatchLeaderRequestSchema, call.request);
    const { logs, draining, streamsMax } = this.parts;
    if (this.openStreams >= streamsMax) throw new TooManyError("leader streams", streamsMax, 1000);
    this.openStreams++;
    const { signal, unlink } = linkSignals(leaving(call), draining);
    const writer = new StreamWriter(call, ANSWERS_BYTES_MAX);
    try {
      let told = "";
      for await (const leadership of logs.get(log).watchLeadership(signal)) {
        const answer = toLeadership(leadership);
        const seen = `${answer.leader.term} ${answer.vacant}`;
        if (seen === told) continue;
        told = seen;
        await writer.write(create(WatchLeaderResponseSchema, answer), ANSWER_BYTES);
      }
    } finally {
      unlink();
      this.openStreams--;
    }
  }
}

function toLeadership({ term, leader }: Leadership) {
  const isElected = term?.elected === true;
  return {
    leader: { id: term?.owner ?? "", endpoint: term?.endpoint ?? "", term: term?.term ?? 0n },
    token: term?.token ?? 0n,
    mode: term === undefined ? LeadershipMode.UNSPECIFIED : modeOf(term.elected, term.token),
    vacant: isElected && leader === undefined,
  };
}

function modeOf(isElected: boolean, token: bigint): LeadershipMode {
  if (isElected) return LeadershipMode.ELECTED;
  return token === 0n ? LeadershipMode.AUTO : LeadershipMode.TOKEN;
}
