import { execFile } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, it } from "vitest";
import { freePort } from "../support/oplogd.js";
import { makeTempDir, type TempDir } from "../support/temp-dir.js";
import { waitFor } from "../support/wait.js";
import { cloneInto } from "./clean-clone.js";
import { ROOT } from "./source-tree.js";

const NPM_MS = 240_000;

let temp: TempDir;
let installed: string;
let packed: string[];

beforeAll(async () => {
  temp = await makeTempDir("package");
  const [clone, target] = [join(temp.path, "clone"), join(temp.path, "installed")];
  installed = target;
  cloneInto(clone);
  const { stdout } = await run("npm", ["pack", "--json"], clone);
  // What the build says comes first.
  const [tarball] = JSON.parse(stdout.slice(stdout.indexOf("[\n"))) as [
    { filename: string; files: { path: string }[] },
  ];
  packed = tarball.files.map(({ path }) => path);
  mkdirSync(target);
  writeFileSync(join(target, "package.json"), '{ "private": true }');
  const quietly = ["--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"];
  await run("npm", ["install", ...quietly, join(clone, tarball.filename)], target);
}, NPM_MS);
afterAll(() => temp?.remove());

function run(command: string, args: readonly string[], cwd: string) {
  return promisify(execFile)(command, args, { cwd, env: { ...process.env, CI: "" } });
}

const program = (name: string) => join(installed, "node_modules/.bin", name);

it("a package that is packed in a fresh clone holds the programs and the API, and nothing that is for developers", () => {
  for (const file of ["dist/main.js", "dist/cli/main.js", "proto/oplog/v1/oplog.proto", "README.md", "LICENSE"]) {
    expect(packed).toContain(file);
  }
  expect(packed.filter((file) => !/^(dist\/.*\.(js|js\.map|d\.ts)|proto\/.*\.proto|[^/]+)$/.test(file))).toEqual([]);
});

it("both programs of the installed package run, without any install script", { timeout: 60_000 }, async () => {
  const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
  expect((await run(program("oplogd"), ["--version"], installed)).stdout).toBe(`oplogd ${version}\n`);
  expect((await run(program("oplogctl"), ["--version"], installed)).stdout).toBe(`${version}\n`);

  const address = `127.0.0.1:${await freePort()}`;
  const oplogd = execFile(program("oplogd"), ["--listen", address, "--admin-listen", "off"], { cwd: installed });
  let log = "";
  oplogd.stdout!.on("data", (text: string) => {
    log += text;
  });
  try {
    await waitFor(() => log.includes("listening"), { deadlineMs: 30_000, what: "oplogd to listen" });
    const oplogctl = (...args: string[]) => run(program("oplogctl"), ["-t", address, ...args], installed);
    expect((await oplogctl("append", "orders", "a", "hello")).stdout).toBe("1\n");
    expect((await oplogctl("tail", "orders")).stdout).toContain("hello");
  } finally {
    const ended = new Promise((resolve) => oplogd.once("close", resolve));
    oplogd.kill("SIGTERM");
    await ended;
  }
});
