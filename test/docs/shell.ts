import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import type { Readable, Writable } from "node:stream";
import { waitFor, within } from "../support/wait.js";

const COMMAND_MS = 180_000;
const END_MS = 20_000;

type Child = ChildProcessByStdio<Writable, Readable, null>;

/** A terminal: one bash, in which commands run one after the other, as a reader would type them. */
export class Shell {
  private output = "";
  private commands = 0;

  private constructor(private readonly child: Child) {
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      this.output += text;
    });
  }

  static open(cwd: string, env: NodeJS.ProcessEnv): Shell {
    return new Shell(start("exec bash --noprofile --norc 2>&1", cwd, env));
  }

  /** What the command has printed, on stdout and stderr, and how it ended. */
  async run(command: string): Promise<{ readonly exitCode: number; readonly output: string }> {
    const from = this.output.length;
    const mark = `end-of-command-${++this.commands}`;
    this.child.stdin.write(`{ ${command}\n} </dev/null\nprintf '\\n${mark} %d\\n' $?\n`);
    const end = new RegExp(`\\n${mark} (\\d+)\\n`);
    const [printed, exitCode] = (await waitFor(
      () => {
        if (this.child.exitCode !== null) throw new Error(`the shell has ended: ${this.output.slice(from)}`);
        return end.exec(this.output.slice(from));
      },
      { deadlineMs: COMMAND_MS, what: `${command} to end` },
    ))!;
    return { exitCode: Number(exitCode), output: this.output.slice(from, this.output.indexOf(printed, from)) };
  }

  /** With everything that still runs in it. */
  async close(): Promise<void> {
    await killGroup(this.child, "SIGKILL");
  }
}

/** A terminal of its own for a command that goes on until Ctrl-C. */
export class LongRunning {
  output = "";

  private constructor(
    readonly command: string,
    private readonly child: Child,
  ) {
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      this.output += text;
    });
  }

  static start(command: string, cwd: string, env: NodeJS.ProcessEnv): LongRunning {
    return new LongRunning(command, start(`exec 2>&1; exec ${command}`, cwd, env));
  }

  async printed(pattern: RegExp): Promise<void> {
    await waitFor(
      () => {
        if (this.child.exitCode !== null) throw new Error(`${this.command} has ended: ${this.output}`);
        return pattern.test(this.output);
      },
      { deadlineMs: 60_000, what: `${this.command} to print ${pattern}` },
    );
  }

  /** Ctrl-C. */
  async interrupt(): Promise<void> {
    await killGroup(this.child, "SIGINT");
  }
}

function start(script: string, cwd: string, env: NodeJS.ProcessEnv): Child {
  // A group of its own, so that nothing that it has started outlives it.
  return spawn("bash", ["-c", script], { cwd, env, detached: true, stdio: ["pipe", "pipe", "ignore"] });
}

async function killGroup(child: Child, signal: NodeJS.Signals): Promise<void> {
  const ended: Promise<unknown> =
    child.exitCode === null && child.signalCode === null ? once(child, "exit") : Promise.resolve();
  const kill = (name: NodeJS.Signals) => {
    try {
      process.kill(-child.pid!, name);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  };
  kill(signal);
  await within(ended, { deadlineMs: END_MS, what: "a process of the documents to end" }).finally(() => kill("SIGKILL"));
}
