import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { connect } from "../../src/client/client.js";
import { type EtcdServer, etcdBinaries, startEtcd } from "../support/etcd.js";
import { type Oplogd, startOplogd } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";
import { Oplogctl, runOplogctl } from "./oplogctl-process.js";

/** Two sidecars of one store; the second one is never the first to claim anything. */
let etcd: EtcdServer;
let here: Oplogd;
let there: Oplogd;
let logCount = 0;
/** Kept in view by both. */
const VIEWED = "viewed";
const VIEWED_BY_TOKEN = "viewed-by-token";

beforeAll(async () => {
  etcd = await startEtcd({ binary: (await etcdBinaries()).at(-1)! });
  const options = { store: { etcd: etcd.endpoint }, args: ["--views", `${VIEWED},${VIEWED_BY_TOKEN}`] };
  [here, there] = await Promise.all([startOplogd(options), startOplogd(options)]);
}, 60_000);
afterAll(async () => {
  await Promise.all([here?.stop(), there?.stop()]);
  await etcd?.stop();
});

const running: Oplogctl[] = [];
afterEach(() => {
  for (const { child } of running.splice(0)) child.kill("SIGKILL");
});

const newLog = () => `led-${process.pid}-${++logCount}`;
const at = (oplogd: Oplogd, ...args: string[]) => runOplogctl(oplogd.target, args);

function candidate(oplogd: Oplogd, log: string, id: string, ...args: string[]): Oplogctl {
  const process = new Oplogctl(oplogd.target, ["campaign", log, "--id", id, ...args]);
  running.push(process);
  return process;
}

async function leading(oplogd: Oplogd, log: string, id: string, ...args: string[]): Promise<Oplogctl> {
  const process = candidate(oplogd, log, id, ...args);
  await process.printed(/^leading/m);
  return process;
}

async function waiting(oplogd: Oplogd, log: string, id: string): Promise<Oplogctl> {
  const process = candidate(oplogd, log, id);
  await process.printed(/^waiting/m);
  return process;
}

describe("campaign", () => {
  it("prints each message, and resigns on Ctrl-C", async () => {
    const log = newLog();
    const a = await leading(here, log, "a");
    const b = await waiting(there, log, "b");
    const outcome = a.outcome();
    a.child.kill("SIGINT");

    expect((await outcome).exitCode).toBe(130);
    expect(a.stdout).toMatch(
      /^prepare: .*term 1, everything up to entry 0 .*\nleading: term 1, the next entry is 1\b/m,
    );
    expect(a.stdout).toMatch(/^lease renewed: nobody else leads for [\d.]+ s$/m);
    await b.printed(/^leading: term 2/m);
  });

  it("prints objects for a machine", async () => {
    const a = candidate(here, newLog(), "a", "--json", "--no-handshake", "--ttl", "2s");
    await a.printed(/lease_renewed/);
    const [first, second] = a.stdout.split("\n").map((line) => (line === "" ? {} : JSON.parse(line)));
    expect(first).toMatchObject({ prepare: { term: "1", final_sequence_id: "0" } });
    expect(second).toMatchObject({ leading: { term: "1", next_sequence_id: "1" } });
  });

  it("exits 3 when it leads no more, and says why", async () => {
    const log = newLog();
    const a = await leading(here, log, "a");
    const outcome = a.outcome();
    expect(await at(there, "resign", log)).toEqual({
      exitCode: 0,
      stdout: "a leads no more: term 1 has ended with entry 0\n",
      stderr: expect.stringContaining(`the leader is a at ${here.target}, term 1; going there`),
    });
    expect(await outcome).toMatchObject({ exitCode: 3, stdout: expect.stringMatching(/^lost: resigned/m) });
    expect(await at(here, "resign", log)).toMatchObject({
      exitCode: 73,
      stderr: expect.stringMatching(/nobody leads/),
    });
  });

  it("loses the leadership when the process is stopped and had promised signs of life", async () => {
    const log = newLog();
    const a = await leading(here, log, "a", "--alive-within", "500ms", "--ttl", "1s");
    const b = await waiting(there, log, "b");
    const outcome = a.outcome();
    a.child.kill("SIGSTOP");
    await b.printed(/^leading: term 2/m);
    a.child.kill("SIGCONT");
    expect(await outcome).toMatchObject({ exitCode: 3, stdout: expect.stringMatching(/^lost: silent/m) });
  });

  it("refuses a name that is taken", async () => {
    const log = newLog();
    await leading(here, log, "a");
    expect(await at(here, "campaign", log, "--id", "a")).toMatchObject({
      exitCode: 70,
      stderr: expect.stringMatching(/ALREADY_EXISTS[\s\S]*--id/),
    });
  });

  it("refuses a name that is taken at another sidecar, whose candidate stays listed", async () => {
    const log = newLog();
    await leading(here, log, "a");
    candidate(here, log, "w", "--ttl", "2s");
    const listed = async () => (await at(there, "leader", log)).stdout.match(/^ {2}w .*$/gm) ?? [];
    await waitFor(async () => (await listed()).length === 1, { what: "it to be listed" });
    expect(await at(there, "campaign", log, "--id", "w")).toMatchObject({
      exitCode: 70,
      stdout: expect.stringMatching(/^waiting: the leader is a at .*\n$/),
      stderr: expect.stringContaining(`"w" is campaigning for log "${log}" with endpoint ${here.target} already`),
    });
    expect(await listed()).toEqual([expect.stringContaining(here.target)]);
    expect(await at(there, "hand-over", log, "w")).toMatchObject({ exitCode: 0 });
  });
});

describe("hand-over", () => {
  it("passes the leadership on, from whichever sidecar it is asked for", async () => {
    const log = newLog();
    await leading(here, log, "a");
    await waiting(there, log, "b");
    await at(here, "append", log, "k", "v");

    const { exitCode, stdout, stderr } = await at(there, "hand-over", log, "b");
    expect(stderr).toContain(`the leader is a at ${here.target}`);
    expect(stdout).toMatch(/^b leads, term 2; that of a has ended with entry 1; appends were held back for \d+ ms\n$/);
    expect(exitCode).toBe(0);
    expect((await at(here, "leader", log)).stdout).toMatch(new RegExp(`^b at ${there.target}, term 2, elected`));
  });

  it("says who waits when the name is not among them, and that an unelected log has nobody", async () => {
    const log = newLog();
    await leading(here, log, "a");
    expect(await at(here, "hand-over", log, "nobody")).toMatchObject({
      exitCode: 69,
      stderr: expect.stringContaining(`oplogctl leader ${log}`),
    });
    const unelected = newLog();
    await at(here, "append", unelected, "k");
    for (const args of [
      ["hand-over", unelected, "b"],
      ["resign", unelected],
    ]) {
      expect(await at(here, ...args)).toMatchObject({ exitCode: 73, stderr: expect.stringContaining("not elected") });
    }
  });
});

describe("leader", () => {
  it("shows the lease and who stands", async () => {
    const log = newLog();
    const a = await leading(here, log, "a");
    await waiting(there, log, "b");
    expect((await at(there, "status", log)).stdout).toMatch(
      /^leader +a at \S+, term 1, lease ends in .+ unless renewed$/m,
    );
    const { stdout } = await at(there, "leader", log);
    expect(stdout).toMatch(/^a at \S+, term 1, elected, lease ends in [\d.]+ m?s unless renewed\n/);
    expect(stdout).toMatch(/^ {2}a +\S+ +leads\n {2}b +\S+ +waits$/m);
    // The one that waits goes first: it must not come to lead.
    for (const each of [...running].reverse()) {
      each.child.kill("SIGKILL");
      const row = each === a ? /leads$/m : /waits$/m;
      await waitFor(async () => !row.test((await at(there, "leader", log)).stdout), { what: "it to be gone" });
    }
    await waitFor(async () => /^vacant: /.test((await at(there, "leader", log)).stdout), {
      deadlineMs: 30_000,
      what: "the log to be vacant",
    });
    expect((await at(there, "status", log)).stdout).toMatch(/^leader +NOBODY; the last one was a at \S+, term 1$/m);
    expect((await at(there, "leader", log)).stdout).toMatch(/^candidates {2}none$/m);
    expect(a.stdout).not.toContain("lost");
  });
});

describe("append", () => {
  it("follows to the leader, and stays where it is when told so", async () => {
    const log = newLog();
    await leading(here, log, "a");
    expect(await at(there, "append", log, "k", "v")).toEqual({
      exitCode: 0,
      stdout: "1\n",
      stderr: expect.stringContaining(
        `${there.target} does not lead; "a" at ${here.target} claimed term 1, going there`,
      ),
    });
    expect(await at(there, "append", log, "k", "v", "--no-follow")).toMatchObject({
      exitCode: 73,
      stderr: expect.stringContaining(`--target ${here.target}`),
    });
  });

  it("waits while nobody leads, until somebody does", async () => {
    const log = newLog();
    const a = await leading(here, log, "a");
    a.child.kill("SIGINT");
    await a.outcome();
    const append = new Oplogctl(there.target, ["append", log, "k", "v", "--timeout", "15s"]);
    running.push(append);
    const outcome = append.outcome();
    await waitFor(() => append.stderr.includes("trying again"), { what: "the append to wait" });
    await leading(here, log, "b");
    expect(await outcome).toMatchObject({ exitCode: 0, stdout: "1\n" });
  });
});

describe("readiness and state", () => {
  it("tell the verdict by the exit code, and what the log adds up to", async () => {
    const a = await leading(here, VIEWED, "a");
    await at(here, "append", VIEWED, "user/7", "hello");

    await waitFor(async () => (await at(there, "readiness", VIEWED)).exitCode === 0, {
      what: "the standby to be ready",
    });
    const standby = await at(there, "readiness", VIEWED);
    expect(standby.stdout).toMatch(
      /^verdict +standing by[\s\S]*^applied +1$[\s\S]*^head +1$[\s\S]*^in the way +.*"a"/m,
    );
    expect(await at(here, "readiness", VIEWED)).toMatchObject({
      exitCode: 0,
      stdout: expect.stringMatching(/^verdict +leading: a candidate at this sidecar leads$/m),
    });
    expect((await at(there, "status", VIEWED)).stdout).toMatch(
      /^view +(following|catching up) for .+, applied 1, 1 keys$/m,
    );
    expect((await at(here, "status", VIEWED)).stdout).toMatch(/^view +promoted for .+, applied 1, 1 keys$/m);
    const json = await at(there, "readiness", VIEWED, "--json");
    expect(JSON.parse(json.stdout)).toMatchObject({
      verdict: "PROMOTION_VERDICT_STANDING_BY",
      applied_sequence_id: "1",
    });

    const [mine, theirs] = await Promise.all([at(here, "state", VIEWED), at(there, "state", VIEWED)]);
    const hash = /^hash +([0-9a-f]{64})$/m;
    expect(hash.exec(mine.stdout)![1]).toBe(hash.exec(theirs.stdout)![1]);
    expect(mine.stdout).toMatch(/^applied +1$[\s\S]*^keys +1 /m);
    expect((await at(there, "state", VIEWED, "user/7")).stdout).toMatch(/^sequence +1,[\s\S]*^payload +hello$/m);
    expect(await at(there, "state", VIEWED, "user/8")).toEqual({
      exitCode: 3,
      stdout: "",
      stderr: 'oplogctl: key "user/8" is not held at entry 1\n',
    });

    a.child.kill("SIGINT");
    await waitFor(async () => (await at(there, "readiness", VIEWED)).stdout.includes("promotable:"), {
      what: "the standby to be promotable",
    });
  });

  it("tell that nobody can be elected once the log is claimed by token, whatever has been applied", async () => {
    const log = VIEWED_BY_TOKEN;
    await at(here, "append", log, "k", "v");
    // Claimed by an append, whose sidecar a candidate would fence.
    await waitFor(async () => (await at(there, "readiness", log)).exitCode === 0, { what: "the standby to be ready" });
    expect((await at(there, "readiness", log)).stdout).toMatch(
      /^verdict +promotable: a candidate .* would lead at once$/m,
    );

    const client = connect(here.target);
    await client.claimTerm({ log, token: 7n, claimant: "keeper" });
    client.close();
    const { exitCode, stdout } = await at(there, "readiness", log);
    expect(exitCode).toBe(3);
    expect(stdout).toMatch(
      /^verdict +NOT promotable\n[\s\S]*^applied +1$[\s\S]*^in the way +.*tokens, the last one 7 of "keeper"/m,
    );
    expect(JSON.parse((await at(there, "readiness", log, "--json")).stdout)).toMatchObject({
      verdict: "PROMOTION_VERDICT_NOT_PROMOTABLE",
      blockers: [{ kind: "PROMOTION_BLOCKER_KIND_LEADERSHIP_BY_TOKEN", holder: "keeper" }],
    });
    expect(await at(there, "campaign", log, "--id", "a")).toMatchObject({ exitCode: 73 });
  });

  it("say how to get a view where there is none", async () => {
    for (const command of ["readiness", "state"]) {
      expect(await at(here, command, newLog())).toMatchObject({
        exitCode: 73,
        stderr: expect.stringContaining("--views"),
      });
    }
  });
});
