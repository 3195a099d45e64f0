import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import { aClientOf, anOplogd, atEnd, put } from "../faults/stage.js";
import { dataFile } from "../stores/damaged-file.js";
import type { Oplogd } from "../support/oplogd.js";
import { makeTempDir } from "../support/temp-dir.js";
import { waitFor } from "../support/wait.js";
import { runOplogctl } from "./oplogctl-process.js";

const LOG = "orders";
const TEXT = "a payload that can be found in the file";
const EXIT_DATA_LOSS = 79;

async function aTarget(): Promise<string> {
  const temp = await makeTempDir("backup");
  atEnd(() => temp.remove());
  return join(temp.path, "copy");
}

const oplogctl = (...args: string[]) => runOplogctl("127.0.0.1:1", args);
const verify = (dataDir: string, ...args: string[]) => oplogctl("verify", "--data-dir", dataDir, ...args);
const backUp = (dataDir: string, target: string) => oplogctl("backup", "--data-dir", dataDir, target);

function append(client: OplogClient, text: string): Promise<unknown> {
  return client.append({ log: LOG, entries: [put(text, TEXT)] });
}

/** An oplogd with entries, which has ended. */
async function aClosedDirectory(): Promise<string> {
  const oplogd = await anOplogd({ args: ["--append-compression", "none"] });
  const client = aClientOf(oplogd);
  for (let id = 1; id <= 20; id++) await append(client, `entry ${id}`);
  await oplogd.kill("SIGTERM");
  return oplogd.dataDir;
}

async function payloads(oplogd: Oplogd): Promise<string[]> {
  const { entries } = await aClientOf(oplogd).read({ log: LOG, fromSequenceId: 1n, maxEntries: 10_000 });
  expect(entries.map(({ sequenceId }) => sequenceId)).toEqual(entries.map((_, index) => BigInt(index + 1)));
  return entries.map(({ key }) => key);
}

test("verify says of a sound directory that it is whole, and what is in it", { timeout: 60_000 }, async () => {
  const directory = await aClosedDirectory();
  const { exitCode, stdout, stderr } = await verify(directory);
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
  expect(stdout).toMatch(/^result +whole\n/);
  expect(stdout).toContain(directory);
  const json = JSON.parse((await verify(directory, "--json")).stdout);
  expect(json).toMatchObject({ directory, is_in_use: false, damaged_values: [], damaged_values_total: "0" });
  expect(Number(json.keys)).toBeGreaterThan(20);
});

test("verify finds a damaged page, and exits with DATA_LOSS", { timeout: 60_000 }, async () => {
  const directory = await aClosedDirectory();
  writeFileSync(dataFile(directory), readFileSync(dataFile(directory)).fill(0, 0, 4096));
  const { exitCode, stderr } = await verify(directory);
  expect(exitCode).toBe(EXIT_DATA_LOSS);
  expect(stderr).toContain(`data directory ${directory} is damaged: page 0 is no meta page`);
  expect(stderr).toContain("Put a backup in its place");
});

test("verify names the records that are damaged", { timeout: 60_000 }, async () => {
  const directory = await aClosedDirectory();
  const file = readFileSync(dataFile(directory)).toString("latin1");
  // Also where it lies in pages that are not in use any more.
  writeFileSync(dataFile(directory), Buffer.from(file.replaceAll(`entry 7${TEXT}`, `ENTRY 7${TEXT}`), "latin1"));
  const { exitCode, stdout, stderr } = await verify(directory);
  expect(exitCode).toBe(EXIT_DATA_LOSS);
  expect(stdout).toContain("DAMAGED VALUES");
  expect(stderr).toContain("/oplog/orders/records/00000000000000000007");
});

test("verify and backup say what is wrong with a directory that is none", async () => {
  const target = await aTarget();
  for (const run of [() => verify("/nonexistent"), () => backUp("/nonexistent", target)]) {
    const { exitCode, stderr } = await run();
    expect(exitCode).not.toBe(0);
    expect(stderr).toContain("/nonexistent is no directory");
  }
});

test("backup refuses a target that is not empty, and leaves nothing of a copy that is not whole", {
  timeout: 90_000,
}, async () => {
  const directory = await aClosedDirectory();
  const target = await aTarget();
  mkdirSync(target);
  writeFileSync(join(target, "precious"), "");
  const refused = await backUp(directory, target);
  expect(refused.exitCode).not.toBe(0);
  expect(refused.stderr).toContain(`${target} is not empty`);
  expect(readdirSync(target)).toEqual(["precious"]);

  const sound = readFileSync(dataFile(directory));
  writeFileSync(dataFile(directory), sound.fill(0, 2 * 4096, sound.length));
  const other = `${target}-other`;
  expect((await backUp(directory, other)).exitCode).toBe(EXIT_DATA_LOSS);
  expect(readdirSync(join(target, ".."))).toEqual(["copy"]);
});

test("a copy made under load holds all that had been acknowledged, whole, and an oplogd runs on it", {
  timeout: 120_000,
}, async () => {
  const oplogd = await anOplogd({});
  let acknowledged = 0;
  let isOver = false;
  const appending = Array.from({ length: 4 }, async (_, writer) => {
    const client = aClientOf(oplogd);
    for (let count = 0; !isOver; count++) {
      await append(client, `${writer} ${count}`);
      acknowledged++;
    }
  });
  for (let copy = 0; copy < 3; copy++) {
    const enough = acknowledged + 100;
    await waitFor(() => acknowledged >= enough, { deadlineMs: 30_000, what: "appends" });
    expect(JSON.parse((await verify(oplogd.dataDir, "--json")).stdout)).toMatchObject({ is_in_use: true });
    const before = acknowledged;
    const target = await aTarget();
    const { exitCode, stdout, stderr } = await backUp(oplogd.dataDir, target);
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
    expect(stdout).toContain("open in an oplogd");
    const restored = await anOplogd({ store: { dataDir: target } });
    const seen = await payloads(restored);
    expect(seen.length).toBeGreaterThanOrEqual(Math.min(before, 10_000));
    expect(new Set(seen).size).toBe(seen.length);
    await append(aClientOf(restored), "after the restore");
    await restored.kill("SIGTERM");
    expect(restored.exitCode, restored.log).toBe(0);
    expect(existsSync(`${target}.partial`)).toBe(false);
  }
  isOver = true;
  await Promise.all(appending);
});
