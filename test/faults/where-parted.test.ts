import { rm } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import { runOplogctl } from "../cli/oplogctl-process.js";
import { type EtcdServer, etcdBinaries, startEtcd } from "../support/etcd.js";
import { makeTempDir } from "../support/temp-dir.js";
import { waitFor } from "../support/wait.js";
import { aClientOf, anOplogd, atEnd, failureOf, put } from "./stage.js";

const LOG = "orders";

/** That of the system, whose etcdctl restores backups too. */
async function anEtcdWithTool(): Promise<EtcdServer> {
  const binary = (await etcdBinaries()).find(({ version }) => version.startsWith("3.4"))!;
  const etcd = await startEtcd({ binary });
  atEnd(() => etcd.stop());
  return etcd;
}

it("what a restored etcd lacks can be found out before it is adopted, and where histories part after that", {
  timeout: 120_000,
}, async () => {
  const { path } = await makeTempDir("where-parted");
  atEnd(() => rm(path, { recursive: true, force: true }));
  const [early, late] = [join(path, "early"), join(path, "late")];
  const etcd = await anEtcdWithTool();
  const sidecar = await anOplogd({ store: { etcd: etcd.endpoint }, args: ["--sidecar-id", "a"] });
  const client = aClientOf(sidecar);
  const append = async (count: number) => {
    for (let each = 0; each < count; each++) await client.append({ log: LOG, entries: [put(`${each}`)] });
  };
  await append(4);
  await etcd.saveSnapshot(early);
  await append(6);
  await etcd.saveSnapshot(late);
  await etcd.restoreSnapshot(early, { token: "restored" });
  const isRefused = async () => (await failureOf(client.read({ log: LOG }))).reason === "STORE_REPLACED";
  await waitFor(isRefused, { what: "the restored store to be refused" });

  // A cluster of its own for the other backup: its sidecar refuses it too, and tells nevertheless.
  const other = await anEtcdWithTool();
  await other.restoreSnapshot(late, { token: "looked at" });
  const reader = await anOplogd({ store: { etcd: other.endpoint }, args: ["--sidecar-id", "b"] });
  const whereParted = () => runOplogctl(sidecar.target, ["where-parted", LOG, "--with", reader.target, "--json"]);

  const before = await whereParted();
  expect(before.exitCode, before.stderr).toBe(0);
  const [here, there] = [{ head_sequence_id: "4" }, { head_sequence_id: "10" }];
  expect(JSON.parse(before.stdout)).toMatchObject({
    result: "same",
    last_common_sequence_id: "4",
    sides: [here, there],
  });

  await client.adopt();
  // What was under way is given up with the connection to the store as it was.
  const isUsed = () =>
    client.read({ log: LOG }).then(
      () => true,
      () => false,
    );
  await waitFor(isUsed, { what: "the adopted store to be used" });
  await append(3);
  const after = await whereParted();
  expect(after.exitCode, after.stderr).toBe(3);
  expect(JSON.parse(after.stdout)).toMatchObject({
    result: "parted",
    last_common_sequence_id: "4",
    sides: [
      { head_sequence_id: "7", first_other_record: { first_sequence_id: "5", writer: "a" } },
      { head_sequence_id: "10", first_other_record: { first_sequence_id: "5" } },
    ],
  });
});
