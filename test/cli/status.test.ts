import { create } from "@bufbuild/protobuf";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { statusText } from "../../src/cli/status-text.js";
import { GetStatusResponseSchema, Role } from "../../src/gen/oplog/v1/oplog_pb.js";
import { type EtcdServer, etcdBinaries, startEtcd } from "../support/etcd.js";
import { type Oplogd, startOplogd } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";
import { Oplogctl, runOplogctl } from "./oplogctl-process.js";

let etcd: EtcdServer;
let oplogd: Oplogd;

beforeAll(async () => {
  etcd = await startEtcd({ binary: (await etcdBinaries()).at(-1)! });
  oplogd = await startOplogd({ store: { etcd: etcd.endpoint } });
}, 60_000);
afterAll(async () => {
  await oplogd?.stop();
  await etcd?.stop();
});

const running: Oplogctl[] = [];
afterEach(() => {
  for (const { child } of running.splice(0)) child.kill("SIGKILL");
});

function watch(...args: string[]): Oplogctl {
  const process = new Oplogctl(oplogd.target, ["status", "--watch", "--json", ...args]);
  running.push(process);
  return process;
}

const told = ({ stdout }: Oplogctl) =>
  stdout
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line) as { sidecar: { started_at: string }; log?: { head_sequence_id: string } });

describe("status --watch", () => {
  it("goes on when the sidecar is restarted, with a word about it", async () => {
    const process = watch();
    const outcome = process.outcome();
    await process.printed(/"sidecar"/);
    await oplogd.restart();
    await waitFor(() => new Set(told(process).map(({ sidecar }) => sidecar.started_at)).size === 2, {
      what: "the sidecar that was started anew to be told of",
    });
    process.child.kill("SIGINT");
    expect(await outcome).toMatchObject({ exitCode: 130, stderr: expect.stringMatching(/; trying again in /) });
  });
});

describe("while the store is away", () => {
  it("a log that was never seen is said not to be known, and one that leads here is told", async () => {
    await runOplogctl(oplogd.target, ["append", "seen", "k", "v"]);
    expect(await runOplogctl(oplogd.target, ["status", "unseen"])).toMatchObject({ exitCode: 69 });
    etcd.pause();
    try {
      const { exitCode, stdout, stderr } = await runOplogctl(oplogd.target, ["status", "unseen", "--timeout", "15s"]);
      expect(stdout).toMatch(/^store +etcd .*NOT REACHABLE/m);
      expect(stderr).toContain('nothing is known of log "unseen" here while the store does not answer');
      expect(exitCode).toBe(78);
      const seen = await runOplogctl(oplogd.target, ["status", "seen", "--timeout", "15s"]);
      expect(seen).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(/^head +1$[\s\S]*^role +primary$/m) });
      const unseen = watch("unseen");
      await waitFor(() => unseen.stderr.includes("nothing is known of log"), { what: "the word about it" });
      expect(told(unseen)).toMatchObject([{ sidecar: {} }]);
    } finally {
      etcd.resume();
    }
  });
});

describe("the role of one that is fenced", () => {
  it("says when appends are taken again", () => {
    const status = create(GetStatusResponseSchema, { log: { role: Role.FENCED } });
    expect(statusText(status, 0)).toMatch(
      /^role +fenced: .* claimed here again, by a campaign or a token; where there has been neither, by the first append after a restart$/m,
    );
  });
});
