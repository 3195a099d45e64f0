import { writeSync } from "node:fs";
import { join } from "node:path";
import type { ChildAnswer, Task } from "./apart.js";
import { copyDirectory } from "./copy.js";
import { Database } from "./database.js";
import { FORMAT_VERSION } from "./directory.js";
import { isDamaged } from "./failures.js";
import { checkFile, type FileReport } from "./file-check.js";
import { DATA_FILE } from "./file-names.js";
import { FileDamagedError } from "./page-file.js";

/** The other side of apart.ts: does one task, and says on standard output what came of it. */

const OPTIONS = { format: FORMAT_VERSION, readsEverything: true };

async function run(task: Task): Promise<FileReport | undefined> {
  switch (task.kind) {
    case "check": {
      const report = checkFile(join(task.directory, DATA_FILE), { ...OPTIONS, readsEverything: task.readsEverything });
      if (report !== undefined && report.keys > 0) await tryLmdb(task.directory, report);
      return report;
    }
    case "check in use":
      return Database.pinned(task.directory, () => checkFile(join(task.directory, DATA_FILE), OPTIONS));
    case "copy":
      return copyDirectory(task.directory, task.target, OPTIONS);
  }
}

/** What follows from the pages has been checked; this is for what nobody has thought of. */
async function tryLmdb(directory: string, report: FileReport): Promise<void> {
  const database = new Database(directory, { isReadOnly: true });
  const keys = database.countKeys();
  await database.close();
  if (keys !== report.keys) throw new FileDamagedError(`LMDB finds ${keys} of ${report.keys} keys`);
}

async function answerTo(task: Task): Promise<ChildAnswer> {
  try {
    return { kind: "report", report: await run(task) };
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error);
    return { kind: isDamaged(error) ? "damaged" : "failed", problem };
  }
}

const answer = await answerTo(JSON.parse(process.argv[2]!) as Task);
writeSync(
  1,
  JSON.stringify(answer, (_, value) => (typeof value === "bigint" ? String(value) : value)),
);
