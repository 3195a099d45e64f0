import { type ChildProcess, type StdioOptions, spawn } from "node:child_process";
import { once } from "node:events";
import { openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, expect, it } from "vitest";
import { makeTempDir } from "../support/temp-dir.js";
import { waitFor, within } from "../support/wait.js";

const PROGRAM = join(import.meta.dirname, "printing-process.ts");
const directory = await makeTempDir("output");
afterAll(() => directory.remove());

const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
});

/** Resolves when it has printed its lines, which nobody has read yet. */
async function aPrintingProcess(lines: number, stdout: "pipe" | number = "pipe") {
  const file = join(directory.path, `${children.length}-${lines}.json`);
  const stdio: StdioOptions = ["ignore", stdout, "inherit", "ipc"];
  const child = spawn(process.execPath, ["--import", "tsx", PROGRAM, `${lines}`, file], { stdio });
  children.push(child);
  child.stdout?.pause();
  await within(once(child, "message"), { what: "the lines to be printed" });
  let text = "";
  const read = () => {
    child.stdout!.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
    child.stdout!.resume();
  };
  const fares = () => JSON.parse(readFileSync(file, "utf8")) as { tookMs: number; dropped: number };
  const send = async (message: "print" | "end") => {
    const answer = once(child, message === "end" ? "exit" : "message");
    child.send(message);
    return within(answer, { what: `an answer to ${message}` });
  };
  return { child, fares, read, send, text: () => text };
}

const ALL_MS_MAX = 2_000;

it("goes on while nobody reads, keeps the newest lines, and tells how many are missing", async () => {
  const { fares, read, send, text } = await aPrintingProcess(30_000);
  const { tookMs, dropped } = fares();
  expect(tookMs).toBeLessThan(ALL_MS_MAX);
  expect(dropped).toBeGreaterThan(10_000);
  read();
  await waitFor(() => text().includes("missing\n"), { what: "the reader to be told" });
  await send("end");
  const lines = text().trimEnd().split("\n");
  expect(lines).toContain(`${dropped} missing`);
  expect(lines.at(-1)).toBe("the last line");
  const numbers = lines.filter((line) => line.length === 99).map((line) => Number.parseInt(line, 10));
  expect(numbers).toHaveLength(30_000 - dropped);
  expect(numbers.at(-1)).toBe(30_000);
  expect(numbers).toEqual(numbers.toSorted((a, b) => a - b));
});

it("writes what waits before the process ends, and the process ends though nobody reads", async () => {
  const patient = await aPrintingProcess(2_000);
  patient.read();
  expect(await patient.send("end")).toEqual([7, null]);
  await waitFor(() => patient.text().endsWith("the last line\n"), { what: "the last line" });
  expect(patient.text().split("\n")).toHaveLength(2_002);

  const stuck = await aPrintingProcess(2_000);
  const startedMs = performance.now();
  expect(await stuck.send("end")).toEqual([7, null]);
  expect(performance.now() - startedMs).toBeLessThan(ALL_MS_MAX);
});

it("outlives its reader, and a disk that is full", async () => {
  const abandoned = await aPrintingProcess(10);
  abandoned.child.stdout!.destroy();
  await waitFor(
    async () => {
      await abandoned.send("print");
      return abandoned.fares().dropped > 0;
    },
    { what: "a line to be lost" },
  );
  expect(await abandoned.send("end")).toEqual([7, null]);

  const full = await aPrintingProcess(10, openSync("/dev/full", "w"));
  expect(full.fares().dropped).toBe(10);
  expect(await full.send("end")).toEqual([7, null]);
});

it("goes on while a terminal is held", async () => {
  const file = join(directory.path, "terminal.json");
  const command = `${process.execPath} --import tsx ${PROGRAM} 30000 ${file}`;
  // A terminal whose own reader, script, is not read from.
  const terminal = spawn("script", ["-qfec", command, "/dev/null"], {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, NODE_CHANNEL_FD: undefined } as never,
  });
  children.push(terminal);
  terminal.stdout.pause();
  const fares = () => JSON.parse(readFileSync(file, "utf8")) as { tookMs: number };
  const tookMs = await waitFor(
    () => {
      try {
        return fares().tookMs;
      } catch {
        return undefined;
      }
    },
    { what: "the lines to be printed" },
  );
  expect(tookMs).toBeLessThan(ALL_MS_MAX);
});
