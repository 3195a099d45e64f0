import { execFileSync } from "node:child_process";
import { closeSync, constants, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { aCandidateAt } from "../faults/campaign-call.js";
import { aClientOf, anEtcd, anOplogd, atEnd, failureOf, put } from "../faults/stage.js";
import type { Oplogd, OplogdOptions } from "../support/oplogd.js";
import { makeTempDir } from "../support/temp-dir.js";
import { waitFor, within } from "../support/wait.js";

const LOG = "steady";
const TTL_SECONDS = 20n;
/** Far below the TTL. */
const AT_ONCE_MS = 5_000;
const PROBE = join(import.meta.dirname, "probe.mjs");

const lines = (oplogd: Oplogd) =>
  oplogd.log
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as Record<string, unknown>);

async function aFile(content: string) {
  const directory = await makeTempDir("process");
  atEnd(() => directory.remove());
  const path = join(directory.path, "file");
  writeFileSync(path, content);
  return { path, write: (text: string) => writeFileSync(path, text) };
}

describe("whoever reads its log", () => {
  it("can stop to read: calls are answered, and the process ends in order", { timeout: 60_000 }, async () => {
    const oplogd = await anOplogd({ stdout: await aFullPipe(), isReady: "answers", args: ["--log-level", "debug"] });
    await aClientOf(oplogd).append({ log: LOG, entries: [put("still there")] });
    await within(oplogd.kill("SIGTERM"), { deadlineMs: AT_ONCE_MS, what: "the process to end" });
    expect(oplogd.exitCode).toBe(0);
  });

  it("gets the last lines", async () => {
    const oplogd = await anOplogd({});
    await oplogd.kill("SIGTERM");
    expect(lines(oplogd).at(-1)).toMatchObject({ event: "stopped" });
    for (const line of lines(oplogd)) expect(line.sidecar).toBeTypeOf("string");
  });
});

describe("signals", () => {
  it.each([2, 20])("a second SIGTERM after %s ms does not keep a leader from handing on", async (afterMs) => {
    const etcd = await anEtcd();
    const store = { etcd: etcd.endpoint };
    const [leading, next] = await Promise.all([anOplogd({ store }), anOplogd({ store })]);
    const master = aCandidateAt(leading, { log: LOG, id: "master", ttl: { seconds: TTL_SECONDS, nanos: 0 } });
    await master.hears("leaseRenewed");
    const standby = aCandidateAt(next, { log: LOG, id: "standby", ttl: { seconds: TTL_SECONDS, nanos: 0 } });
    await standby.hears("waiting");
    const exit = leading.kill("SIGTERM");
    await new Promise((resolve) => setTimeout(resolve, afterMs));
    process.kill(leading.pid, "SIGTERM");
    await standby.hears("leaseRenewed", AT_ONCE_MS);
    await within(exit, { what: "the sidecar to end" });
    expect(leading.exitCode, leading.log).toBe(0);
  });

  it("the second request hurries, and still resigns", { timeout: 60_000 }, async () => {
    const etcd = await anEtcd();
    const store = { etcd: etcd.endpoint };
    const hurried = await busyOplogd({ store });
    const next = await anOplogd({ store });
    const master = aCandidateAt(hurried, { log: LOG, id: "master", ttl: { seconds: TTL_SECONDS, nanos: 0 } });
    await master.hears("leaseRenewed");
    const standby = aCandidateAt(next, { log: LOG, id: "standby" });
    await standby.hears("waiting");
    const startedMs = performance.now();
    const exit = hurried.kill("SIGTERM");
    await told(hurried, "means stop");
    await elsewhere();
    process.kill(hurried.pid, "SIGINT");
    await standby.hears("leaseRenewed", AT_ONCE_MS);
    await within(exit, { what: "the process to end" });
    expect(performance.now() - startedMs).toBeLessThan(2 * AT_ONCE_MS);
    expect(hurried.exitCode, hurried.log).toBe(0);
  });

  it("the third ends the process", { timeout: 60_000 }, async () => {
    const killed = await busyOplogd();
    const killedExit = killed.kill("SIGTERM");
    await told(killed, "means stop");
    await elsewhere();
    process.kill(killed.pid, "SIGTERM");
    await told(killed, "means hurry");
    await elsewhere();
    process.kill(killed.pid, "SIGTERM");
    await within(killedExit, { what: "the process to end" });
    expect(killed.exitCode, killed.log).toBe(128 + 15);
  });

  it("SIGQUIT stops in order, SIGUSR1 and SIGUSR2 do nothing", async () => {
    const oplogd = await anOplogd({});
    for (const signal of ["SIGUSR1", "SIGUSR2"] as const) {
      await oplogd.kill(signal);
      await told(oplogd, `${signal} received: it means nothing here`);
    }
    expect(oplogd.log).not.toContain("Debugger listening");
    await aClientOf(oplogd).append({ log: LOG, entries: [put("alive")] });
    await within(oplogd.kill("SIGQUIT"), { what: "the signal" });
    await waitFor(() => oplogd.hasExited, { what: "the process to end" });
    expect(oplogd.exitCode).toBe(0);
    expect(lines(oplogd).at(-1)).toMatchObject({ event: "stopped" });
  });

  it("SIGHUP takes over the level of the log, and names what needs a restart", async () => {
    const file = await aFile("log:\n  level: warn\n");
    const oplogd = await anOplogd({ args: ["--config", file.path], isReady: "answers" });
    expect(oplogd.log).toBe("");
    file.write("log:\n  level: debug\nlogs-max: 7\n");
    await oplogd.kill("SIGHUP");
    await told(oplogd, "taken over: log.level; needs a restart: logs-max");
    file.write("log:\n  level: loud\n");
    await oplogd.kill("SIGHUP");
    await told(oplogd, "the configuration stays as it is: ");
    await oplogd.kill("SIGTERM");
    expect(lines(oplogd).at(-1)).toMatchObject({ event: "stopped" });
  });

  it("SIGHUP logs in to etcd with the password that the file holds now", { timeout: 60_000 }, async () => {
    const etcd = await anEtcd();
    await etcd.ask("/v3/auth/user/add", { name: "root", password: "first" });
    await etcd.ask("/v3/auth/user/grant", { user: "root", role: "root" });
    await etcd.ask("/v3/auth/enable", {});
    const file = await aFile("wrong\n");
    const args = ["--etcd-username", "root", "--etcd-password-file", file.path];
    const oplogd = await anOplogd({ store: { etcd: etcd.endpoint }, args });
    const client = aClientOf(oplogd);
    const append = () => client.append({ log: LOG, entries: [put("x")] });
    expect((await failureOf(append())).message).toMatch(/password|reached|store/);
    file.write("first\n");
    await oplogd.kill("SIGHUP");
    await told(oplogd, "taken over: nothing new");
    await append();
  });
});

describe("a defect", () => {
  it.each([
    ["reject", "unhandled_rejection", "a defect for the test"],
    ["not an error", "unhandled_rejection", "just text"],
    ["timer", "uncaught_exception", "a defect for the test"],
    ["event", "uncaught_exception", "a defect for the test"],
  ])("that nobody handles (%s) ends the process with its reason in the log", async (kind, event, reason) => {
    const oplogd = await anOplogd({ nodeArgs: ["--import", PROBE], env: { PROBE: kind } });
    await oplogd.kill("SIGUSR2");
    await waitFor(() => oplogd.hasExited, { what: "the process to end" });
    expect(oplogd.exitCode).toBe(1);
    const last = lines(oplogd).at(-1)!;
    expect(last).toMatchObject({ level: "fatal", event });
    expect(last.msg).toContain(reason);
  });

  // Within a transaction a thread of LMDB waits for the one that ends the process, which waits for that thread.
  it("ends the process also in the middle of writing to the embedded store", { timeout: 60_000 }, async () => {
    for (let round = 0; round < 5; round++) {
      const oplogd = await anOplogd({ nodeArgs: ["--import", PROBE], env: { PROBE: "timer" } });
      const client = aClientOf(oplogd);
      let acknowledged = 0;
      const write = async () => {
        for (;;) {
          await client.append({ log: LOG, entries: [put("x")] });
          acknowledged++;
        }
      };
      const writers = Promise.allSettled(Array.from({ length: 8 }, write));
      await waitFor(() => acknowledged > 50, { what: "appends" });
      await oplogd.kill("SIGUSR2");
      await waitFor(() => oplogd.hasExited, { what: "the process to end" });
      expect(oplogd.exitCode).toBe(1);
      await writers;
    }
  });
});

/** Its reader has stopped, and nothing more goes in. */
async function aFullPipe(): Promise<number> {
  const { path } = await aFile("");
  const pipe = `${path}.pipe`;
  execFileSync("mkfifo", [pipe]);
  const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
  const filler = openSync(pipe, constants.O_WRONLY | constants.O_NONBLOCK);
  const writer = openSync(pipe, constants.O_WRONLY);
  atEnd(() => {
    for (const each of [reader, filler, writer]) closeSync(each);
  });
  for (const bytes of [4096, 1]) {
    try {
      for (;;) writeSync(filler, Buffer.alloc(bytes, "\n"));
    } catch (error) {
      expect(error).toMatchObject({ code: "EAGAIN" });
    }
  }
  return writer;
}

/** With a subscriber that does not read, which holds up a stop until its deadline. */
async function busyOplogd(options: OplogdOptions = {}): Promise<Oplogd> {
  const oplogd = await anOplogd({ ...options, args: ["--shutdown-deadline", "30s"] });
  const client = aClientOf(oplogd);
  const appender = client.appender({ inFlightMax: 8 });
  const padding = "x".repeat(64 * 1024);
  for (let index = 0; index < 400; index++) {
    await appender.ready();
    void appender.append({ log: "busy", entries: [put(`${index}`, padding)] });
  }
  await appender.end();
  const frames = client.subscribe({ log: "busy", start: { case: "fromSequenceId", value: 1n } });
  await frames.next();
  return oplogd;
}

const told = (oplogd: Oplogd, text: string) => waitFor(() => oplogd.log.includes(text), { what: text });

/** Until signals are no longer taken for one request. */
const elsewhere = () => new Promise((resolve) => setTimeout(resolve, 120));
