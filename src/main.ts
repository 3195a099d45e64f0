#!/usr/bin/env node
import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import { setFlagsFromString } from "node:v8";
import { type Config, describeConfig, parseConfig } from "./config/config.js";
import { Sidecar } from "./sidecar.js";
import { createLogger } from "./telemetry/logger.js";
import { VERSION } from "./telemetry/version.js";

// The heap is small; what comes and goes are buffers outside of it. V8 answers their pressure by marking the heap step by
// step, time and again, which costs a third of the throughput where marking it in one go costs milliseconds.
setFlagsFromString("--no-incremental-marking");
// Collects when the heap is half as large again as what was alive the last time; V8 would let it grow to four times that.
setFlagsFromString("--heap-growing-percent=50");

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;

const parsed = parseConfig({
  argv: process.argv.slice(2),
  env: process.env,
  hostname: hostname(),
  readFile: (path) => readFileSync(path, "utf8"),
});
switch (parsed.kind) {
  case "help":
  case "print-config":
    process.stdout.write(parsed.text);
    break;
  case "version":
    process.stdout.write(`oplogd ${VERSION}\n`);
    break;
  case "invalid":
    process.stderr.write(`oplogd: ${parsed.problems.join("\noplogd: ")}\nTry oplogd --help.\n`);
    process.exitCode = EXIT_USAGE;
    break;
  case "run":
    await run(parsed.config);
    // Everything has been closed and logged. A client that does not read would keep its connection, and so the process.
    process.exit();
}

async function run(config: Config): Promise<void> {
  const logger = createLogger({
    level: config.logLevel,
    format: config.logFormat,
    isTerminal: process.stdout.isTTY,
  });
  const stop = new AbortController();
  for (const name of ["SIGTERM", "SIGINT"] as const) {
    process.once(name, () => {
      logger.info({ event: "signal", signal: name }, `${name} received`);
      stop.abort();
    });
  }
  logger.debug({ event: "config", config: describeConfig(config) }, "effective configuration");
  try {
    const sidecar = await Sidecar.open(config, logger);
    await sidecar.run(stop.signal);
  } catch (error) {
    logger.fatal({ event: "failed", err: error }, error instanceof Error ? error.message : String(error));
    process.exitCode = EXIT_FAILED;
  }
}
