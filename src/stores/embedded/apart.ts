import { spawn } from "node:child_process";
import { once } from "node:events";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";
import type { FileReport } from "./file-check.js";
import { FileDamagedError } from "./page-file.js";

/** What is done with a data directory in a process of its own, so that a file that ends LMDB ends only that one. */
export type Task =
  /** Nobody may write to it meanwhile. */
  | { readonly kind: "check"; readonly directory: string; readonly readsEverything: boolean }
  /** While a process has it open, and writes to it. */
  | { readonly kind: "check in use"; readonly directory: string }
  | { readonly kind: "copy"; readonly directory: string; readonly target: string };

export type ChildAnswer =
  /** Undefined: there is nothing in the directory. */
  | { readonly kind: "report"; readonly report: FileReport | undefined }
  | { readonly kind: "damaged"; readonly problem: string }
  | { readonly kind: "failed"; readonly problem: string };

const STDERR_CHARACTERS_MAX = 2_000;

/** Rejects with FileDamagedError when the file is damaged, also if reading it has ended the process. */
export async function runApart(task: Task): Promise<FileReport | undefined> {
  const extension = extname(import.meta.url);
  const program = fileURLToPath(new URL(`./apart-program${extension}`, import.meta.url));
  // The tests run the sources.
  const loader = extension === ".ts" ? ["--import", "tsx"] : [];
  const { NODE_OPTIONS: _, ...env } = process.env;
  const child = spawn(process.execPath, [...loader, program, JSON.stringify(task)], {
    env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const endWithThisProcess = () => child.kill("SIGKILL");
  process.once("exit", endWithThisProcess);
  try {
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr = (stderr + text).slice(-STDERR_CHARACTERS_MAX);
    });
    const [exitCode, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null];
    if (exitCode === 0) return reportOf(JSON.parse(stdout) as ChildAnswer);
    const said = stderr.trim() === "" ? "" : `: ${stderr.trim()}`;
    if (signal === null) throw new Error(`the process that was to read it ended with ${exitCode}${said}`);
    if (signal === "SIGKILL" || signal === "SIGTERM" || signal === "SIGINT") {
      throw new Error(`the process that was to read it was ended by ${signal}`);
    }
    throw new FileDamagedError(`reading it ends a process with ${signal}${said}`);
  } finally {
    process.off("exit", endWithThisProcess);
  }
}

function reportOf(answer: ChildAnswer): FileReport | undefined {
  if (answer.kind === "damaged") throw new FileDamagedError(answer.problem);
  if (answer.kind === "failed") throw new Error(answer.problem);
  return answer.report && { ...answer.report, revision: BigInt(answer.report.revision) };
}
