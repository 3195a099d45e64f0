import { writeSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";
import { connect, type OplogClient } from "../../src/client/client.js";
import { OplogRpcError } from "../../src/client/errors.js";
import { Candidate, machineMs } from "./candidate.js";
import { entryOf, type MasterPlan, type MasterReport } from "./master-plan.js";

/**
 * A master in a process of its own: campaigns at its sidecar, appends, and reports each step in a line of its own before
 * it takes the next. What it has been answered is thus known to the reader of its output, even when it is killed.
 */

const RETRY_MS = 20;
const IDLE_MS = 2;
const STDOUT = 1;

function report(line: MasterReport): void {
  writeSync(STDOUT, `${JSON.stringify(line)}\n`);
}

class Appending {
  isHeld = false;

  constructor(
    private readonly client: OplogClient,
    private readonly plan: MasterPlan,
    private readonly candidate: Candidate,
  ) {}

  async run(): Promise<void> {
    const { everyMs, appendsAsStandby } = this.plan;
    let dueMs = machineMs();
    for (let operation = 1; ; operation++) {
      dueMs = Math.max(machineMs(), dueMs + everyMs);
      while (machineMs() < dueMs) await pause(Math.max(1, dueMs - machineMs()));
      if (this.isHeld) await this.untilLetGo();
      while (!appendsAsStandby && !this.candidate.isLeading) await pause(IDLE_MS);
      report({ kind: "sent", operation });
      await this.settle(operation);
    }
  }

  private async untilLetGo(): Promise<void> {
    report({ kind: "held" });
    while (this.isHeld) await pause(IDLE_MS);
  }

  /** Sends an operation until its outcome is known, or cannot become known here. */
  private async settle(operation: number): Promise<void> {
    let isInDoubt = false;
    for (;;) {
      try {
        return await this.append(operation);
      } catch (error) {
        if (!(error instanceof OplogRpcError)) throw error;
        const { reason, code, mayHaveCommitted } = error;
        isInDoubt ||= mayHaveCommitted;
        report({ kind: "failed", operation, reason: reason || code, isInDoubt, atMs: machineMs() });
        if (!mayHaveCommitted) return;
        await pause(RETRY_MS);
      }
    }
  }

  private async append(operation: number): Promise<void> {
    const { log, writerId } = this.plan;
    const { ledTerm } = this.candidate;
    const entries = [entryOf(writerId, operation)];
    const term = ledTerm === undefined ? {} : { term: ledTerm };
    const sentMs = machineMs();
    const answer = await this.client.append({ log, writerId, operationId: BigInt(operation), entries, ...term });
    report({
      kind: "acknowledged",
      operation,
      first: Number(answer.firstSequenceId),
      last: Number(answer.lastSequenceId),
      term: Number(answer.term),
      sentMs,
      atMs: machineMs(),
    });
  }
}

const plan = JSON.parse(process.argv[2]!) as MasterPlan;
const client = connect(plan.target, { deadlineMs: plan.deadlineMs });
const candidate = new Candidate(client, plan, report);
const appending = new Appending(client, plan, candidate);
const commands = createInterface({ input: process.stdin });
commands.on("line", (command) => {
  if (command === "resign") candidate.resign();
  else appending.isHeld = command === "hold";
});
// Whoever has started it is gone.
commands.on("close", () => process.exit());
await Promise.all([candidate.run(new AbortController().signal), appending.run()]);
