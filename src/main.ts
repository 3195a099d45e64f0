#!/usr/bin/env node
import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import { isatty } from "node:tty";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { type Config, describeConfig, parseConfig } from "./config/config.js";
import { endOnDefects } from "./process/defects.js";
import { Exit } from "./process/exit.js";
import { reload } from "./process/reload.js";
import { takeSignals } from "./process/signals.js";
import { Sidecar } from "./sidecar.js";
import { endTransactions } from "./stores/embedded/transactions.js";
import { childLogger, createLogger } from "./telemetry/logger.js";
import { Output } from "./telemetry/output.js";
import { logStrayLines } from "./telemetry/stray-lines.js";
import { VERSION } from "./telemetry/version.js";

// Flags that change while V8 marks in other threads end the process now and then, with an error of V8. After a whole
// collection nothing is being marked.
setFlagsFromString("--expose-gc");
runInNewContext("gc")();
// The heap is small; what comes and goes are buffers outside of it. V8 answers their pressure by marking the heap step by
// step, time and again, which costs a third of the throughput where marking it in one go costs milliseconds.
setFlagsFromString("--no-incremental-marking");
// Collects when the heap is half as large again as what was alive the last time; V8 would let it grow to four times that.
setFlagsFromString("--heap-growing-percent=50");

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
/** For the last lines, if their reader does not take them. */
const LAST_LINES_MS = 500;

const readConfig = () =>
  parseConfig({
    argv: process.argv.slice(2),
    env: process.env,
    hostname: hostname(),
    readFile: (path) => readFileSync(path, "utf8"),
  });

const parsed = readConfig();
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
}

async function run(config: Config): Promise<void> {
  const output = new Output(1);
  const logger = createLogger({
    level: config.logLevel,
    format: config.logFormat,
    isTerminal: isatty(1),
    sidecarId: config.sidecarId,
    destination: output,
  });
  output.onFlowing = (lines) =>
    logger.warn({ event: "lines_dropped", lines }, `${lines} lines are missing before this`);
  const flush = () => output.flush(LAST_LINES_MS);
  process.on("exit", flush);
  const exit = new Exit({ settle: endTransactions, flush });
  endOnDefects(logger, exit);
  logStrayLines(childLogger(logger, "process"));
  let sidecar: Sidecar | undefined;
  let running = config;
  const { stop, hurry } = takeSignals(logger, exit, [0, 1, 2].some(isatty), () => {
    running = reload(logger, running, readConfig);
    sidecar?.reload();
  });
  logger.debug({ event: "config", config: describeConfig(config) }, "effective configuration");
  try {
    sidecar = await Sidecar.open(config, logger, output);
    await sidecar.run(stop, hurry);
    // Everything has been closed. A client that does not read would keep its connection, and so the process.
    exit.now(0);
  } catch (error) {
    logger.fatal({ event: "failed", err: error }, error instanceof Error ? error.message : String(error));
    exit.now(EXIT_FAILED);
  }
}
