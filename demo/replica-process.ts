import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { Acknowledged } from "./master.js";
import type { FromReplica, ReplicaOrders, ToReplica } from "./replica.js";

/** An event of a replica and when it was heard of: the machine's monotonic clock, nanoseconds. */
export type ReplicaEvent = Exclude<FromReplica, { kind: "acknowledged" }> & { readonly atNs: bigint };

const WAIT_MS_MAX = 120_000;

/** A replica in a process of its own, as it would be. */
export class ReplicaProcess {
  readonly events: ReplicaEvent[] = [];
  readonly acknowledged: Acknowledged[] = [];
  private readonly child: ChildProcess;
  private waiting: (() => void)[] = [];
  private hasExited = false;

  /** `execArgv`: how Node runs TypeScript; as in this process unless told. */
  constructor(
    readonly orders: ReplicaOrders,
    execArgv: readonly string[] = process.execArgv,
  ) {
    // Advanced serialization carries 64-bit times.
    const options = { serialization: "advanced" as const, execArgv: [...execArgv] };
    this.child = fork(join(import.meta.dirname, "replica.ts"), options);
    this.child.on("message", (message: FromReplica) => {
      if (message.kind === "acknowledged") this.acknowledged.push(message.append);
      else this.events.push({ ...message, atNs: process.hrtime.bigint() });
      this.notify();
    });
    this.child.once("exit", () => {
      this.hasExited = true;
      this.notify();
    });
    this.tell({ start: orders });
  }

  get lastAcknowledged(): number {
    return this.acknowledged.at(-1)?.lastSequenceId ?? 0;
  }

  allow(appendUpTo: number): void {
    this.tell({ appendUpTo });
  }

  signal(signal: "SIGKILL" | "SIGSTOP" | "SIGCONT"): void {
    this.child.kill(signal);
  }

  /** The first event of this kind from the one with this index on. */
  async event<K extends ReplicaEvent["kind"]>(kind: K, from = 0): Promise<Extract<ReplicaEvent, { kind: K }>> {
    const find = () => this.events.slice(from).find((event) => event.kind === kind);
    await this.until(() => find() !== undefined, `it was to be ${kind}`);
    return find() as Extract<ReplicaEvent, { kind: K }>;
  }

  async until(condition: () => boolean, what: string): Promise<void> {
    const { id } = this.orders;
    const timer = setTimeout(() => this.notify(), WAIT_MS_MAX);
    const deadline = performance.now() + WAIT_MS_MAX;
    try {
      while (!condition()) {
        const told = JSON.stringify(this.events.slice(-5), (_, value) =>
          typeof value === "bigint" ? String(value) : value,
        );
        if (this.hasExited) throw new Error(`replica ${id} has ended: ${what}; it told ${told}`);
        if (performance.now() >= deadline) throw new Error(`replica ${id}: ${what}; it told ${told}`);
        await new Promise<void>((resolve) => this.waiting.push(resolve));
      }
    } finally {
      clearTimeout(timer);
    }
  }

  async end(): Promise<void> {
    if (this.hasExited) return;
    const exit = once(this.child, "exit");
    this.child.kill("SIGKILL");
    await exit;
  }

  private notify(): void {
    const woken = this.waiting;
    this.waiting = [];
    for (const wake of woken) wake();
  }

  private tell(message: ToReplica): void {
    this.child.send(message);
  }
}
