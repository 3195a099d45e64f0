import { readFileSync } from "node:fs";
import { Command, Option } from "commander";
import { DEFAULT_PORT } from "../client/target.js";
import { adoptCommand } from "./adopt.js";
import { appendCommand } from "./append.js";
import { parseDurationMs, parseTarget } from "./arguments.js";
import { campaignCommand } from "./campaign.js";
import { backupCommand, verifyCommand } from "./data-directory.js";
import { deleteCursorCommand } from "./delete-cursor.js";
import { deleteLogCommand } from "./delete-log.js";
import { handOverCommand, resignCommand } from "./hand-over.js";
import { leaderCommand } from "./leader.js";
import { logsCommand } from "./logs.js";
import { readCommand } from "./read.js";
import { readinessCommand } from "./readiness.js";
import { stateCommand } from "./state.js";
import { statusCommand } from "./status.js";
import { tailCommand } from "./tail.js";
import { wherePartedCommand } from "./where-parted.js";

const DEFAULT_TARGET = `127.0.0.1:${DEFAULT_PORT}`;

const AFTER_HELP = `
Output: data goes to stdout, everything else to stderr. With --json every line of stdout is one object: the protobuf
JSON of the message, with the field names of proto/oplog/v1, 64-bit integers as strings and bytes in base64. Every line
of stderr then is one too: {"error": {"exit_code", "message", "advice", and of an answer "code", "reason", "metadata"}}
or {"note": "…"}.

Exit codes:
  0        done
  1        a failure on this side
  2        wrong usage
  3        the answer is no: readiness: cannot be promoted; state: the key is not held; campaign: leads no more;
           where-parted: not the same history
  64+code  refused or failed with this gRPC code: 67 INVALID_ARGUMENT, 68 DEADLINE_EXCEEDED, 69 NOT_FOUND,
           70 ALREADY_EXISTS, 72 RESOURCE_EXHAUSTED, 73 FAILED_PRECONDITION, 74 ABORTED, 75 OUT_OF_RANGE,
           76 UNIMPLEMENTED, 78 UNAVAILABLE, 79 DATA_LOSS, 66 UNKNOWN (an append: the outcome is not known)
  130      interrupted`;

/**
 * Usage errors are printed by commander, unless isJson, and thrown as CommanderError; everything else is thrown as it is.
 */
export function buildProgram(isJson = false): Command {
  const program = new Command("oplogctl")
    .description("Append to, follow, inspect and lead the logs of an oplogd sidecar.")
    .version(packageVersion())
    .addOption(
      new Option("-t, --target <address>", "sidecar to talk to: host:port, host or unix:///path")
        .argParser(parseTarget)
        .env("OPLOGCTL_TARGET")
        .default(DEFAULT_TARGET),
    )
    .addOption(
      new Option("--timeout <duration>", "how long an answer may take, like 500ms, 5s or 1m")
        .argParser(parseDurationMs)
        .default(5_000, "5s"),
    )
    .option("--json", "one JSON object per line instead of text")
    .configureHelp({ showGlobalOptions: true })
    .addHelpText("after", AFTER_HELP)
    .showHelpAfterError("(oplogctl --help, oplogctl <command> --help)")
    .configureOutput(isJson ? { writeErr: () => undefined } : {})
    .exitOverride();
  const commands = [
    appendCommand(),
    tailCommand(),
    readCommand(),
    statusCommand(),
    logsCommand(),
    stateCommand(),
    readinessCommand(),
    leaderCommand(),
    campaignCommand(),
    resignCommand(),
    handOverCommand(),
    verifyCommand(),
    backupCommand(),
    wherePartedCommand(),
    adoptCommand(),
    deleteCursorCommand(),
    deleteLogCommand(),
  ];
  for (const command of commands) program.addCommand(command.copyInheritedSettings(program));
  return program;
}

function packageVersion(): string {
  const manifest = new URL("../../package.json", import.meta.url);
  return (JSON.parse(readFileSync(manifest, "utf8")) as { version: string }).version;
}
