import { setTimeout as pause } from "node:timers/promises";
import { OplogRpcError } from "../../src/client/errors.js";
import type { LeaderClient } from "../../src/client/leader-client.js";
import type { AppendResponse } from "../../src/gen/oplog/v1/oplog_pb.js";
import type { History } from "../support/history.js";
import { waitFor } from "../support/wait.js";
import { machineMs } from "./candidate.js";
import { entryOf } from "./master-plan.js";

export interface Answer {
  readonly term: number;
  readonly atMs: number;
}

/** Writers that append together at a given rate, each one operation after the other, to whoever leads. */
export class PacedWriters {
  readonly answers: Answer[] = [];
  readonly failures: OplogRpcError[] = [];
  private hasEnded = false;
  private readonly done: Promise<unknown>;

  constructor(
    private readonly client: LeaderClient,
    private readonly history: History,
    private readonly log: string,
    writers: number,
    appendsPerSecond: number,
  ) {
    const everyMs = (writers * 1000) / appendsPerSecond;
    this.done = Promise.all(
      Array.from({ length: writers }, (_, index) =>
        this.write(`writer-${index}`, everyMs, (index * everyMs) / writers),
      ),
    );
  }

  /** What was answered first under this term, and the newest answer before. */
  async gapBefore(term: number, deadlineMs: number): Promise<{ readonly gapMs: number; readonly answer: Answer }> {
    const found = () => this.answers.find((each) => each.term >= term);
    await waitFor(() => found() !== undefined, { deadlineMs, what: `an answer of term ${term}` });
    const answer = found()!;
    const before = this.answers.findLast((each) => each.atMs <= answer.atMs && each.term < term);
    return { answer, gapMs: answer.atMs - before!.atMs };
  }

  async answered(count: number): Promise<void> {
    const enough = this.answers.length + count;
    await waitFor(() => this.answers.length >= enough, { deadlineMs: 20_000, what: `${count} more answers` });
  }

  /** Returns when nothing is under way. */
  async end(): Promise<void> {
    this.hasEnded = true;
    await this.done;
  }

  private async write(writerId: string, everyMs: number, firstInMs: number): Promise<void> {
    let dueMs = machineMs() + firstInMs;
    for (let operation = 1; !this.hasEnded; operation++) {
      await pause(Math.max(0, dueMs - machineMs()));
      dueMs = Math.max(machineMs(), dueMs + everyMs);
      const request = {
        log: this.log,
        writerId,
        operationId: BigInt(operation),
        entries: [entryOf(writerId, operation)],
      };
      this.history.sent(writerId, request.operationId, request.entries);
      try {
        this.note(writerId, request.operationId, await this.client.append(request));
      } catch (error) {
        if (!(error instanceof OplogRpcError)) throw error;
        this.failures.push(error);
      }
    }
  }

  private note(writerId: string, operationId: bigint, answer: AppendResponse): void {
    this.history.acknowledged(writerId, operationId, answer);
    this.answers.push({ term: Number(answer.term), atMs: machineMs() });
  }
}
