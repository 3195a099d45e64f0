import { execFileSync } from "node:child_process";
import { cpSync, existsSync, symlinkSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "./source-tree.js";

const OLD = new Date("2020-01-01T00:00:00Z");

/**
 * What a fresh clone of this tree would hold, with changes that are not committed yet, and the packages that `npm ci`
 * installs: those of this tree. Every file is old, so that make takes what is built for newer.
 */
export function cloneInto(directory: string): void {
  const listed = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], {
    cwd: ROOT,
    encoding: "utf8",
  });
  // Of a file that has been deleted, git may still list the name.
  const files = listed.split("\0").filter((file) => file !== "" && existsSync(join(ROOT, file)));
  for (const file of files) {
    cpSync(join(ROOT, file), join(directory, file));
    utimesSync(join(directory, file), OLD, OLD);
  }
  symlinkSync(join(ROOT, "node_modules"), join(directory, "node_modules"));
}
