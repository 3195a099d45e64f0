import type { Logger } from "../telemetry/logger.js";
import type { Exit } from "./exit.js";

const EXIT_FAILED = 1;

/**
 * A failure that nobody has handled is a defect, and what it has left undone is unknown: the process ends with the reason,
 * and what is in the store is taken up again from there. Without this Node ends it too, but prints text, and past the log.
 */
export function endOnDefects(logger: Logger, exit: Exit): void {
  const end = (event: string) => (error: unknown) => {
    try {
      const message = error instanceof Error ? error.message : String(error);
      logger.fatal({ event, err: error }, `this is a defect of oplogd; it ends here: ${message}`);
    } finally {
      exit.now(EXIT_FAILED);
    }
  };
  process.on("uncaughtException", end("uncaught_exception"));
  process.on("unhandledRejection", end("unhandled_rejection"));
}
