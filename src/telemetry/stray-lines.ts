import { format } from "node:util";
import type { Logger } from "./logger.js";

/**
 * What libraries print and Node warns of goes into the log like everything else: it would be text among JSON, and Node
 * keeps without a bound what the reader of a pipe does not take.
 */
export function logStrayLines(logger: Logger): void {
  const print = (...args: unknown[]) => logger.warn({ event: "stray_line" }, format(...args));
  for (const name of ["log", "info", "debug", "warn", "error", "trace"] as const) console[name] = print;
  process.removeAllListeners("warning");
  process.on("warning", (warning) => logger.warn({ event: "node_warning", err: warning }, warning.message));
}
