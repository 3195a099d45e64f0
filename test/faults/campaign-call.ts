import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { type Client, type ClientDuplexStream, status as Codes, type StatusObject } from "@grpc/grpc-js";
import { openChannel } from "../../src/client/channel.js";
import { OplogRpcError } from "../../src/client/errors.js";
import {
  CampaignRequestSchema,
  type CampaignResponse,
  CampaignResponseSchema,
  type CandidateSchema,
  LostReason,
} from "../../src/gen/oplog/v1/leadership_pb.js";
import { waitFor } from "../support/wait.js";
import { atEnd } from "./stage.js";

const PATH = "/oplog.v1.LeadershipService/Campaign";

export type CampaignMessage = NonNullable<MessageInitShape<typeof CampaignRequestSchema>["message"]>;
export type CandidateFields = MessageInitShape<typeof CandidateSchema>;
type Told = CampaignResponse["message"];
type Kind = NonNullable<Told["case"]>;
type Values = { [Each in Told as NonNullable<Each["case"]>]: Each["value"] };

export function campaignRequest(message: CampaignMessage): Buffer {
  return Buffer.from(toBinary(CampaignRequestSchema, create(CampaignRequestSchema, { message })));
}

/** A Campaign call in the hands of somebody who sends whatever comes to mind, as bytes. */
export class CampaignCall {
  readonly told: Told[] = [];
  /** Undefined until the call has ended; null: it has ended well. */
  failure: OplogRpcError | null | undefined;
  private readonly call: ClientDuplexStream<Buffer, Buffer>;

  constructor(
    channel: Client,
    { reads = true }: { /** False: what it is told stays in the transport. */ readonly reads?: boolean } = {},
  ) {
    const asItIs = (bytes: Buffer) => bytes;
    this.call = channel.makeBidiStreamRequest(PATH, asItIs, asItIs);
    this.call.on("error", () => undefined);
    this.call.on("status", (status: StatusObject) => {
      this.failure = status.code === Codes.OK ? null : (OplogRpcError.from(status) as OplogRpcError);
    });
    if (!reads) return;
    this.call.on("data", (bytes: Buffer) => this.told.push(fromBinary(CampaignResponseSchema, bytes).message));
  }

  send(message: CampaignMessage | Buffer): this {
    this.call.write(Buffer.isBuffer(message) ? message : campaignRequest(message));
    return this;
  }

  /** Without a handshake, unless told otherwise. */
  stand(candidate: CandidateFields): this {
    return this.send({ case: "candidate", value: { noHandshake: true, ...(candidate as object) } });
  }

  halfClose(): void {
    this.call.end();
  }

  cancel(): void {
    this.call.cancel();
  }

  /** The newest message of this kind that has come. */
  newest<K extends Kind>(kind: K): Values[K] | undefined {
    return this.told.findLast((each) => each.case === kind)?.value as Values[K] | undefined;
  }

  /** Fails when the call ends first. */
  async hears<K extends Kind>(kind: K, deadlineMs = 10_000): Promise<Values[K]> {
    const heard = () => {
      const value = this.newest(kind);
      if (value !== undefined) return value;
      if (this.failure !== undefined) throw this.failure ?? new Error(`the stream ended before ${kind}`);
      return undefined;
    };
    const value = await waitFor(heard, { deadlineMs, what: `${kind} after ${this.kinds.join(", ") || "nothing"}` });
    return value as Values[K];
  }

  get kinds(): (string | undefined)[] {
    return this.told.map((each) => each.case);
  }

  /** What the call ended with; null: it has ended well. */
  async end(deadlineMs = 10_000): Promise<OplogRpcError | null> {
    await waitFor(() => this.failure !== undefined, { deadlineMs, what: "the Campaign call to end" });
    return this.failure!;
  }

  /** Why it leads no more, once the call has ended. */
  async lost(deadlineMs?: number): Promise<keyof typeof LostReason> {
    const failure = await this.end(deadlineMs);
    const lost = this.newest("lost");
    if (lost === undefined) throw failure ?? new Error("the stream ended without Lost");
    return LostReason[lost.reason] as keyof typeof LostReason;
  }
}

export function aChannelTo({ target }: { readonly target: string }): Client {
  const channel = openChannel(target);
  atEnd(() => channel.close());
  return channel;
}

export function aCandidateAt(sidecar: { readonly target: string }, candidate: CandidateFields): CampaignCall {
  return new CampaignCall(aChannelTo(sidecar)).stand(candidate);
}
