#!/usr/bin/env node
import { CommanderError } from "commander";
import { describeFailure, EXIT_FAILURE, EXIT_USAGE, type Failure, failureJson, failureText } from "./failures.js";
import { buildProgram } from "./program.js";

// A reader that has seen enough (`oplogctl tail … | head -3`) is no failure.
process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : EXIT_FAILURE));
process.stderr.on("error", () => process.exit(EXIT_FAILURE));

// An empty variable counts as not set, since that is all that many launchers can say.
if (process.env.OPLOGCTL_TARGET === "") delete process.env.OPLOGCTL_TARGET;
const isJson = process.argv.includes("--json");

try {
  await buildProgram(isJson).parseAsync();
} catch (error) {
  if (error instanceof CommanderError) fail(usageFailure(error), true);
  else fail(describeFailure(error), false);
}

/** `isTold`: commander has printed it, unless a program is reading. */
function fail(failure: Failure, isTold: boolean): void {
  process.exitCode = failure.exitCode;
  if (failure.exitCode === 0) return;
  if (isJson) process.stderr.write(failureJson(failure));
  else if (!isTold) process.stderr.write(failureText(failure));
}

/** Help and version come as an error with exit code 0. */
function usageFailure({ exitCode, message }: CommanderError): Failure {
  const lines = message.replace(/^error: /, "").split("\n");
  return { exitCode: exitCode === 0 ? 0 : EXIT_USAGE, lines };
}
