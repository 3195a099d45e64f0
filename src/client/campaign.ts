import type { MessageInitShape } from "@bufbuild/protobuf";
import { type Client, type ClientDuplexStream, status as Codes, type StatusObject } from "@grpc/grpc-js";
import {
  type CampaignRequestSchema,
  type CampaignResponse,
  type CandidateSchema,
  LeadershipService,
} from "../gen/oplog/v1/leadership_pb.js";
import { definitionOf, ignore, type StreamOptions, toWire } from "./calls.js";
import { OplogRpcError } from "./errors.js";

/** Who stands, for which log. */
export type CandidateInit = MessageInitShape<typeof CandidateSchema>;

export interface CampaignOptions extends StreamOptions {
  /**
   * Sends Alive by itself this often; a third of the candidate's alive_within is a good choice. It proves that the event
   * loop of this process turns, and nothing else: a candidate that can hang in other ways calls alive() itself.
   */
  readonly aliveEveryMs?: number;
}

/**
 * One Campaign call, begun at once: stands for the leadership, and holds it until the stream ends. Iterate it, once, to
 * its end: the messages come in order, Lost as the last. It throws OplogRpcError when the candidate is refused or the
 * call breaks; leaving the loop cancels. Whatever way it ends, the candidate leads no more.
 *
 *     const campaign = client.campaign({ log, id });
 *     for await (const { message } of campaign) {
 *       if (message.case === "prepare") campaign.ready(await applyUpTo(message.value.finalSequenceId));
 *       if (message.case === "leading") serve(message.value.term);
 *     }
 */
export class Campaign implements AsyncIterable<CampaignResponse> {
  private readonly call: ClientDuplexStream<unknown, unknown>;
  private readonly messages: AsyncGenerator<CampaignResponse, void, undefined>;
  private isOver = false;
  /** Of the newest Prepare: an answer that comes too late for it is not taken for one to the next. */
  private preparedTerm = 0n;
  private failure: unknown;

  constructor(client: Client, candidate: CandidateInit, options: CampaignOptions = {}) {
    const { signal, aliveEveryMs } = options;
    const { path, requestSerialize, responseDeserialize } = definitionOf(LeadershipService.method.campaign);
    this.call = client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize);
    this.call.on("error", ignore);
    const onAbort = () => this.cancel();
    signal?.addEventListener("abort", onAbort, { once: true });
    const timer = aliveEveryMs === undefined ? undefined : setInterval(() => this.alive(), aliveEveryMs);
    this.call.on("status", (status: StatusObject) => {
      this.isOver = true;
      if (status.code !== Codes.OK) this.failure = OplogRpcError.from(status);
      clearInterval(timer);
      signal?.removeEventListener("abort", onAbort);
    });
    this.send({ case: "candidate", value: candidate });
    if (signal?.aborted) this.cancel();
    this.messages = this.read();
  }

  [Symbol.asyncIterator](): AsyncGenerator<CampaignResponse, void, undefined> {
    return this.messages;
  }

  /**
   * Answers Prepare: everything up to its final_sequence_id has been applied. `appliedChain`: last_chain of the batch that
   * ended there, or of the heartbeat; who hands it back never leads by the right number with entries of a lost history. Of
   * a stream that has ended it does nothing; the iteration tells how it ended.
   */
  ready(
    appliedSequenceId: bigint,
    stateHash: Uint8Array = new Uint8Array(),
    appliedChain: Uint8Array = new Uint8Array(),
  ): void {
    this.send({ case: "ready", value: { appliedSequenceId, stateHash, appliedChain, term: this.preparedTerm } });
  }

  /** Left out while what was sent before has not been taken. */
  alive(): void {
    if (!this.call.writableNeedDrain) this.send({ case: "alive", value: {} });
  }

  /** Gives the leadership, or the candidacy, up. The messages go on until the sidecar has ended the stream. */
  resign(): void {
    this.isOver = true;
    this.call.end();
  }

  /** Breaks off at once, like the end of this process. */
  cancel(): void {
    this.isOver = true;
    this.call.cancel();
  }

  private send(message: NonNullable<MessageInitShape<typeof CampaignRequestSchema>["message"]>): void {
    if (!this.isOver) this.call.write(toWire(LeadershipService.method.campaign.input, { message }));
  }

  private async *read(): AsyncGenerator<CampaignResponse, void, undefined> {
    try {
      for await (const each of this.call) {
        const response = each as CampaignResponse;
        if (response.message.case === "prepare") this.preparedTerm = response.message.value.term;
        yield response;
      }
      // A call that failed before it was iterated ends quietly.
      if (this.failure !== undefined) throw this.failure;
    } catch (error) {
      throw OplogRpcError.from(error);
    } finally {
      this.cancel();
    }
  }
}
