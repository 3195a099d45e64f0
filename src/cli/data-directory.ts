import { Command, Option } from "commander";
import { backUpDirectory, type Verified, verifyDirectory } from "../offline/data-directory.js";
import { CommandFailure, EXIT_DATA_LOSS } from "./failures.js";
import { humanBytes, keyText, shellWord } from "./render.js";
import { labelled } from "./status-text.js";

interface Options {
  readonly dataDir: string;
  readonly json?: boolean;
}

/** Commands that work on the files of an embedded store, not through an oplogd. */
export function verifyCommand(): Command {
  return new Command("verify")
    .description(
      "Read a data directory of the embedded store and say whether it is whole: every page, value and record.",
    )
    .addOption(dataDir())
    .addHelpText(
      "after",
      `
An oplogd may have it open: then what is committed by now is read, and its file may grow a little while that takes.
Reads about 400 MB/s. Exit code ${EXIT_DATA_LOSS} when something is damaged.`,
    )
    .action((_options: object, command: Command) => verify(command.optsWithGlobals<Options>()));
}

export function backupCommand(): Command {
  return new Command("backup")
    .description("Copy a data directory of the embedded store as of one moment, also while an oplogd has it open.")
    .argument("<target>", "directory to make; must not be there, or be empty")
    .addOption(dataDir())
    .addHelpText(
      "after",
      `
The copy is read and checked in full before it gets its name. To use it: oplogd --data-dir TARGET.
While it is made, the pages that the store no longer needs are kept, so that its file may grow by what is written.`,
    )
    .action((target: string, _options: object, command: Command) => backUp(target, command.optsWithGlobals<Options>()));
}

async function verify({ dataDir, json }: Options): Promise<void> {
  const startedMs = performance.now();
  const verified = await inWords(dataDir, () => verifyDirectory(dataDir));
  const { damagedValues, damagedValuesTotal } = verified;
  if (json) print(JSON.stringify(jsonOf(verified)));
  else print(textOf(damagedValuesTotal === 0 ? "whole" : "DAMAGED VALUES", verified, performance.now() - startedMs));
  if (damagedValuesTotal === 0) return;
  const more =
    damagedValuesTotal > damagedValues.length ? ` and ${damagedValuesTotal - damagedValues.length} more` : "";
  throw failure([
    `the values of these keys are damaged: ${damagedValues.join(", ")}${more}`,
    "All else can be read. What a log needs of them is refused with DATA_LOSS; a backup from before has them.",
  ]);
}

async function backUp(target: string, { dataDir, json }: Options): Promise<void> {
  const startedMs = performance.now();
  const copied = await inWords(dataDir, () => backUpDirectory(dataDir, target));
  if (json) print(JSON.stringify({ ...jsonOf(copied), target }));
  else print(textOf(`copied to ${target}, read and checked`, copied, performance.now() - startedMs));
}

async function inWords(dataDir: string, work: () => Promise<Verified>): Promise<Verified> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof Error && error.name === "FileDamagedError")) throw error;
    throw failure([
      `data directory ${dataDir} is damaged: ${error.message}`,
      "oplogd refuses to start on it. Put a backup in its place, or copy the log from a subscriber that has it.",
    ]);
  }
}

function failure(lines: string[]): CommandFailure {
  return new CommandFailure({ exitCode: EXIT_DATA_LOSS, lines: lines.map(keyText) }, undefined);
}

function textOf(
  result: string,
  { directory, isInUse, fileBytes, keys, valueBytes, revision }: Verified,
  tookMs: number,
) {
  return [
    labelled("result", result),
    labelled("directory", `${shellWord(directory)}${isInUse ? ", open in an oplogd" : ""}`),
    labelled("file", humanBytes(fileBytes)),
    labelled("keys", `${keys}, with ${humanBytes(valueBytes)} of values`),
    labelled("revision", String(revision)),
    labelled("took", `${(tookMs / 1000).toFixed(1)} s`),
  ].join("\n");
}

function jsonOf(verified: Verified) {
  const { directory, isInUse, fileBytes, keys, valueBytes, revision, damagedValues, damagedValuesTotal } = verified;
  return {
    directory,
    is_in_use: isInUse,
    file_bytes: String(fileBytes),
    keys: String(keys),
    value_bytes: String(valueBytes),
    revision: String(revision),
    damaged_values: damagedValues,
    damaged_values_total: String(damagedValuesTotal),
  };
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

function dataDir(): Option {
  return new Option("--data-dir <path>", "data directory, as oplogd is told").env("OPLOG_DATA_DIR").default("./data");
}
