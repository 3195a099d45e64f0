import { setTimeout as sleep } from "node:timers/promises";
import type { AppendStream } from "../src/client/append-stream.js";
import type { OplogClient } from "../src/client/client.js";
import { OplogRpcError } from "../src/client/errors.js";
import { isTransient } from "../src/client/follow.js";
import type { AppendResponse, AppendStreamResponse } from "../src/gen/oplog/v1/oplog_pb.js";
import type { NumberedBatch } from "./operations.js";

/** One acknowledged append. Times are of the machine's monotonic clock, in nanoseconds. */
export interface Acknowledged {
  readonly firstSequenceId: number;
  readonly lastSequenceId: number;
  readonly sentNs: bigint;
  readonly acknowledgedNs: bigint;
  /** Committed before, by an append whose answer was lost. */
  readonly isDuplicate: boolean;
}

interface Unanswered extends NumberedBatch {
  sentNs: bigint;
}

const WRITER_ID = "demo-master";
/** Enough to keep the sidecar busy; more would only queue. */
const IN_FLIGHT_MAX = 64;
const RETRY_MS = 50;

/**
 * Appends batches of operations under one term, exactly once: each append has the writer's next operation id, and when
 * the stream breaks everything unanswered is sent again, in order, with the same ids. `expected_sequence_id` keeps an
 * append from being committed when one before it was refused.
 */
export class Master {
  private readonly unanswered: Unanswered[] = [];

  constructor(
    private readonly client: OplogClient,
    private readonly log: string,
    private readonly term: bigint,
    private readonly onAcknowledged: (acknowledged: Acknowledged) => void,
    /** Aborts when the term is over. */
    private readonly over: AbortSignal,
  ) {}

  /** Returns when all is acknowledged, or the term is over; throws what another attempt cannot mend. */
  async replay(batches: AsyncIterator<NumberedBatch>): Promise<void> {
    while (!this.over.aborted) {
      try {
        return await this.stream(batches);
      } catch (error) {
        if (!(error instanceof OplogRpcError) || !(isTransient(error) || error.mayHaveCommitted)) throw error;
      }
      await sleep(RETRY_MS);
    }
  }

  private async stream(batches: AsyncIterator<NumberedBatch>): Promise<void> {
    const stream = this.client.appendStream({ inFlightMax: IN_FLIGHT_MAX });
    const stop = () => stream.cancel();
    this.over.addEventListener("abort", stop);
    const answered = this.receive(stream);
    // The sender below ends with the stream; why it ended is told by the answers.
    const sent = this.send(stream, batches).catch((error) => {
      stream.cancel();
      if (!(error instanceof OplogRpcError)) throw error;
    });
    try {
      await Promise.all([answered, sent]);
    } finally {
      this.over.removeEventListener("abort", stop);
    }
  }

  private async send(stream: AppendStream, batches: AsyncIterator<NumberedBatch>): Promise<void> {
    for (const append of [...this.unanswered]) await stream.send(this.requestOf(append));
    for (let next = await batches.next(); !next.done; next = await batches.next()) {
      const append = { ...next.value, sentNs: process.hrtime.bigint() };
      this.unanswered.push(append);
      await stream.send(this.requestOf(append));
    }
    stream.end();
  }

  private requestOf({ operationId, operations, firstSequenceId }: Unanswered) {
    const { log, term } = this;
    const expectedSequenceId = firstSequenceId - 1n;
    const append = { log, term, writerId: WRITER_ID, operationId, expectedSequenceId, entries: [...operations] };
    return { correlationId: operationId, append };
  }

  private async receive(stream: AppendStream): Promise<void> {
    for await (const answer of stream.answers) this.settle(answer, process.hrtime.bigint());
  }

  private settle({ correlationId, outcome }: AppendStreamResponse, acknowledgedNs: bigint): void {
    if (outcome.case === "error") throw OplogRpcError.fromStreamStatus(outcome.value);
    const append = this.unanswered.shift();
    if (outcome.case !== "appended" || append?.operationId !== correlationId) {
      throw new Error(`answer ${correlationId} where ${append?.operationId ?? "none"} is due`);
    }
    requireIds(append, outcome.value);
    this.onAcknowledged({
      firstSequenceId: Number(outcome.value.firstSequenceId),
      lastSequenceId: Number(outcome.value.lastSequenceId),
      sentNs: append.sentNs,
      acknowledgedNs,
      isDuplicate: outcome.value.duplicate,
    });
  }
}

function requireIds({ firstSequenceId, operations }: Unanswered, answer: AppendResponse): void {
  const lastSequenceId = firstSequenceId + BigInt(operations.length) - 1n;
  if (answer.firstSequenceId === firstSequenceId && answer.lastSequenceId === lastSequenceId) return;
  throw new Error(
    `acknowledged as ${answer.firstSequenceId}..${answer.lastSequenceId}, though it is ${firstSequenceId}..${lastSequenceId}`,
  );
}
