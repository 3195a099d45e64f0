import { afterEach, expect, it } from "vitest";
import { connect } from "../../src/client/client.js";
import { LeaderClient } from "../../src/client/leader-client.js";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { etcdBinaries, startEtcd } from "../support/etcd.js";
import { type Oplogd, startOplogd } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";

const takeDown: (() => unknown)[] = [];
afterEach(async () => {
  for (const each of takeDown.splice(0).reverse()) await each();
});

async function anOplogd(etcd: string): Promise<Oplogd> {
  const oplogd = await startOplogd({ store: { etcd } });
  takeDown.push(() => oplogd.stop());
  return oplogd;
}

/** Stands at a sidecar, ready for anything; resolves once it has been told where it stands. */
async function aCandidate(oplogd: Oplogd, log: string, id: string): Promise<{ says: string[] }> {
  const client = connect(oplogd.target);
  takeDown.push(() => client.close());
  const campaign = client.campaign({ log, id, noHandshake: true, ttl: { seconds: 1n } });
  const says: string[] = [];
  const listen = async () => {
    for await (const { message } of campaign) says.push(message.case ?? "");
  };
  listen().catch((error: unknown) => says.push(String(error)));
  await waitFor(() => says.includes("leading") || says.includes("waiting"), { what: `${id} to stand` });
  return { says };
}

it("appends with operations go on exactly once when the leader is killed", { timeout: 60_000 }, async () => {
  const etcd = await startEtcd({ binary: (await etcdBinaries()).at(-1)! });
  takeDown.push(() => etcd.stop());
  const log = "orders";
  const [a, b] = [await anOplogd(etcd.endpoint), await anOplogd(etcd.endpoint)];
  expect((await aCandidate(a, log, "a")).says).toContain("leading");
  await aCandidate(b, log, "b");

  const leader = new LeaderClient([a.target, b.target], { deadlineMs: 2_000 });
  takeDown.push(() => leader.close());
  const count = 200;
  const terms = new Set<bigint>();
  for (let number = 1; number <= count; number++) {
    const append = leader.append({
      log,
      entries: [{ opType: OpType.EVENT, key: `${number}` }],
      writerId: "w",
      operationId: BigInt(number),
    });
    if (number === count / 2) await a.kill("SIGKILL");
    const { firstSequenceId, term } = await append;
    expect(firstSequenceId).toBe(BigInt(number));
    terms.add(term);
  }

  expect([...terms]).toEqual([1n, 2n]);
  expect(leader.target).toBe(b.target);
  const reader = connect(b.target);
  takeDown.push(() => reader.close());
  const { entries } = await reader.read({ log, fromSequenceId: 1n, maxEntries: count + 1 });
  expect(entries.map(({ key }) => Number(key))).toEqual(Array.from({ length: count }, (_, index) => index + 1));
});
