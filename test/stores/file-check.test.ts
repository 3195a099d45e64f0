import { spawn } from "node:child_process";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { checkFile } from "../../src/stores/embedded/file-check.js";
import { FileDamagedError } from "../../src/stores/embedded/page-file.js";
import { randomOf, SEED, scaled } from "../faults/scale.js";
import { makeTempDir, type TempDir } from "../support/temp-dir.js";
import { DAMAGES, dataFile, fillStore } from "./damaged-file.js";

const EVERYTHING = { format: "1", readsEverything: true };
const STRUCTURE = { format: "1", readsEverything: false };

let temp: TempDir;
let path: string;
beforeEach(async () => {
  temp = await makeTempDir("file-check");
  path = dataFile(temp.path);
});
afterEach(() => temp.remove());

test(`finds nothing wrong with what LMDB has written, whatever was put and deleted (seed ${SEED})`, async () => {
  for (let round = 0; round < scaled(3, 20); round++) {
    await fillStore(temp.path, randomOf(SEED + round), 10 + 10 * round);
    expect(checkFile(path, EVERYTHING)?.damagedValues).toEqual([]);
    expect(checkFile(path, STRUCTURE)?.keys).toBe(checkFile(path, EVERYTHING)?.keys);
  }
});

test("counts what it has seen", async () => {
  await fillStore(temp.path, randomOf(1), 2);
  const { keys, revision, fileBytes } = checkFile(path, EVERYTHING)!;
  expect({ keys, revision, fileBytes }).toEqual({ keys: 28, revision: 3n, fileBytes: readFileSync(path).length });
});

test("tells an empty file from a damaged one", () => {
  writeFileSync(path, "");
  expect(checkFile(path, EVERYTHING)).toBeUndefined();
});

describe("refuses a file", () => {
  for (const [what, change] of Object.entries(DAMAGES).filter(([name]) => name !== "emptied")) {
    test(what, async () => {
      await fillStore(temp.path, randomOf(2));
      writeFileSync(path, change(readFileSync(path)));
      expect(() => checkFile(path, STRUCTURE)).toThrow(FileDamagedError);
    });
  }
});

test(`of ${scaled(100, 2_000)} files with one flipped bit each, a file that passes holds every key as it was, or refuses it (seed ${SEED})`, {
  timeout: scaled(60_000, 600_000),
}, async () => {
  await fillStore(temp.path, randomOf(SEED));
  const outcomes = await damageChild(temp.path, SEED, scaled(100, 2_000));
  expect(outcomes.wrong).toEqual([]);
  expect(outcomes.refused).toBeGreaterThan(0);
  expect(outcomes.valuesRefused).toBeGreaterThan(0);
});

interface Outcomes {
  readonly wrong: readonly string[];
  readonly refused: number;
  readonly valuesRefused: number;
}

/** In a process of its own: what passes is opened with LMDB, which a damaged file would end. */
async function damageChild(directory: string, seed: number, flips: number): Promise<Outcomes> {
  const scratch = await makeTempDir("flipped");
  cpSync(dataFile(directory), dataFile(scratch.path));
  const script = fileURLToPath(new URL("./damage-child.ts", import.meta.url));
  const args = ["--import", "tsx", script, scratch.path, String(seed), String(flips)];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  child.stdout.on("data", (chunk: Buffer) => {
    said += chunk;
  });
  let complained = "";
  child.stderr.on("data", (chunk: Buffer) => {
    complained += chunk;
  });
  const [exitCode, signal] = await new Promise<[number | null, string | null]>((resolve) =>
    child.once("close", (...end) => resolve(end)),
  );
  await scratch.remove();
  expect({ exitCode, signal }, `${said.slice(-200)}\n${complained}`).toEqual({ exitCode: 0, signal: null });
  return JSON.parse(said.trim().split("\n").at(-1)!);
}
