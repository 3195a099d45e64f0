#!/usr/bin/env node
import { CommanderError } from "commander";
import { describeFailure, EXIT_FAILURE } from "./failures.js";
import { buildProgram } from "./program.js";

// A reader that has seen enough (`oplogctl tail … | head -3`) is no failure.
process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : EXIT_FAILURE));
process.stderr.on("error", () => process.exit(EXIT_FAILURE));

try {
  await buildProgram().parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode;
  } else {
    const failure = describeFailure(error);
    process.stderr.write(`oplogctl: ${failure.lines.join("\n  ")}\n`);
    process.exitCode = failure.exitCode;
  }
}
