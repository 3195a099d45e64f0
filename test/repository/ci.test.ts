import { spawnSync } from "node:child_process";
import { accessSync, constants, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { ROOT } from "./source-tree.js";

const scratch = mkdtempSync(join(tmpdir(), "oplog-ci-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const passedFile = { status: "passed", assertionResults: [{ status: "passed" }], name: "a", message: "" };
const failedFile = { status: "failed", assertionResults: [{ status: "failed" }], name: "b", message: "" };
const brokenFile = { status: "failed", assertionResults: [], name: "c", message: "cannot load" };

function report(numPassedTests: number, numFailedTests: number, ...testResults: object[]): object {
  return { numTotalTests: numPassedTests + numFailedTests, numPassedTests, numFailedTests, testResults };
}

function summarize(content: object | undefined, status: number) {
  const file = join(scratch, "report.json");
  rmSync(file, { force: true });
  if (content !== undefined) writeFileSync(file, JSON.stringify(content));
  const result = spawnSync(process.execPath, [join(ROOT, ".ci/summarize.mjs"), file, String(status)], {
    encoding: "utf8",
  });
  return { line: result.stdout, exit: result.status };
}

describe("the summary of a run", () => {
  it.each([
    ["all passed", report(3, 0, passedFile), 0, "3 passed, 0 failed\n", 0],
    ["a test failed", report(2, 1, passedFile, failedFile), 1, "2 passed, 1 failed\n", 1],
    ["a file could not be loaded", report(2, 0, passedFile, brokenFile), 1, "2 passed, 1 failed\n", 1],
    ["all passed, yet the checks failed", report(3, 0, passedFile), 2, "3 passed, 1 failed\n", 2],
    ["a failure went unnoticed", report(2, 1, passedFile, failedFile), 0, "2 passed, 1 failed\n", 1],
    ["there were no tests", report(0, 0), 0, "0 passed, 1 failed\n", 1],
    ["the tests never ran", undefined, 1, "0 passed, 1 failed\n", 1],
    ["the tests never ran, unnoticed", undefined, 0, "0 passed, 1 failed\n", 1],
  ])("when %s", (_, content, status, line, exit) => {
    expect(summarize(content, status)).toEqual({ line, exit });
  });
});

describe("the scripts", () => {
  it.each([".ci/run", "test/support/install-tools.sh"])("%s can be run, and parses", (path) => {
    accessSync(join(ROOT, path), constants.X_OK);
    expect(spawnSync("bash", ["-n", join(ROOT, path)]).status).toBe(0);
  });

  it.each([
    ["", 0],
    ["true", 1],
  ])("with CI=%j, missing tools end the check with %i", (ci, exit) => {
    // A folder with bash, id and nothing else: every tool is missing, and nothing can be installed.
    const tools = mkdtempSync(join(scratch, "path-"));
    writeFileSync(join(tools, "id"), "#!/bin/sh\necho 1000\n", { mode: 0o755 });
    const script = join(ROOT, "test/support/install-tools.sh");
    const result = spawnSync("/bin/bash", [script], { env: { PATH: tools, CI: ci }, encoding: "utf8" });
    expect(result.stderr).toContain("missing tools");
    expect(result.stderr).toContain("etcd-server");
    expect(result.status).toBe(exit);
  });

  it("run the command that the README gives", () => {
    for (const path of ["README.md", ".ci/run"]) {
      expect(readFileSync(join(ROOT, path), "utf8"), path).toContain("npm ci --ignore-scripts && npm run check");
    }
  });
});
