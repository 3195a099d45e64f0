import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { waitFor } from "./wait.js";

const PROGRAM = join(import.meta.dirname, "../../dist/main.js");
const READY_MS_MAX = 30_000;

export interface OplogdOptions {
  /** Default: the embedded store, in a directory of its own that goes with stop(). */
  readonly store?: { readonly etcd: string } | { readonly dataDir: string };
  readonly args?: readonly string[];
  /** Default: a free one. */
  readonly port?: number;
  readonly env?: Readonly<Record<string, string>>;
  /** A descriptor for standard output, instead of `log`. */
  readonly stdout?: number;
  /** Default: once it says so in its log. */
  readonly isReady?: "answers";
  /** For Node itself. */
  readonly nodeArgs?: readonly string[];
}

/** A real oplogd in a process of its own. */
export class Oplogd {
  private constructor(
    private child: ChildProcess,
    private readonly options: OplogdOptions,
    private readonly argv: readonly string[],
    readonly port: number,
    readonly dataDir: string,
  ) {}

  private output: string[] = [];

  static async start(options: OplogdOptions = {}): Promise<Oplogd> {
    if (!existsSync(PROGRAM)) throw new Error(`${PROGRAM} is missing: run "npm run build" first`);
    const port = options.port ?? (await freePort());
    const given = options.store !== undefined && "dataDir" in options.store ? options.store.dataDir : undefined;
    const dataDir = given ?? (await mkdtemp(join(tmpdir(), "oplogd-")));
    const store =
      options.store !== undefined && "etcd" in options.store
        ? ["--etcd-endpoints", options.store.etcd]
        : ["--data-dir", dataDir];
    const { args = [] } = options;
    const admin = args.includes("--admin-listen") ? [] : ["--admin-listen", "off"];
    const argv = ["--listen", `127.0.0.1:${port}`, ...admin, ...store, ...args];
    const oplogd = new Oplogd(undefined as never, options, argv, port, dataDir);
    await oplogd.spawn();
    return oplogd;
  }

  get target(): string {
    return `127.0.0.1:${this.port}`;
  }

  get pid(): number {
    return this.child.pid!;
  }

  get hasExited(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }

  get exitCode(): number | null {
    return this.child.exitCode;
  }

  /** What it has printed, newest 2,000 lines. */
  get log(): string {
    return this.output.join("");
  }

  /** Sends the signal; with SIGKILL and SIGTERM also waits for the end. */
  async kill(signal: NodeJS.Signals): Promise<void> {
    if (this.hasExited) return;
    const exit = once(this.child, "exit");
    this.child.kill(signal);
    if (signal === "SIGKILL" || signal === "SIGTERM") await exit;
  }

  /** The same program on the same port and data again, after it has ended. */
  async restart(): Promise<void> {
    await this.kill("SIGKILL");
    await this.spawn();
  }

  async stop(): Promise<void> {
    await this.kill("SIGKILL");
    running.delete(this);
    const isOurs = this.options.store === undefined || !("dataDir" in this.options.store);
    if (isOurs) await rm(this.dataDir, { recursive: true, force: true });
  }

  private async spawn(): Promise<void> {
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("OPLOG_")));
    this.child = spawn(process.execPath, [...(this.options.nodeArgs ?? []), PROGRAM, ...this.argv], {
      env: { ...env, ...this.options.env },
      stdio: ["ignore", this.options.stdout ?? "pipe", "pipe"],
    });
    running.add(this);
    const keep = (chunk: Buffer) => {
      this.output.push(chunk.toString());
      if (this.output.length > 2000) this.output.shift();
    };
    this.child.stdout?.on("data", keep);
    this.child.stderr?.on("data", keep);
    this.output = [];
    const isListening = () =>
      this.options.isReady === "answers"
        ? answers(this.port)
        : this.output.some((line) => line.includes('"event":"listening"'));
    await waitFor(async () => (await isListening()) || this.hasExited, {
      deadlineMs: READY_MS_MAX,
      what: "oplogd to listen",
    });
    if (this.hasExited) throw new Error(`oplogd ended with ${this.child.exitCode}:\n${this.log}`);
  }
}

const running = new Set<Oplogd>();
process.on("exit", () => {
  for (const oplogd of running) if (!oplogd.hasExited) process.kill(oplogd.pid, "SIGKILL");
});

export const startOplogd = (options?: OplogdOptions): Promise<Oplogd> => Oplogd.start(options);

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" });
    const finish = (isListening: boolean) => {
      socket.destroy();
      resolve(isListening);
    };
    socket.once("connect", () => finish(true));
    socket.once("error", () => finish(false));
  });
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}
