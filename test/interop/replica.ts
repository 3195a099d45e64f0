import { waitFor } from "../support/wait.js";
import { type Flags, Program } from "./program.js";

/** A line that a replica prints: see examples/README.md. */
export interface ReplicaEvent {
  readonly event: "waiting" | "prepare" | "ready" | "leading" | "lost" | "acknowledged" | "stopped";
  readonly leader?: string;
  readonly term?: number;
  readonly final?: number;
  readonly hand_over?: boolean;
  readonly applied?: number;
  readonly state_hash?: string;
  readonly next?: number;
  readonly reason?: string;
  readonly operation?: number;
  readonly sequence_id?: number;
  readonly acknowledged?: number;
}

export type EventName = ReplicaEvent["event"];

const EVENT_MS_MAX = 20_000;

/** The replica of examples/, which keeps the log as a map and stands for its leadership. */
export class Replica {
  /** All that it has said. */
  readonly events: ReplicaEvent[] = [];
  private readonly program: Program;
  private partial = "";
  private seen = 0;

  constructor(path: string, flags: Flags) {
    this.id = String(flags.id);
    this.program = new Program(path, flags, (text) => {
      const lines = (this.partial + text).split("\n");
      this.partial = lines.pop()!;
      this.events.push(...lines.map((line) => JSON.parse(line) as ReplicaEvent));
    });
  }

  readonly id: string;

  /** The first such event after the one that was waited for last. */
  async next(event: EventName, isWanted: (event: ReplicaEvent) => boolean = () => true): Promise<ReplicaEvent> {
    const find = () => {
      const index = this.events.findIndex((each, at) => at >= this.seen && each.event === event && isWanted(each));
      if (index >= 0) this.seen = index + 1;
      return this.events[index];
    };
    const findWhileItRuns = () => {
      const found = find();
      if (found === undefined && this.program.hasEnded) throw new Error(`${this.id} has ended: ${this.account}`);
      return found;
    };
    try {
      return (await waitFor(findWhileItRuns, { what: `"${event}" of ${this.id}`, deadlineMs: EVENT_MS_MAX }))!;
    } catch (error) {
      throw new Error(`${error instanceof Error ? error.message : error}; ${this.account}`, { cause: error });
    }
  }

  /** The newest of its own appends that it is known to have an answer to. */
  get acknowledged(): number {
    return this.events.findLast(({ event }) => event === "acknowledged")?.operation ?? 0;
  }

  /** With SIGTERM: gives its leadership up, and exits with 0. */
  async stop(): Promise<ReplicaEvent> {
    this.program.signal("SIGTERM");
    await this.program.output;
    return this.events.at(-1)!;
  }

  pause(): void {
    this.program.signal("SIGSTOP");
  }

  resume(): void {
    this.program.signal("SIGCONT");
  }

  kill(): Promise<void> {
    return this.program.kill();
  }

  private get account(): string {
    const events = this.events.slice(-10).map((event) => JSON.stringify(event));
    return `it has said:\n${events.join("\n")}\n${this.program.complaints}`;
  }
}
