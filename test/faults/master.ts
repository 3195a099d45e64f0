import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { History } from "../support/history.js";
import type { LeadershipHistory } from "../support/leadership-history.js";
import { waitFor } from "../support/wait.js";
import { machineMs } from "./candidate.js";
import { entryOf, type MasterPlan, type MasterReport } from "./master-plan.js";

const PROGRAM = `${import.meta.dirname}/master-process.ts`;
const START_MS_MAX = 20_000;
const HOLD_MS_MAX = 20_000;

type Acknowledged = Extract<MasterReport, { kind: "acknowledged" }>;

export interface Records {
  readonly history: History;
  readonly leadership: LeadershipHistory;
}

/** A master process, and what it has reported: that goes into the history, too. */
export class Master {
  /** The term that it has been told to lead, until it has been told of the end. */
  term: number | undefined;
  readonly reports: MasterReport[] = [];
  readonly acknowledged: Acknowledged[] = [];
  private isHeld = false;
  private errors = "";

  private constructor(
    private readonly child: ChildProcess,
    readonly plan: MasterPlan,
    private readonly records: Records,
  ) {}

  static start(plan: MasterPlan, records: Records): Master {
    const child = spawn(process.execPath, ["--import", "tsx", PROGRAM, JSON.stringify(plan)], {
      stdio: ["pipe", "pipe", "pipe"],
    });
    running.add(child);
    child.once("exit", () => running.delete(child));
    const master = new Master(child, plan, records);
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      master.errors += text;
    });
    // It may have ended.
    child.stdin.on("error", () => undefined);
    createInterface({ input: child.stdout }).on("line", (line) => master.note(JSON.parse(line) as MasterReport));
    return master;
  }

  /** That its process runs. */
  async hasBegun(): Promise<void> {
    await this.waitFor(() => this.reports.length > 0, { deadlineMs: START_MS_MAX, what: "begin" });
  }

  /** That it takes part. */
  async isCampaigning(): Promise<void> {
    await this.waitFor(() => this.reports.some(({ kind }) => kind === "waiting" || kind === "leading"), {
      deadlineMs: START_MS_MAX,
      what: "campaign",
    });
  }

  async leads(deadlineMs?: number): Promise<number> {
    await this.waitFor(() => this.term !== undefined, { deadlineMs, what: "lead" });
    return this.term!;
  }

  /** The first one that was sent after that moment. */
  async acknowledgedAfter(sentMs: number, deadlineMs: number): Promise<Acknowledged> {
    const found = () => this.acknowledged.findLast((each) => each.sentMs >= sentMs);
    await this.waitFor(() => found() !== undefined, { deadlineMs, what: "have an append acknowledged" });
    return this.acknowledged.find((each) => each.sentMs >= sentMs)!;
  }

  async appends(count: number, deadlineMs?: number): Promise<void> {
    const enough = this.acknowledged.length + count;
    await this.waitFor(() => this.acknowledged.length >= enough, { deadlineMs, what: `append ${count} times more` });
  }

  /** Returns when nothing is under way. */
  async hold(): Promise<void> {
    this.isHeld = false;
    this.child.stdin!.write("hold\n");
    await this.waitFor(() => this.isHeld, { deadlineMs: HOLD_MS_MAX, what: "hold" });
  }

  letGo(): void {
    this.child.stdin!.write("go\n");
  }

  /** It ends its campaign by itself. */
  resign(): void {
    this.child.stdin!.write("resign\n");
  }

  signal(signal: "SIGSTOP" | "SIGCONT"): void {
    this.child.kill(signal);
  }

  async kill(): Promise<void> {
    if (this.hasExited) return;
    const closed = once(this.child, "close");
    this.child.kill("SIGKILL");
    this.records.leadership.left(this.plan.writerId, machineMs());
    await closed;
    this.term = undefined;
  }

  get hasExited(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }

  private async waitFor(condition: () => boolean, wait: { deadlineMs?: number | undefined; what: string }) {
    const { deadlineMs = 10_000, what } = wait;
    const holds = () => {
      if (this.hasExited) throw new Error(`master ${this.plan.writerId} has ended: ${this.errors}`);
      return condition();
    };
    await waitFor(holds, { deadlineMs, what: `master ${this.plan.writerId} to ${what}` });
  }

  private note(report: MasterReport): void {
    const { history, leadership } = this.records;
    const { writerId } = this.plan;
    this.reports.push(report);
    switch (report.kind) {
      case "sent":
        history.sent(writerId, BigInt(report.operation), [entryOf(writerId, report.operation)]);
        break;
      case "acknowledged":
        this.acknowledged.push(report);
        history.acknowledged(writerId, BigInt(report.operation), {
          firstSequenceId: BigInt(report.first),
          lastSequenceId: BigInt(report.last),
          term: BigInt(report.term),
        });
        break;
      case "failed":
        if (!report.isInDoubt) history.refused(writerId, BigInt(report.operation));
        break;
      case "leading":
        this.term = report.term;
        leadership.leading({ ...report, candidate: writerId });
        break;
      case "promised":
        leadership.promised(writerId, report.term, report.untilMs);
        break;
      case "resigned":
        this.term = undefined;
        leadership.gaveUp(report.term, report.atMs);
        break;
      case "lost":
      case "broken":
        this.term = undefined;
        break;
      case "held":
        this.isHeld = true;
    }
  }
}

const running = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});
