import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import type { DemoReport } from "../../demo/report.js";
import { loadTrace } from "../../demo/trace.js";
import { makeTempDir } from "../support/temp-dir.js";

const ROOT = join(import.meta.dirname, "../..");

interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

function demo(...args: string[]): Promise<Ended> {
  return new Promise((resolve) => {
    const child = execFile("npx", ["tsx", "demo/main.ts", ...args], { cwd: ROOT }, (_, stdout, stderr) =>
      resolve({ code: child.exitCode ?? -1, stdout, stderr }),
    );
  });
}

describe("the demo", () => {
  it.each([
    ["embedded", "kill", []],
    ["embedded", "pause", ["--fault", "pause"]],
    ["etcd", "kill", ["--store", "etcd"]],
    ["etcd", "pause", ["--store", "etcd", "--fault", "pause"]],
  ])(
    "fails over on %s after a %s, losing and repeating nothing, and says so",
    { timeout: 120_000 },
    async (store, fault, args) => {
      const { code, stdout, stderr } = await demo("--requests", "300", "--json", ...args);
      expect(stderr).not.toContain("Error");
      const report = JSON.parse(stdout) as DemoReport;
      expect(report.store).toContain(store);
      expect(report).toMatchObject({
        fault,
        requests: 300,
        lost: 0,
        duplicated: 0,
        hashEqual: true,
        stateHashEqual: true,
      });
      expect(report.acknowledged).toBeGreaterThan(1_000);
      expect(report.terms.map(({ leader }) => leader)).toEqual(["a", "b"]);
      const { totalMs, detectionMs, fenceMs, catchUpMs, objectLeasesMs, firstAppendMs } = report.recovery!;
      expect(detectionMs).toBeGreaterThan(0);
      expect(detectionMs + fenceMs + catchUpMs + objectLeasesMs + firstAppendMs).toBeCloseTo(totalMs);
      if (fault === "pause")
        expect(report.told).toMatch(/^(expired|fenced|silent|store_unreachable|the stream has ended)/);
      expect(report.stateHashes).toHaveLength(store === "etcd" ? 2 : 1);
      for (const standby of report.standbys) {
        expect(standby).toMatchObject({ lost: 0, hash: report.expectedHash });
        expect(standby.received).toBeGreaterThanOrEqual(report.acknowledged);
        expect(standby.delivery.p99Ms).toBeGreaterThanOrEqual(standby.delivery.p50Ms);
      }
      expect(code).toBe(0);
    },
  );

  it("replays the trace it is given", { timeout: 60_000 }, async () => {
    const dir = await makeTempDir("demo");
    onTestFinished(() => dir.remove());
    const file = join(dir.path, "trace.jsonl");
    await writeFile(file, '{"hash_ids":[1,2,3]}\n{"hash_ids":[1,2,4]}\n');
    const { code, stdout } = await demo("--trace", file, "--fault", "none");
    expect(stdout).toMatch(/acknowledged +4 operations of 2 requests/);
    expect(stdout).toMatch(/hash equal +yes {2}[0-9a-f]{64}/);
    expect(code).toBe(0);
  });

  it.each([
    [["--store", "paper"], "--store paper"],
    [["--requests", "none"], "--requests none"],
    [["--fault", "fire"], "--fault fire"],
    [["--sotre", "etcd"], "--sotre"],
    [["--store", "embedded", "--etcd-endpoints", "http://127.0.0.1:1"], "--etcd-endpoints"],
  ])("ends with 2 for %j", async (args, problem) => {
    const { code, stderr } = await demo(...args);
    expect(stderr).toContain(`demo: `);
    expect(stderr).toContain(problem);
    expect(code).toBe(2);
  });

  it("has a generated trace like the real one: long-tailed requests that repeat blocks", async () => {
    const { requests } = await loadTrace(undefined, 5_000, "no such file");
    const sizes = requests.map(({ hash_ids }) => hash_ids.length).sort((a, b) => a - b);
    const references = sizes.reduce((sum, size) => sum + size, 0);
    const distinct = new Set(requests.flatMap(({ hash_ids }) => hash_ids)).size;
    expect(sizes[2_500]).toBeGreaterThan(8);
    expect(sizes[2_500]).toBeLessThan(25);
    expect(sizes.at(-1)).toBeLessThanOrEqual(247);
    expect(distinct / references).toBeGreaterThan(0.4);
    expect(distinct / references).toBeLessThan(0.8);
  });
});
