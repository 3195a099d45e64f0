import { spawn } from "node:child_process";
import { join } from "node:path";
import { buildExample } from "./builds.js";
import type { Language } from "./toolchain.js";

export interface MasterResult {
  readonly acknowledged: number;
  readonly first: number;
  readonly last: number;
  readonly duplicates: number;
}

export interface StandbyResult {
  readonly received: number;
  readonly hash: string;
  readonly resumes: number;
}

type Flags = Readonly<Record<string, string | number>>;

const PROGRAMS = {
  master: { go: "build/master", cpp: "build/master" },
  standby: { go: "build/standby", cpp: "build/standby", python: "standby.py" },
};

/**
 * The built examples. What starts one resolves with what it prints at its end, and rejects if it fails. stop() ends
 * those that still run.
 */
export class Clients {
  private readonly running = new Set<Program>();

  private constructor(private readonly directories: ReadonlyMap<Language, string>) {}

  /** One after the other: each build uses every core by itself. */
  static async build(languages: readonly Language[]): Promise<Clients> {
    const directories = new Map<Language, string>();
    for (const language of languages) directories.set(language, await buildExample(language));
    return new Clients(directories);
  }

  get masters(): Array<"go" | "cpp"> {
    return (["go", "cpp"] as const).filter((language) => this.directories.has(language));
  }

  get standbys(): Language[] {
    return [...this.directories.keys()];
  }

  master(language: "go" | "cpp", flags: Flags): Promise<MasterResult> {
    return this.start(language, PROGRAMS.master[language], flags) as Promise<MasterResult>;
  }

  standby(language: Language, flags: Flags): Promise<StandbyResult> {
    return this.start(language, PROGRAMS.standby[language], flags) as Promise<StandbyResult>;
  }

  async stop(): Promise<void> {
    await Promise.all([...this.running].map((program) => program.kill()));
  }

  private start(language: Language, path: string, flags: Flags): Promise<unknown> {
    const program = new Program(join(this.directories.get(language)!, path), flags);
    this.running.add(program);
    const result = program.output.then((line) => JSON.parse(line)).finally(() => this.running.delete(program));
    // A failure of one that is awaited later, or never because another failed first, is not unhandled.
    result.catch(() => {});
    return result;
  }
}

class Program {
  /** Standard output, once it has exited with 0. */
  readonly output: Promise<string>;
  private readonly child;
  private readonly exited: Promise<void>;

  constructor(path: string, flags: Flags) {
    const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, String(value)]);
    this.child = spawn(path, args, { stdio: ["ignore", "pipe", "pipe"], env: withoutProxy() });
    let output = "";
    let complaints = "";
    this.child.stdout.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
    this.child.stderr.setEncoding("utf8").on("data", (text: string) => {
      complaints = (complaints + text).slice(-4096);
    });
    this.exited = new Promise((resolve) => this.child.once("close", () => resolve()));
    this.output = new Promise((resolve, reject) => {
      this.child.once("error", reject);
      this.child.once("close", (code, signal) => {
        if (code === 0) resolve(output);
        else reject(new Error(`${path} ${args.join(" ")} ended with ${code ?? signal}:\n${complaints}`));
      });
    });
  }

  async kill(): Promise<void> {
    this.child.kill("SIGKILL");
    await this.exited;
  }
}

/** gRPC libraries would send even calls to the loopback through a proxy that the environment names. */
function withoutProxy(): NodeJS.ProcessEnv {
  return { ...process.env, no_grpc_proxy: "127.0.0.1", no_proxy: "127.0.0.1", NO_PROXY: "127.0.0.1" };
}
