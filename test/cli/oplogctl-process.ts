import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const PROGRAM = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
const RUN_MS = 20_000;

export interface Outcome {
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** The built oplogctl as a process of its own. Ends by itself, or is killed after a while and reports exit code null. */
export class Oplogctl {
  readonly child: ChildProcessWithoutNullStreams;
  stdout = "";
  stderr = "";

  constructor(target: string, args: readonly string[], input?: string) {
    this.child = spawn(process.execPath, [PROGRAM, ...args], {
      env: { ...process.env, OPLOGCTL_TARGET: target },
      timeout: RUN_MS,
      killSignal: "SIGKILL",
    });
    this.child.stdout.setEncoding("utf8").on("data", (text: string) => {
      this.stdout += text;
    });
    this.child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.stderr += text;
    });
    this.child.stdin.end(input);
  }

  /** Waits until stdout holds this; whatever ends the process first fails the wait. */
  async printed(pattern: RegExp): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const check = () => pattern.test(this.stdout) && resolve();
      this.child.stdout.on("data", check);
      this.child.once("close", (code) => reject(new Error(`ended with ${code} before ${pattern}: ${this.stderr}`)));
      check();
    });
  }

  outcome(): Promise<Outcome> {
    return new Promise((resolve, reject) => {
      this.child.once("error", reject);
      this.child.once("close", (exitCode) => resolve({ exitCode, stdout: this.stdout, stderr: this.stderr }));
    });
  }
}

export function runOplogctl(target: string, args: readonly string[], input?: string): Promise<Outcome> {
  return new Oplogctl(target, args, input).outcome();
}
