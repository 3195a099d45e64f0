import { setTimeout as sleep } from "node:timers/promises";
import type { AppendStream } from "../src/client/append-stream.js";
import type { OplogClient } from "../src/client/client.js";
import { OplogRpcError } from "../src/client/errors.js";
import { isTransient } from "../src/client/follow.js";
import type { AppendResponse, AppendStreamResponse } from "../src/gen/oplog/v1/oplog_pb.js";
import type { OperationBatch } from "./block-cache.js";
import { ContentHash } from "./content-hash.js";

/** One acknowledged append. Times are of the machine's monotonic clock, in nanoseconds. */
export interface Acknowledged {
  readonly lastSequenceId: number;
  readonly sentNs: bigint;
  readonly acknowledgedNs: bigint;
}

interface Unanswered {
  readonly operationId: bigint;
  readonly operations: OperationBatch;
  readonly firstSequenceId: bigint;
  sentNs: bigint;
}

const WRITER_ID = "demo-master";
/** Enough to keep the sidecar busy; more would only queue. */
const IN_FLIGHT_MAX = 64;
const RETRY_MS = 50;
const SILENCE_MS_MAX = 60_000;

/**
 * Appends batches of operations exactly once: each append has the writer's next operation id, and when the stream breaks
 * everything unanswered is sent again, in order, with the same ids. `expected_sequence_id` keeps an append from being
 * committed when one before it was refused.
 */
export class Master {
  readonly acknowledged: Acknowledged[] = [];
  /** Answered from the sidecar's memory of operations: committed before a break, the answer lost with it. */
  duplicates = 0;
  /** How many appends were unanswered when the stream last broke. */
  resent = 0;
  operations = 0;
  /** Of keys and payloads. */
  bytes = 0;
  /** When the first answer of the newest stream came. */
  reconnectedNs = 0n;
  private operationId = 0n;
  private nextSequenceId = 1n;
  private readonly unanswered: Unanswered[] = [];
  private readonly expected = new ContentHash();
  private lastAnswerNs = process.hrtime.bigint();

  constructor(
    private readonly client: OplogClient,
    private readonly log: string,
  ) {}

  /** What every standby must have received, by content. Ends the hash. */
  expectedHash(): string {
    return this.expected.digest();
  }

  /** Returns when all is acknowledged; throws what another attempt cannot mend, or after a minute without an answer. */
  async replay(batches: Iterator<OperationBatch>): Promise<void> {
    for (;;) {
      try {
        return await this.stream(batches);
      } catch (error) {
        if (!(error instanceof OplogRpcError) || !(isTransient(error) || error.mayHaveCommitted)) throw error;
        if (process.hrtime.bigint() - this.lastAnswerNs > BigInt(SILENCE_MS_MAX) * 1_000_000n) throw error;
      }
      await sleep(RETRY_MS);
    }
  }

  private async stream(batches: Iterator<OperationBatch>): Promise<void> {
    const stream = this.client.appendStream({ inFlightMax: IN_FLIGHT_MAX });
    const answered = this.receive(stream);
    // The sender below ends with the stream; why it ended is told by the answers.
    const sent = this.send(stream, batches).catch((error) => {
      stream.cancel();
      if (!(error instanceof OplogRpcError)) throw error;
    });
    await Promise.all([answered, sent]);
  }

  private async send(stream: AppendStream, batches: Iterator<OperationBatch>): Promise<void> {
    const again = [...this.unanswered];
    if (again.length > 0) this.resent = again.length;
    for (const append of again) await stream.send(this.requestOf(append));
    for (let next = batches.next(); !next.done; next = batches.next()) {
      const append = this.number(next.value);
      this.unanswered.push(append);
      append.sentNs = process.hrtime.bigint();
      await stream.send(this.requestOf(append));
    }
    stream.end();
  }

  /** Knows the sequence ids beforehand, being the only writer. */
  private number(operations: OperationBatch): Unanswered {
    const firstSequenceId = this.nextSequenceId;
    this.nextSequenceId += BigInt(operations.length);
    this.expected.update(operations.map((each, index) => ({ ...each, sequenceId: firstSequenceId + BigInt(index) })));
    return { operationId: ++this.operationId, operations, firstSequenceId, sentNs: 0n };
  }

  private requestOf({ operationId, operations, firstSequenceId }: Unanswered) {
    const expectedSequenceId = firstSequenceId - 1n;
    return {
      correlationId: operationId,
      append: { log: this.log, writerId: WRITER_ID, operationId, expectedSequenceId, entries: [...operations] },
    };
  }

  private async receive(stream: AppendStream): Promise<void> {
    let isFirst = true;
    for await (const answer of stream.answers) {
      const nowNs = process.hrtime.bigint();
      this.lastAnswerNs = nowNs;
      this.settle(answer, nowNs);
      if (isFirst) this.reconnectedNs = nowNs;
      isFirst = false;
    }
  }

  private settle({ correlationId, outcome }: AppendStreamResponse, nowNs: bigint): void {
    if (outcome.case === "error") throw OplogRpcError.fromStreamStatus(outcome.value);
    const append = this.unanswered.shift();
    if (outcome.case !== "appended" || append?.operationId !== correlationId) {
      throw new Error(`answer ${correlationId} where ${append?.operationId ?? "none"} is due`);
    }
    requireIds(append, outcome.value);
    if (outcome.value.duplicate) this.duplicates++;
    this.operations += append.operations.length;
    for (const { key, payload } of append.operations) this.bytes += key.length + payload.length;
    const lastSequenceId = Number(outcome.value.lastSequenceId);
    this.acknowledged.push({ lastSequenceId, sentNs: append.sentNs, acknowledgedNs: nowNs });
  }
}

function requireIds({ firstSequenceId, operations }: Unanswered, answer: AppendResponse): void {
  const lastSequenceId = firstSequenceId + BigInt(operations.length) - 1n;
  if (answer.firstSequenceId === firstSequenceId && answer.lastSequenceId === lastSequenceId) return;
  throw new Error(
    `acknowledged as ${answer.firstSequenceId}..${answer.lastSequenceId}, though it is ${firstSequenceId}..${lastSequenceId}`,
  );
}
