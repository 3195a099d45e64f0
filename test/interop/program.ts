import { spawn } from "node:child_process";

export type Flags = Readonly<Record<string, string | number>>;

const COMPLAINTS_CHARS_MAX = 4096;

/** An example in a process of its own. */
export class Program {
  /** Standard output, once it has exited with 0. */
  readonly output: Promise<string>;
  private readonly child;
  private readonly exited: Promise<void>;

  constructor(path: string, flags: Flags, onOutput: (text: string) => void = () => {}) {
    const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, String(value)]);
    this.child = spawn(path, args, { stdio: ["ignore", "pipe", "pipe"], env: withoutProxy() });
    running.add(this);
    let output = "";
    this.child.stdout.setEncoding("utf8").on("data", (text: string) => {
      output += text;
      onOutput(text);
    });
    this.child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.complaints = (this.complaints + text).slice(-COMPLAINTS_CHARS_MAX);
    });
    this.exited = new Promise((resolve) => this.child.once("close", () => resolve()));
    this.output = new Promise((resolve, reject) => {
      this.child.once("error", (error) => {
        this.complaints += error.message;
        reject(error);
      });
      this.child.once("close", (code, signal) => {
        running.delete(this);
        if (code === 0) resolve(output);
        else reject(new Error(`${path} ${args.join(" ")} ended with ${code ?? signal}:\n${this.complaints}`));
      });
    });
    // A failure of one that is awaited later, or never because another failed first, is not unhandled.
    this.output.catch(() => {});
  }

  /** The newest of standard error. */
  complaints = "";

  get hasEnded(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }

  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  async kill(): Promise<void> {
    this.child.kill("SIGKILL");
    await this.exited;
  }
}

const running = new Set<Program>();
process.on("exit", () => {
  for (const program of running) program.signal("SIGKILL");
});

/** gRPC libraries would send even calls to the loopback through a proxy that the environment names. */
function withoutProxy(): NodeJS.ProcessEnv {
  return { ...process.env, no_grpc_proxy: "127.0.0.1", no_proxy: "127.0.0.1", NO_PROXY: "127.0.0.1" };
}
