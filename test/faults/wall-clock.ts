import { execFileSync } from "node:child_process";
import { renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeTempDir } from "../support/temp-dir.js";
import { atEnd } from "./stage.js";

/** The library that the command loads into what it starts. A missing one is reported; in CI that is an error. */
export function faketimeLibrary(): string | undefined {
  try {
    return execFileSync("faketime", ["-m", "-f", "+0", "sh", "-c", "echo $LD_PRELOAD"], { encoding: "utf8" }).trim();
  } catch (error) {
    const problem = `no faketime here: install Debian's faketime (${error instanceof Error ? error.message : error})`;
    if (process.env.CI) throw new Error(problem);
    process.stderr.write(`${problem}\n`);
    return undefined;
  }
}

/** The wall clock of one process, which can be set; its monotonic clock is the real one. */
export class WallClock {
  private constructor(
    private readonly file: string,
    /** Of the process. */
    readonly env: Readonly<Record<string, string>>,
  ) {}

  static async make(library: string): Promise<WallClock> {
    const directory = await makeTempDir("clock");
    atEnd(() => directory.remove());
    const file = join(directory.path, "offset");
    const clock = new WallClock(file, {
      LD_PRELOAD: library,
      FAKETIME_TIMESTAMP_FILE: file,
      // Looked at again at once.
      FAKETIME_NO_CACHE: "1",
      FAKETIME_DONT_FAKE_MONOTONIC: "1",
    });
    clock.set(0);
    return clock;
  }

  /** To so many seconds from the real time. The file is never seen half written. */
  set(offsetSeconds: number): void {
    writeFileSync(`${this.file}.new`, `${offsetSeconds < 0 ? "" : "+"}${offsetSeconds}\n`);
    renameSync(`${this.file}.new`, this.file);
  }
}
