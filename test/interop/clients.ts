import { join } from "node:path";
import { buildExample } from "./builds.js";
import { type Flags, Program } from "./program.js";
import { Replica } from "./replica.js";
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

const PROGRAMS = {
  master: { go: "build/master", cpp: "build/master" },
  replica: { go: "build/replica", cpp: "build/replica" },
  standby: { go: "build/standby", cpp: "build/standby", python: "standby.py" },
};

/**
 * The built examples. What starts a master or a standby resolves with what it prints at its end, and rejects if it fails.
 * stop() ends those that still run.
 */
export class Clients {
  private readonly running = new Set<{ kill(): Promise<void> }>();

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
    return this.run(language, PROGRAMS.master[language], flags) as Promise<MasterResult>;
  }

  standby(language: Language, flags: Flags): Promise<StandbyResult> {
    return this.run(language, PROGRAMS.standby[language], flags) as Promise<StandbyResult>;
  }

  replica(language: "go" | "cpp", flags: Flags): Replica {
    const replica = new Replica(this.pathOf(language, PROGRAMS.replica[language]), flags);
    this.running.add(replica);
    return replica;
  }

  async stop(): Promise<void> {
    await Promise.all([...this.running].map((program) => program.kill()));
    this.running.clear();
  }

  private run(language: Language, path: string, flags: Flags): Promise<unknown> {
    const program = new Program(this.pathOf(language, path), flags);
    this.running.add(program);
    const result = program.output.then((line) => JSON.parse(line)).finally(() => this.running.delete(program));
    result.catch(() => {}); // As in Program.
    return result;
  }

  private pathOf(language: Language, path: string): string {
    return join(this.directories.get(language)!, path);
  }
}
