import { create } from "@bufbuild/protobuf";
import { Client, credentials } from "@grpc/grpc-js";
import {
  OpLogService,
  ResolveAppendResponse_Outcome as Outcome,
  ResolveAppendRequestSchema,
  type ResolveAppendResponse,
} from "../gen/oplog/v1/oplog_pb.js";
import type { AppendQuestion, AskLeader } from "../log/contract.js";
import type { Clock } from "../oplog/clock.js";
import type { Resolution } from "../oplog/operation-window.js";
import { clientDefinition } from "./bridge.js";

/** The store can be asked as well; nobody waits for long. */
const DEADLINE_MS = 1000;
/** A sidecar that has not answered is not asked again for this long. */
const SILENCE_MS = 2000;
const CHANNELS_MAX = 16;
const CHANNEL_OPTIONS = {
  "grpc.max_reconnect_backoff_ms": 1000,
  "grpc.use_local_subchannel_pool": 1,
  "grpc.client_idle_timeout_ms": 60_000,
  // Sidecars talk to each other directly, not through the proxy of the environment.
  "grpc.enable_http_proxy": 0,
};
const { path, requestSerialize, responseDeserialize } = clientDefinition(OpLogService).ResolveAppend!;

interface Channel {
  readonly client: Client;
  silentUntilMs: number;
}

/** Asks other sidecars what became of an append, over one channel to each. */
export class LeaderAsker {
  /** The one that was used last comes last. */
  private readonly channels = new Map<string, Channel>();

  constructor(private readonly clock: Clock) {}

  readonly ask: AskLeader = async (endpoint, question) => {
    const channel = this.channelTo(endpoint);
    if (this.clock.monotonicMs() < channel.silentUntilMs) return undefined;
    const response = await call(channel.client, question);
    if (response === undefined) channel.silentUntilMs = this.clock.monotonicMs() + SILENCE_MS;
    return response && toResolution(response);
  };

  close(): void {
    for (const { client } of this.channels.values()) client.close();
    this.channels.clear();
  }

  private channelTo(endpoint: string): Channel {
    const client = () => new Client(endpoint, credentials.createInsecure(), CHANNEL_OPTIONS);
    const channel = this.channels.get(endpoint) ?? { client: client(), silentUntilMs: 0 };
    this.channels.delete(endpoint);
    this.channels.set(endpoint, channel);
    if (this.channels.size > CHANNELS_MAX) {
      const [oldest, { client: unused }] = this.channels.entries().next().value!;
      this.channels.delete(oldest);
      unused.close();
    }
    return channel;
  }
}

/** Undefined: there was no answer. */
function call(client: Client, question: AppendQuestion): Promise<ResolveAppendResponse | undefined> {
  const request = create(ResolveAppendRequestSchema, { ...question, answerHere: true });
  return new Promise((resolve) => {
    const options = { deadline: Date.now() + DEADLINE_MS };
    client.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, options, (error, response) =>
      resolve(error === null ? (response as ResolveAppendResponse) : undefined),
    );
  });
}

function toResolution(response: ResolveAppendResponse): Resolution | undefined {
  const { outcome, firstSequenceId: first, lastSequenceId: last, term, highestOperationId: highest } = response;
  switch (outcome) {
    case Outcome.COMMITTED:
      return { outcome: "committed", operation: { first, last, term }, highest };
    case Outcome.NOT_COMMITTED:
      return { outcome: "not committed", highest };
    case Outcome.UNKNOWN:
      return { outcome: "unknown", highest, because: response.explanation };
    default:
      return undefined;
  }
}
