import { execFileSync } from "node:child_process";
import { cpSync, existsSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "./source-tree.js";

/**
 * What a fresh clone of this tree would hold, with changes that are not committed yet, and the packages that `npm ci`
 * installs: those of this tree. Times of change are kept, since make goes by them.
 */
export function cloneInto(directory: string): void {
  const listed = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], {
    cwd: ROOT,
    encoding: "utf8",
  });
  // Of a file that has been deleted, git may still list the name.
  const files = listed.split("\0").filter((file) => file !== "" && existsSync(join(ROOT, file)));
  for (const file of files) cpSync(join(ROOT, file), join(directory, file), { preserveTimestamps: true });
  symlinkSync(join(ROOT, "node_modules"), join(directory, "node_modules"));
}
