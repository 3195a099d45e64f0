import { setTimeout as pause } from "node:timers/promises";
import type { OplogClient } from "../../src/client/client.js";
import { OplogRpcError } from "../../src/client/errors.js";
import { isTransient } from "../../src/client/follow.js";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import type { AppendResponse } from "../../src/gen/oplog/v1/oplog_pb.js";
import type { History, SentEntry } from "../support/history.js";

export interface WriterPlan {
  readonly log: string;
  readonly writerId: string;
  readonly operations: number;
  readonly entriesPerOperation: number;
  readonly operationsPerSecondMax: number;
}

const RETRY_MS = 50;
const IN_FLIGHT_MAX = 64;

/**
 * Appends its operations in order over AppendStream, many in flight, each again and again until it is acknowledged. It
 * relies on the sidecar that on one stream no operation overtakes an earlier one that could not be acknowledged.
 */
export class ResendingWriter {
  acknowledged = 0;
  /** Acknowledged as already committed by an attempt whose answer had been lost. */
  duplicates = 0;
  streams = 0;
  private readonly startedMs = performance.now();

  constructor(
    private readonly client: OplogClient,
    private readonly history: History,
    readonly plan: WriterPlan,
  ) {}

  async run(signal: AbortSignal): Promise<void> {
    while (this.acknowledged < this.plan.operations && !signal.aborted) {
      try {
        await this.stream(signal);
      } catch (error) {
        if (!(error instanceof OplogRpcError) || !isWorthResending(error)) throw error;
        await pause(RETRY_MS);
      }
    }
  }

  request(operation: number) {
    const { log, writerId } = this.plan;
    return { log, writerId, operationId: BigInt(operation), entries: this.entriesOf(operation) };
  }

  private async stream(signal: AbortSignal): Promise<void> {
    const { plan } = this;
    const appender = this.client.appender({ inFlightMax: IN_FLIGHT_MAX, signal });
    this.streams++;
    let failure: unknown;
    const append = async (operation: number): Promise<void> => {
      const request = this.request(operation);
      this.history.sent(plan.writerId, request.operationId, request.entries);
      this.note(operation, await appender.append(request));
    };
    for (
      let next = this.acknowledged + 1;
      next <= plan.operations && failure === undefined && !signal.aborted;
      next++
    ) {
      await this.paced(next);
      await appender.ready();
      append(next).catch((error: unknown) => {
        failure ??= error;
      });
    }
    // Waits for the answers to what was sent; if the stream broke, the appends have been told.
    await appender.end().catch(() => undefined);
    if (failure !== undefined) throw failure;
  }

  private note(operation: number, answer: AppendResponse): void {
    this.history.acknowledged(this.plan.writerId, BigInt(operation), answer);
    if (operation !== this.acknowledged + 1) {
      throw new Error(`operation ${operation} was acknowledged after ${this.acknowledged}: one was overtaken`);
    }
    this.acknowledged = operation;
    if (answer.duplicate) this.duplicates++;
  }

  private entriesOf(operation: number): SentEntry[] {
    const { writerId, entriesPerOperation } = this.plan;
    return Array.from({ length: entriesPerOperation }, (_, index) => ({
      opType: OpType.PUT_END,
      key: `${writerId}/${operation % 1000}`,
      payload: Buffer.from(`${writerId} operation ${operation} entry ${index}`.padEnd(100, ".")),
    }));
  }

  private async paced(operation: number): Promise<void> {
    const dueMs = this.startedMs + (operation / this.plan.operationsPerSecondMax) * 1000;
    const aheadMs = dueMs - performance.now();
    if (aheadMs > 10) await pause(aheadMs);
  }
}

function isWorthResending(error: OplogRpcError): boolean {
  return error.mayHaveCommitted || isTransient(error);
}
