import { type Logger, silentLogger } from "../../src/oplog/logger.js";

export interface LoggedLine {
  readonly level: "info" | "warn" | "error";
  readonly event: string;
  readonly message: string;
  readonly facts: Record<string, unknown>;
}

/** A logger that keeps what it is told. */
export function aLogger(): { readonly logger: Logger; readonly lines: LoggedLine[] } {
  const lines: LoggedLine[] = [];
  const note = (level: LoggedLine["level"]) => (facts: object, message: string) => {
    const { event, ...others } = facts as { event: string };
    lines.push({ level, event, message, facts: others });
  };
  return { logger: { ...silentLogger, info: note("info"), warn: note("warn"), error: note("error") }, lines };
}
