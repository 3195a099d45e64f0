import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Batch, SubscribeRequestSchema, SubscribeResponse } from "../gen/oplog/v1/oplog_pb.js";
import { backOffMs, pause } from "./back-off.js";
import type { StreamOptions } from "./calls.js";
import { OplogRpcError } from "./errors.js";

/** What Subscribe takes, as a plain object or a message: a resume changes where it starts. */
export type FollowRequest = MessageInitShape<typeof SubscribeRequestSchema>;

/** A frame of the stream, or the news that the stream broke and will be opened again. */
export type FollowEvent = Exclude<SubscribeResponse["frame"], { case: undefined }> | BrokenEvent;

export interface BrokenEvent {
  readonly case: "broken";
  readonly value: {
    readonly error: OplogRpcError;
    readonly retryInMs: number;
    /** False while no frame has ever come: there may be nothing at that address. */
    readonly hadConnected: boolean;
  };
}

export type Subscribe = (
  request: FollowRequest,
  options: StreamOptions,
) => AsyncIterable<Pick<SubscribeResponse, "frame">>;

/** The sidecar sent something other than the next entry. Nothing after it can be trusted. */
export class ContiguityError extends Error {
  constructor(
    readonly expected: bigint,
    readonly received: bigint,
  ) {
    super(`the stream continued at entry ${received}, the next one is ${expected}`);
    this.name = "ContiguityError";
  }
}

/**
 * Subscribes and resumes. Batches continue one another across breaks, or it throws ContiguityError. Errors that another
 * attempt cannot mend (see isTransient) are thrown; all others are told as "broken" and tried again, without end, with a
 * back-off that starts anew once a frame has come. So is STORE_REPLACED once a frame has come. A consumer that does not want to wait leaves the loop.
 */
export async function* follow(
  subscribe: Subscribe,
  request: FollowRequest,
  signal: AbortSignal = new AbortController().signal,
): AsyncGenerator<FollowEvent, void, undefined> {
  const position = new Position(request);
  let attempts = 0;
  let hadConnected = false;
  while (!signal.aborted) {
    let error: OplogRpcError;
    try {
      for await (const { frame } of subscribe(position.request(), { signal })) {
        attempts = 0;
        hadConnected = true;
        if (frame.case === undefined) continue;
        position.advance(frame);
        yield frame;
      }
      error = new OplogRpcError({ code: "UNAVAILABLE", message: "the sidecar ended the stream" });
    } catch (caught) {
      if (signal.aborted) return;
      if (!(caught instanceof OplogRpcError)) throw caught;
      // A store that is refused may be the right one again, or be adopted: what has been received tells then whether it fits.
      const mayBeAdopted = hadConnected && caught.reason === "STORE_REPLACED";
      if (!isTransient(caught) && !mayBeAdopted) throw caught;
      error = caught;
    }
    const retryInMs = backOffMs(attempts, error.retryAfterMs);
    attempts += 1;
    yield { case: "broken", value: { error, retryInMs, hadConnected } };
    await pause(retryInMs, signal);
  }
}

/** Whether the same call may succeed later without anybody doing anything. */
export function isTransient(error: OplogRpcError): boolean {
  if (error.code === "UNAVAILABLE" || error.retryAfterMs !== undefined) return true;
  // So grpc-js reports a connection that was reset under the stream.
  return error.reason === "" && (error.code === "INTERNAL" || error.code === "CANCELLED");
}

/** Where the next batch starts, and what proves that it belongs to the same history. */
class Position {
  private next: bigint | undefined;
  private previousTerm: bigint;
  private previousChain: Uint8Array | undefined;
  private logId: Uint8Array | undefined;

  constructor(private readonly initial: FollowRequest) {
    this.next = initial.start?.case === "fromSequenceId" ? initial.start.value : undefined;
    this.previousTerm = initial.previousTerm ?? 0n;
    this.previousChain = initial.previousChain;
    this.logId = initial.logId;
  }

  request(): FollowRequest {
    const { next, previousTerm, previousChain = new Uint8Array(), logId } = this;
    const start = { case: "fromSequenceId", value: next ?? 0n } as const;
    return {
      ...this.initial,
      ...(next === undefined ? {} : { start, previousTerm, previousChain }),
      ...(logId === undefined ? {} : { logId }),
    };
  }

  advance(frame: FollowEvent): void {
    if (frame.case === "batch") {
      const { firstSequenceId, lastSequenceId, lastChain } = frame.value;
      this.require(firstSequenceId);
      this.moveTo(lastSequenceId + 1n, lastTerm(frame.value), lastChain);
    } else if (frame.case === "caughtUp") {
      this.moveTo(frame.value.headSequenceId + 1n);
    } else if (frame.case === "snapshotEnd") {
      this.moveTo(frame.value.sequenceId + 1n);
    } else if (frame.case === "heartbeat") {
      if (frame.value.logId.length > 0) this.logId = frame.value.logId;
      // 0 says nothing of where the stream starts: from_head is not known until CaughtUp.
      const { sentSequenceId, sentTerm, sentChain } = frame.value;
      if (sentSequenceId > 0n) this.moveTo(sentSequenceId + 1n, sentTerm, sentChain);
    }
  }

  private require(first: bigint): void {
    // Id 0 as a start means the floor, whatever that is.
    if (this.next !== undefined && this.next !== 0n && first !== this.next) {
      throw new ContiguityError(this.next, first);
    }
  }

  private moveTo(next: bigint, previousTerm = 0n, previousChain?: Uint8Array): void {
    if (this.next !== undefined && next <= this.next) return;
    this.next = next;
    this.previousTerm = previousTerm;
    this.previousChain = previousChain;
  }
}

/** Term of the entry that the next one follows; 0 = not known: an older sidecar, and a filter has left the entry out. */
function lastTerm(batch: Batch): bigint {
  if (batch.lastTerm !== 0n) return batch.lastTerm;
  const last = batch.entries.at(-1);
  return last?.sequenceId === batch.lastSequenceId ? last.term : 0n;
}
