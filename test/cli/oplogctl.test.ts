import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { connect } from "../../src/client/client.js";
import { OpLogService } from "../../src/gen/oplog/v1/oplog_pb.js";
import { answers, rpcError, ScriptedSidecar } from "../client/scripted-sidecar.js";
import { startOplogd } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";
import { Oplogctl, type Outcome, runOplogctl } from "./oplogctl-process.js";

let oplogd: Awaited<ReturnType<typeof startOplogd>>;
let logCount = 0;

beforeAll(async () => {
  oplogd = await startOplogd({});
}, 30_000);
afterAll(() => oplogd?.stop());

const oplogctl = (...args: string[]) => runOplogctl(oplogd.target, args);
const oplogctlFed = (input: string, ...args: string[]) => runOplogctl(oplogd.target, args, input);
const newLog = () => `log-${process.pid}-${++logCount}`;
const jsonLines = (text: string) =>
  text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Record<string, unknown>);

async function logWith(entries: number): Promise<string> {
  const log = newLog();
  const lines = Array.from({ length: entries }, (_, index) => `{"key":"k${index + 1}","text":"v${index + 1}"}\n`);
  expect((await oplogctlFed(lines.join(""), "append", log, "-")).exitCode).toBe(0);
  return log;
}

function expectRefused(outcome: Outcome, exitCode: number, ...says: RegExp[]): void {
  expect(outcome).toMatchObject({ exitCode, stdout: "" });
  for (const pattern of says) expect(outcome.stderr).toMatch(pattern);
}

describe("append", () => {
  it("prints the id once the entry is durable", async () => {
    const log = newLog();
    expect(await oplogctl("append", log, "user/7", "hello")).toEqual({ exitCode: 0, stdout: "1\n", stderr: "" });
    expect((await oplogctl("append", log, "user/7", "--op", "remove")).stdout).toBe("2\n");
    expect((await oplogctl("append", log, "--op", "event")).stdout).toBe("3\n");
  });

  it("answers a machine with the whole response, 64-bit numbers as strings", async () => {
    const { stdout } = await oplogctl("append", newLog(), "k", "v", "--json");
    expect(jsonLines(stdout)).toEqual([
      {
        first_sequence_id: "1",
        last_sequence_id: "1",
        term: expect.stringMatching(/^\d+$/),
        duplicate: false,
        durability: "DURABILITY_STORE",
        commit_time_ms: expect.stringMatching(/^\d{13}$/),
        standby_count: 0,
      },
    ]);
  });

  it("for standbys waits for their cursors, and says when too few had passed in time", async () => {
    const log = newLog();
    const durability = ["--durability", "standby-applied", "--durability-timeout", "100ms"];
    expect(await oplogctl("append", log, "k", "v", ...durability, "--standbys", "2")).toEqual({
      exitCode: 0,
      stdout: "1\n",
      stderr: expect.stringMatching(/durable.* 0 of 2 standbys/),
    });
    const client = connect(oplogd.target);
    // The head is 2 once the append waits; only then may the cursor follow it.
    const waiting = oplogctl(
      "append",
      log,
      "k",
      "v",
      "--durability",
      "standby-received",
      "--durability-timeout",
      "30s",
    );
    await waitFor(async () => (await client.read({ log })).entries.length === 2, { what: "the append" });
    await client.updateCursor({ log, consumer: "standby", appliedSequenceId: 2n });
    client.close();
    expect(await waiting).toEqual({ exitCode: 0, stdout: "2\n", stderr: "" });
    expectRefused(await oplogctl("append", log, "k", "v", "--standbys", "1"), 2, /--durability standby-received/);
  });

  it("takes the payload from stdin", async () => {
    const log = newLog();
    await oplogctlFed("a\0b", "append", log, "k", "--payload-file", "-");
    expect((await oplogctl("read", log)).stdout).toContain("<3 bytes> YQBi");
  });

  it("copies what read printed", async () => {
    const [from, to] = [await logWith(3), newLog()];
    const original = await oplogctl("read", from, "--json");
    expect((await oplogctlFed(original.stdout, "append", to, "-")).exitCode).toBe(0);

    const content = (text: string) => jsonLines(text).map(({ timestamp_ms: _, ...entry }) => entry);
    expect(content((await oplogctl("read", to, "--json")).stdout)).toEqual(content(original.stdout));
  });

  it("commits once, however often it is tried under the same operation", async () => {
    const log = newLog();
    const once = ["append", log, "k", "v", "--writer", "w", "--operation", "1"];
    await oplogctl(...once);
    expect(await oplogctl(...once)).toMatchObject({
      exitCode: 0,
      stdout: "1\n",
      stderr: expect.stringContaining("before"),
    });
    expect((await oplogctl("append", log, "k", "v")).stdout).toBe("2\n");
  });

  it("says what the head is when the expectation fails", async () => {
    const log = await logWith(2);
    expectRefused(await oplogctl("append", log, "k", "v", "--expect", "1"), 74, /ABORTED/, /--expect 2/);
    expect((await oplogctl("append", log, "k", "v", "--expect", "2")).stdout).toBe("3\n");
  });

  it("leaves the check of names to the sidecar, and wrong usage to itself", async () => {
    expectRefused(await oplogctl("append", "no/log", "k"), 67, /INVALID_ARGUMENT/, /log/);
    expectRefused(await oplogctl("append", newLog()), 2, /needs a KEY/);
    expectRefused(await oplogctl("append", newLog(), "k", "--op", "put"), 2, /put-end/);
    expectRefused(await oplogctlFed("nonsense\n", "append", newLog(), "-"), 2, /line 1 of stdin/);
  });
});

describe("read", () => {
  it("prints a stretch in columns, and how to go on", async () => {
    const { exitCode, stdout, stderr } = await oplogctl("read", await logWith(5), "--from", "2", "--limit", "2");
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/^ +2 +\d+ {2}\S+Z {2}put-end +k2 +v2\n +3 +\d+ {2}\S+Z {2}put-end +k3 +v3\n$/);
    expect(stderr).toMatch(/--from 4/);
  });

  it("names the logs that are like the one that does not exist", async () => {
    const log = await logWith(1);
    expectRefused(await oplogctl("read", `${log}x`), 69, /NOT_FOUND/, new RegExp(`${log}\\b`));
  });
});

describe("tail", () => {
  it("prints the last entries as tail(1) does, ten unless told, and ends", async () => {
    const log = await logWith(20);
    const keysOf = async (...args: string[]) => {
      const { exitCode, stdout } = await oplogctl("tail", log, ...args, "--json");
      expect(exitCode).toBe(0);
      return jsonLines(stdout).map((entry) => entry.key);
    };
    const keys = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => `k${from + index}`);

    expect(await keysOf()).toEqual(keys(11, 20));
    expect(await keysOf("-n", "3")).toEqual(keys(18, 20));
    expect(await keysOf("-n", "0")).toEqual([]);
    expect(await keysOf("-n", "99")).toEqual(keys(1, 20));
    expect(await keysOf("--from", "5", "--limit", "2")).toEqual(keys(5, 6));
    expect(await keysOf("--from", "begin", "--key-prefix", "k1")).toHaveLength(11);
    expect(await keysOf("--from", "begin", "--op", "event")).toEqual([]);
    expect(await keysOf("--from", "head")).toEqual([]);
    expectRefused(await oplogctl("tail", log, "-n", "3", "--from", "5"), 2, /--from.*cannot be used with.*--last/);
    expectRefused(await oplogctl("tail", log, "--from", "-3"), 2, /-n N is the last N entries/);
  });

  it("with -f prints what is appended meanwhile, and exits 130 on Ctrl-C", async () => {
    const log = await logWith(1);
    const tail = new Oplogctl(oplogd.target, ["tail", log, "-f"]);
    const outcome = tail.outcome();
    await tail.printed(/k1/);
    await oplogctl("append", log, "live", "now");
    await tail.printed(/live +now/);
    tail.child.kill("SIGINT");

    expect(await outcome).toMatchObject({ exitCode: 130, stderr: expect.stringContaining("caught up at 1") });
  });

  it("with -f waits for a log that does not exist yet", async () => {
    const log = newLog();
    const tail = new Oplogctl(oplogd.target, ["tail", log, "-f", "--limit", "1"]);
    const outcome = tail.outcome();
    await new Promise((resolve) => tail.child.stderr.once("data", resolve));
    await oplogctl("append", log, "first", "v");

    expect(await outcome).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("first") });
    expectRefused(await oplogctl("tail", newLog()), 69, /NOT_FOUND/);
  });

  it("is quiet when its reader has seen enough", async () => {
    const tail = new Oplogctl(oplogd.target, ["tail", await logWith(2_000), "--from", "begin", "-f"]);
    const outcome = tail.outcome();
    await tail.printed(/k1 /);
    tail.child.stdout.destroy();

    await oplogctl("append", `log-${process.pid}-${logCount}`, "one", "more");
    expect(await outcome).toMatchObject({ exitCode: 0, stderr: expect.not.stringMatching(/EPIPE|Error/) });
  });

  it("exits with the code of what it cannot start from", async () => {
    const log = await logWith(1);
    expectRefused(await oplogctl("tail", log, "--from", "9"), 75, /OUT_OF_RANGE/, /entry is 1/);
    expectRefused(await oplogctl("tail", log, "--from", "cursor:nobody"), 69, /NOT_FOUND/);
    expectRefused(await oplogctl("tail", log, "--from", "noon"), 2, /RFC 3339/);
  });
});

describe("status and logs", () => {
  it("show the sidecar, its store and a log", async () => {
    const log = await logWith(4);
    const { exitCode, stdout } = await oplogctl("status", log);
    expect(exitCode).toBe(0);
    for (const line of [/^sidecar +\S+/m, /^store +.*reachable/m, /^head +4$/m, /^floor +1 \(4 readable\)$/m]) {
      expect(stdout).toMatch(line);
    }
  });

  it("answer a machine with the names of the API", async () => {
    const log = await logWith(1);
    const [status] = jsonLines((await oplogctl("status", log, "--json")).stdout);
    expect(status).toMatchObject({ sidecar: { store: { reachable: true } }, log: { head_sequence_id: "1" } });
    expect(jsonLines((await oplogctl("logs", "--json")).stdout)).toContainEqual(
      expect.objectContaining({ log, head_sequence_id: "1" }),
    );
  });

  it("list logs in columns", async () => {
    const log = await logWith(3);
    expect((await oplogctl("logs")).stdout).toMatch(
      new RegExp(`^LOG +HEAD +TERM +LOG ID\n[^]*^${log} +3 +\\d+ +\\w+$`, "m"),
    );
  });

  it("watch until Ctrl-C", async () => {
    const watch = new Oplogctl(oplogd.target, ["status", "--watch", "--json"]);
    const outcome = watch.outcome();
    await watch.printed(/"sidecar"/);
    watch.child.kill("SIGINT");
    expect((await outcome).exitCode).toBe(130);
  });
});

describe("leader", () => {
  it("tells who leads, and that there is no such log", async () => {
    const log = await logWith(1);
    expect((await oplogctl("leader", log)).stdout).toMatch(
      /^\S+ at 127\.0\.0\.1:\d+, term 1, claimed by its first append\n$/,
    );
    const nearest = new RegExp(`"${log}x" does not exist[\\s\\S]*${log}\\b[^x]`);
    expectRefused(await oplogctl("leader", `${log}x`), 69, nearest);
    expectRefused(await oplogctl("leader", `${log}x`, "--json"), 69, /LOG_NOT_FOUND/);
    const [leadership] = jsonLines((await oplogctl("leader", log, "--json")).stdout);
    expect(leadership).toMatchObject({ leader: { term: "1" }, token: "0", mode: "LEADERSHIP_MODE_AUTO" });
  });
});

describe("with --json", () => {
  it.each([
    { args: ["read", "nosuch"], exit_code: 69, reason: "LOG_NOT_FOUND" },
    { args: ["append", "l", "k", "--writer", "w"], exit_code: 67, reason: "INVALID_ARGUMENT" },
    { args: ["append", "l"], exit_code: 2 },
    { args: ["append", "l", "k", "--payload-file", "/nosuch"], exit_code: 1 },
    { args: ["stauts"], exit_code: 2 },
    { args: ["tail", "l", "--from", "noon"], exit_code: 2 },
    { args: ["status", ""], exit_code: 2 },
  ])("a failure is one object on stderr: $args", async ({ args, ...error }) => {
    const outcome = await oplogctl(...args, "--json");
    expectRefused(outcome, error.exit_code);
    expect(jsonLines(outcome.stderr)).toEqual([{ error: expect.objectContaining(error) }]);
  });

  it("notes are objects too", async () => {
    const { stderr } = await oplogctl("read", await logWith(3), "--limit", "1", "--json");
    expect(jsonLines(stderr)).toEqual([{ note: expect.stringContaining("more follows") }]);
  });
});

describe("a name that was mistyped", () => {
  it.each([["resign"], ["hand-over", "b"]])("is told of %s, with those that exist", async (command, ...args) => {
    const log = await logWith(1);
    const mistyped = await oplogctl(command, `${log}x`, ...args);
    expectRefused(mistyped, 73, new RegExp(`"${log}x" does not exist`), new RegExp(`nearest.*${log}\\b[^x]`));
    expect(mistyped.stderr).not.toContain("who writes it, and");
    expect((await oplogctl(command, log, ...args)).stderr).not.toContain("does not exist");
  });
});

describe("what the sidecar refuses", () => {
  it.each([
    ["--ttl:", "campaign", "l", "--id", "a", "--ttl", "100ms"],
    ["--alive-within:", "campaign", "l", "--id", "a", "--alive-within", "100ms"],
    ["--operation:", "append", "l", "k", "--writer", "w"],
    ["--from:", "tail", "l", "--from", "cursor:a b"],
  ])("is named as it was typed: %s", async (typed, ...args) => {
    const outcome = await oplogctl(...args);
    expectRefused(outcome, 67, new RegExp(`^oplogctl: INVALID_ARGUMENT: ${typed}`));
    expect(outcome.stderr).not.toMatch(/candidate\.|from_cursor|operation_id|writer_id/);
  });

  it("and where the leader is does not steer the terminal", async () => {
    const endpoint = "a\n\u001b[31mRED b";
    const message = `"x" at ${endpoint} claimed term 1`;
    const refusal = { code: "FAILED_PRECONDITION", reason: "NOT_PRIMARY", message, metadata: { endpoint } } as const;
    const { append } = OpLogService.method;
    const sidecar = await ScriptedSidecar.start({ Append: answers(append, () => rpcError(refusal)) });
    const { exitCode, stderr } = await runOplogctl(sidecar.target, ["append", "l", "k", "--timeout", "500ms"]);
    sidecar.stop();
    expect(exitCode).toBe(73);
    expect(stderr).toMatch(/trying again/);
    expect(stderr.match(/a\\u\{a\}\\u\{1b\}\[31mRED b/g)!.length).toBeGreaterThanOrEqual(3);
    expect(stderr).not.toContain("\u001b");
  });
});

describe("the program", () => {
  it("says where it tried to connect and what to do", async () => {
    const nobody = await runOplogctl("127.0.0.1:1", ["status"]);
    expectRefused(nobody, 78, /cannot connect to 127\.0\.0\.1:1/, /oplogd --listen/, /OPLOGCTL_TARGET/);
    expectRefused(
      await runOplogctl("127.0.0.1:1", ["append", "l", "k"]),
      78,
      /^oplogctl: cannot connect to 127\.0\.0\.1:1/,
    );
  });

  it.each([
    { args: ["status"] },
    { args: ["tail", "l"] },
    { args: ["tail", "l", "--from", "begin", "-f"] },
    { args: ["campaign", "l", "--id", "a"] },
    { args: ["append", "l", "k"] },
    { args: ["leader", "l", "--watch"] },
  ])("does not wait for a sidecar that says nothing: $args", async ({ args }) => {
    const silent = createServer().listen(0, "127.0.0.1");
    await once(silent, "listening");
    const target = `127.0.0.1:${(silent.address() as AddressInfo).port}`;

    const outcome = await runOplogctl(target, [...args, "--timeout", "300ms"]);
    silent.close();

    expectRefused(outcome, 68, new RegExp(`no answer from ${target} within 300 ms`), /--timeout/);
  });

  it.each(["localhost", "127.0.0.2", "::1"])("asks at %s on the port of a sidecar", async (host) => {
    const nobody = await runOplogctl("127.0.0.1:1", ["status", "-t", host, "--timeout", "200ms"]);
    const port = expect.stringMatching(
      /^oplogctl: (cannot connect to|no answer from) (localhost|127\.0\.0\.2|\[::1\]):7450/,
    );
    // Somebody may have a sidecar there.
    expect([port, ""]).toContainEqual(nobody.stderr);
  });

  it("takes an empty OPLOGCTL_TARGET as not set, and an empty --target as a mistake", async () => {
    expect((await runOplogctl("", ["status", "--help"])).exitCode).toBe(0);
    expectRefused(await runOplogctl("", ["status", "-t", ""]), 2, /must be host:port/);
  });

  it("suggests the command and the option that were meant", async () => {
    expectRefused(await oplogctl("stauts"), 2, /Did you mean status\?/);
    expectRefused(await oplogctl("status", "--jsn"), 2, /Did you mean --json\?/);
  });

  it("documents its exit codes", async () => {
    const { exitCode, stdout } = await oplogctl("--help");
    expect(exitCode).toBe(0);
    for (const text of [
      "2        wrong usage",
      "3        the answer is no",
      "69 NOT_FOUND",
      "78 UNAVAILABLE",
      "130",
      "OPLOGCTL_TARGET",
    ])
      expect(stdout).toContain(text);
  });
});
