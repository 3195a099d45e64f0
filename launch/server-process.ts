import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

export interface Launch {
  readonly command: string;
  readonly args: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
  /** Asked again and again, with everything printed so far, until it says yes. */
  readonly isReady: (output: string) => boolean | Promise<boolean>;
}

const READY_MS_MAX = 30_000;
const READY_POLL_MS = 20;
const OUTPUT_CHARACTERS_MAX = 64 * 1024;

/** A server in a process of its own, which does not outlive this one. */
export class ServerProcess {
  /** The newest 64 KiB of what it has printed. */
  output = "";

  private constructor(
    private readonly child: ChildProcess,
    private readonly launch: Launch,
  ) {
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.output = (this.output + text).slice(-OUTPUT_CHARACTERS_MAX);
      });
    }
  }

  /** Resolves once the server is ready; rejects, with what it printed, if it ends or takes longer than 30 s. */
  static async start(launch: Launch): Promise<ServerProcess> {
    const { command, args, env = process.env } = launch;
    const child = spawn(command, args, { env, stdio: ["ignore", "pipe", "pipe"] });
    cleanUpWithThisProcess(() => child.kill("SIGKILL"));
    await once(child, "spawn");
    const server = new ServerProcess(child, launch);
    await server.ready();
    return server;
  }

  get pid(): number {
    return this.child.pid!;
  }

  async kill(signal: "SIGKILL" | "SIGTERM" = "SIGKILL"): Promise<void> {
    if (this.hasExited) return;
    const exit = once(this.child, "exit");
    this.child.kill(signal);
    await exit;
  }

  private get hasExited(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }

  private async ready(): Promise<void> {
    const deadline = performance.now() + READY_MS_MAX;
    while (!(await this.launch.isReady(this.output))) {
      if (this.hasExited) throw this.failure(`ended with ${this.child.exitCode ?? this.child.signalCode}`);
      if (performance.now() > deadline) {
        await this.kill();
        throw this.failure(`was not ready after ${READY_MS_MAX / 1000} s`);
      }
      await sleep(READY_POLL_MS);
    }
  }

  private failure(what: string): Error {
    return new Error(`${this.launch.command} ${this.launch.args.join(" ")} ${what}:\n${this.output}`);
  }
}

/** Gone with this process. */
export function makeTempDir(name: string): string {
  const path = mkdtempSync(join(tmpdir(), `${name}-`));
  cleanUpWithThisProcess(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Different ones, free a moment ago. */
export async function freePorts(count: number): Promise<number[]> {
  const listeners = Array.from({ length: count }, () => createServer().listen(0, "127.0.0.1"));
  await Promise.all(listeners.map((listener) => once(listener, "listening")));
  const ports = listeners.map((listener) => {
    const address = listener.address();
    if (address === null || typeof address === "string") throw new Error("a TCP listener without a port");
    return address.port;
  });
  await Promise.all(listeners.map((listener) => new Promise((resolve) => listener.close(resolve))));
  return ports;
}

const cleanUps: (() => void)[] = [];

/** Newest first, so that a process is gone before its files are. */
function cleanUpWithThisProcess(cleanUp: () => void): void {
  if (cleanUps.push(cleanUp) > 1) return;
  process.once("exit", () => {
    for (const each of cleanUps.reverse()) each();
  });
  for (const [signal, number] of [
    ["SIGINT", 2],
    ["SIGTERM", 15],
  ] as const) {
    process.once(signal, () => process.exit(128 + number));
  }
}
