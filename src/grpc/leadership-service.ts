import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import {
  type ClaimTermRequest,
  type ClaimTermResponseSchema,
  type GetLeaderRequest,
  type GetLeaderResponseSchema,
  type HandOverRequest,
  type HandOverResponseSchema,
  LeadershipMode,
  type ResignRequest,
  type ResignResponseSchema,
  type WatchLeaderRequest,
  WatchLeaderResponseSchema,
} from "../gen/oplog/v1/leadership_pb.js";
import type { Logs } from "../log/logs.js";
import { InvalidArgumentError } from "../oplog/errors.js";
import { requireConsumerName } from "../oplog/keys.js";
import { linkSignals } from "../oplog/timing.js";
import type { Campaigns } from "../promotion/campaigns.js";
import type { Leadership } from "../stored/leadership.js";
import { claimantOf, NOBODY } from "../stored/primary.js";
import type { AnsweringCall, DuplexCall } from "./call.js";
import { CampaignStream } from "./campaign-stream.js";
import { durationMs } from "./convert.js";
import { requireEndpoint } from "./decode.js";

export interface LeadershipServiceParts {
  readonly logs: Logs;
  readonly campaigns: Campaigns;
  /** Aborts when the sidecar is about to stop: no new work. */
  readonly draining: AbortSignal;
}

const TOKEN_MAX = 2n ** 63n - 1n;
const ANSWER_BYTES = 512;
const ANSWERS_BYTES_MAX = 64 * 1024;

/** oplog.v1.LeadershipService. Each method throws OplogError for what the client is to be told. */
export class LeadershipService {
  constructor(private readonly parts: LeadershipServiceParts) {}

  campaign({ stream }: DuplexCall): Promise<void> {
    return new CampaignStream(stream, this.parts.campaigns, this.parts.draining).run();
  }

  resign({ log }: ResignRequest): Promise<MessageInitShape<typeof ResignResponseSchema>> {
    return this.parts.campaigns.resign(log);
  }

  async handOver({ log, target, timeout }: HandOverRequest): Promise<MessageInitShape<typeof HandOverResponseSchema>> {
    const { term, finalSequenceId, heldMs } = await this.parts.campaigns.handOver(
      log,
      requireConsumerName(target, "target"),
      durationMs("timeout", timeout, 3000, 50, 60_000),
    );
    return { term, finalSequenceId, held: durationFromMs(heldMs) };
  }

  async claimTerm(request: ClaimTermRequest): Promise<MessageInitShape<typeof ClaimTermResponseSchema>> {
    const { log, token, claimant, endpoint } = request;
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
    return { term, finalSequenceId: head.lastSequenceId, logId: head.logId };
  }

  async getLeader({ log: name }: GetLeaderRequest): Promise<MessageInitShape<typeof GetLeaderResponseSchema>> {
    const log = this.parts.logs.get(name);
    const [leadership, candidates] = await Promise.all([log.readLeadership(), log.readCandidates()]);
    const { leader, leaderLeaseId } = leadership;
    const leftMs = leader && (await log.leaseLeftMs(leaderLeaseId));
    const { role, term } = log.primary;
    return {
      ...toLeadership(leadership),
      ...(leftMs === undefined ? {} : { leaseLeft: durationFromMs(Math.round(leftMs)) }),
      candidates: candidates.map((entry) => ("problem" in entry ? entry : { id: entry.id, endpoint: entry.endpoint })),
      preparing: role === "preparing" && leader?.term === term,
    };
  }

  async watchLeader({ log }: WatchLeaderRequest, call: AnsweringCall): Promise<void> {
    const { logs, draining } = this.parts;
    const { signal, unlink } = linkSignals(call.signal, draining);
    const writer = call.writer(ANSWERS_BYTES_MAX);
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
    }
  }
}

function toLeadership({ term, leader }: Leadership) {
  const isElected = term?.elected === true;
  return {
    leader: term === undefined ? NOBODY : claimantOf(term),
    token: term?.token ?? 0n,
    mode: term === undefined ? LeadershipMode.UNSPECIFIED : modeOf(term.elected, term.token),
    vacant: isElected && leader === undefined,
  };
}

function modeOf(isElected: boolean, token: bigint): LeadershipMode {
  if (isElected) return LeadershipMode.ELECTED;
  return token === 0n ? LeadershipMode.AUTO : LeadershipMode.TOKEN;
}
