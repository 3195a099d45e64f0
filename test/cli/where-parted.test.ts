import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { connect } from "../../src/client/client.js";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { type Oplogd, startOplogd } from "../support/oplogd.js";
import { runOplogctl } from "./oplogctl-process.js";

const COMMON = 7;
let directory: string;
let master: Oplogd;
/** On a copy of the master's data from after COMMON entries. */
let copy: Oplogd;
let lostChain: string;

async function append(oplogd: Oplogd, log: string, count: number): Promise<void> {
  const client = connect(oplogd.target);
  try {
    for (let each = 0; each < count; each++)
      await client.append({ log, entries: [{ opType: OpType.PUT_END, key: `${each}` }] });
  } finally {
    client.close();
  }
}

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "where-parted-"));
  const [data, backup] = [join(directory, "data"), join(directory, "backup")];
  master = await startOplogd({ store: { dataDir: data }, args: ["--sidecar-id", "master"] });
  for (const log of ["orders", "behind", "still"]) await append(master, log, COMMON);
  const copied = await runOplogctl(master.target, ["backup", "--data-dir", data, backup]);
  expect(copied, copied.stderr).toMatchObject({ exitCode: 0 });
  copy = await startOplogd({ store: { dataDir: backup }, args: ["--sidecar-id", "copy"] });
  await append(master, "orders", 5);
  await append(master, "behind", 2);
  await append(copy, "orders", 1);
  await append(master, "another", 1);
  await append(copy, "another", 1);
  const client = connect(master.target);
  lostChain = Buffer.from((await client.describeRecord({ log: "orders", sequenceId: 8n })).chain).toString("hex");
  client.close();
}, 60_000);
afterAll(async () => {
  await Promise.all([master?.stop(), copy?.stop()]);
  if (directory !== undefined) await rm(directory, { recursive: true, force: true });
});

const whereParted = (...args: string[]) => runOplogctl(master.target, ["where-parted", ...args]);

describe("where-parted", () => {
  it("names the last entry in common, how each side goes on, and what to do", async () => {
    const { exitCode, stdout, stderr } = await whereParted("orders", "--with", copy.target);
    expect(stderr).toBe("");
    expect(exitCode).toBe(3);
    expect(stdout).toMatch(/^result +PARTED after entry 7$/m);
    expect(stdout).toMatch(
      new RegExp(
        `^here +${master.target}: 5 entries after that, 8 to 12; the first of term 1 of master, 20.*chain ${lostChain}$`,
        "m",
      ),
    );
    expect(stdout).toMatch(
      new RegExp(`^there +${copy.target}: 1 entry after that, 8 to 8; the first of term 2 of copy, `, "m"),
    );
    expect(stdout).toContain(`oplogctl --target ${copy.target} read orders --from 8`);
    expect(stdout).toContain("oplogctl adopt");
  });

  it("says so in JSON too, with few reads", async () => {
    const { stdout } = await whereParted("orders", "--with", copy.target, "--json");
    const found = JSON.parse(stdout) as { records_read: number };
    expect(found).toMatchObject({
      log: "orders",
      result: "parted",
      last_common_sequence_id: "7",
      sides: [
        { target: master.target, head_sequence_id: "12", first_other_record: { term: "1", chain: lostChain } },
        { target: copy.target, head_sequence_id: "8", first_other_record: { first_sequence_id: "8", writer: "copy" } },
      ],
    });
    expect(found.records_read).toBeLessThan(14);
  });

  it.each([
    [
      "behind",
      /up to entry 7\n(.*\n)*next +Nothing has parted\. \S+ lacks entries, and whoever follows can go on after 7\./,
    ],
    ["still", /^next +Nothing has parted\.$/m],
  ])("tells that nothing has parted: %s", async (log, text) => {
    const { exitCode, stdout } = await whereParted(log, "--with", copy.target);
    expect(stdout).toMatch(text);
    expect(exitCode).toBe(0);
  });

  it("tells that logs with one name were made apart", async () => {
    const { exitCode, stdout } = await whereParted("another", "--with", copy.target);
    expect(stdout).toMatch(/^result +OTHER LOGS/m);
    expect(exitCode).toBe(3);
  });

  it("tells whether a log has an entry that somebody has seen", async () => {
    const seen = ["--at", "8", "--chain", lostChain];
    expect(await whereParted("orders", ...seen)).toMatchObject({
      exitCode: 0,
      stdout: expect.stringMatching(/^result +the log has entry 8 as it was seen, and 4 entries after it$/m),
    });
    const base64 = Buffer.from(lostChain, "hex").toString("base64");
    const atCopy = (...args: string[]) => runOplogctl(copy.target, ["where-parted", "orders", ...args]);
    expect(await atCopy("--at", "8", "--chain", base64)).toMatchObject({
      exitCode: 3,
      stdout: expect.stringMatching(/^result +PARTED: entry 8 is another one/m),
    });
    expect(await atCopy("--at", "11", "--chain", lostChain)).toMatchObject({
      exitCode: 3,
      stdout: expect.stringMatching(/^result +NOT THERE: the log ends at 8, before entry 11$/m),
    });
  });

  it("is named, with the entry, by whoever is told that the history is another one", async () => {
    const client = connect(copy.target);
    const applied = {
      log: "orders",
      consumer: "c",
      appliedSequenceId: 8n,
      appliedChain: Buffer.from(lostChain, "hex"),
    };
    await expect(client.updateCursor(applied)).rejects.toMatchObject({
      reason: "HISTORY_DIVERGED",
      message: expect.stringContaining("oplogctl where-parted orders --with"),
    });
    client.close();
  });

  it("says which of the two sidecars cannot be asked, and what is missing", async () => {
    const away = await whereParted("orders", "--with", "127.0.0.1:1");
    expect(away).toMatchObject({
      exitCode: 78,
      stderr: expect.stringMatching(/^oplogctl: 127\.0\.0\.1:1: cannot connect/),
    });
    expect(await whereParted("nosuch", "--with", copy.target)).toMatchObject({ exitCode: 69 });
    for (const args of [[], ["--at", "3"], ["--with", copy.target, "--at", "3", "--chain", lostChain]])
      expect((await whereParted("orders", ...args)).exitCode).toBe(2);
    expect((await whereParted("orders", "--at", "3", "--chain", "xyz")).stderr).toContain("It must be 16 bytes");
  });
});
