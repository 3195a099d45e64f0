import { create } from "@bufbuild/protobuf";
import type { ServerUnaryCall, ServerWritableStream } from "@grpc/grpc-js";
import type { Term } from "../gen/oplog/store/v1/store_pb.js";
import {
  ClaimTermRequestSchema,
  ClaimTermResponseSchema,
  GetLeaderRequestSchema,
  GetLeaderResponseSchema,
  WatchLeaderRequestSchema,
  WatchLeaderResponseSchema,
} from "../gen/oplog/v1/leadership_pb.js";
import { InvalidArgumentError, TooManyError } from "../oplog/errors.js";
import { requireConsumerName } from "../oplog/keys.js";
import type { Logs } from "../replication/logs.js";
import { linkSignals } from "../replication/timing.js";
import { decode, leaving } from "./calls.js";
import { StreamWriter } from "./stream-writer.js";

export interface LeadershipServiceParts {
  readonly logs: Logs;
  readonly streamsMax: number;
  /** Aborts when the sidecar is about to stop: no new work. */
  readonly draining: AbortSignal;
}

const TOKEN_MAX = 2n ** 63n - 1n;
const ENDPOINT_BYTES_MAX = 256;
const ANSWER_BYTES = 512;
const ANSWERS_BYTES_MAX = 64 * 1024;

/** oplog.v1.LeadershipService. Each method throws OplogError for what the client is to be told. */
export class LeadershipService {
  private openStreams = 0;

  constructor(private readonly parts: LeadershipServiceParts) {}

  async claimTerm(call: ServerUnaryCall<Buffer, unknown>) {
    const { log, token, claimant, endpoint } = decode(ClaimTermRequestSchema, call.request);
    if (token === 0n || token > TOKEN_MAX) {
      throw new InvalidArgumentError("token", `${token}; 1 to ${TOKEN_MAX} are allowed`, {
        received: token,
        limit: TOKEN_MAX,
      });
    }
    const endpointBytes = Buffer.byteLength(endpoint);
    if (endpointBytes > ENDPOINT_BYTES_MAX) {
      throw new InvalidArgumentError("endpoint", `${endpointBytes} bytes, the limit is ${ENDPOINT_BYTES_MAX}`, {
        received: endpointBytes,
        limit: ENDPOINT_BYTES_MAX,
      });
    }
    const id = requireConsumerName(claimant, "claimant");
    const { term, head } = await this.parts.logs.get(log).primary.claimByToken(token, { id, endpoint });
    return create(ClaimTermResponseSchema, { term, finalSequenceId: head.lastSequenceId, logId: head.logId });
  }

  async getLeader(call: ServerUnaryCall<Buffer, unknown>) {
    const { log } = decode(GetLeaderRequestSchema, call.request);
    return create(GetLeaderResponseSchema, toLeadership(await this.parts.logs.get(log).readTerm()));
  }

  async watchLeader(call: ServerWritableStream<Buffer, unknown>): Promise<void> {
    const { log } = decode(WatchLeaderRequestSchema, call.request);
    const { logs, draining, streamsMax } = this.parts;
    if (this.openStreams >= streamsMax) throw new TooManyError("leader streams", streamsMax, 1000);
    this.openStreams++;
    const { signal, unlink } = linkSignals(leaving(call), draining);
    const writer = new StreamWriter(call, ANSWERS_BYTES_MAX);
    try {
      for await (const term of logs.get(log).watchTerm(signal)) {
        await writer.write(create(WatchLeaderResponseSchema, toLeadership(term)), ANSWER_BYTES);
      }
    } finally {
      unlink();
      this.openStreams--;
    }
  }
}

function toLeadership(term: Term | undefined) {
  return {
    leader: { id: term?.owner ?? "", endpoint: term?.endpoint ?? "", term: term?.term ?? 0n },
    token: term?.token ?? 0n,
  };
}
