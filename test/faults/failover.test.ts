import { expect, it } from "vitest";
import { History } from "../support/history.js";
import { LeadershipHistory } from "../support/leadership-history.js";
import { machineMs } from "./candidate.js";
import { readBack } from "./recording-follower.js";
import { scaled } from "./scale.js";
import { Side } from "./side.js";
import { anEtcd, atEnd } from "./stage.js";
import { StoreWatch } from "./store-watch.js";

const LOG = "handed-on";
const ROUNDS = scaled(3, 10);
const TTL_MS = 2_000;
const FAILOVER_MS_MAX = TTL_MS + 1_000;
/** Of a leader, before it is killed. */
const APPENDS = 50;
const APPEND_MS_MAX = 20_000;

it(`a standby appends within ${FAILOVER_MS_MAX} ms after the master and its sidecar were killed, ${ROUNDS} times in a row`, {
  timeout: 60_000 + ROUNDS * 15_000,
}, async () => {
  const etcd = await anEtcd();
  const records = { history: new History(), leadership: new LeadershipHistory() };
  const watch = new StoreWatch(etcd, LOG, records.leadership);
  atEnd(() => watch.close());
  const master = { log: LOG, ttlMs: TTL_MS, everyMs: 5, appendsAsStandby: false, deadlineMs: 5_000 };
  let leader = await Side.start({ name: "a", etcd: etcd.endpoint, master }, records);
  let standby = await Side.start({ name: "b", etcd: etcd.endpoint, master }, records);
  expect(await leader.master.leads()).toBe(1);

  const failoversMs: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const term = await leader.master.leads();
    await leader.master.appends(APPENDS, APPEND_MS_MAX);
    expect(standby.master.acknowledged).toEqual([]);

    const killedMs = machineMs();
    await Promise.all([leader.oplogd.kill("SIGKILL"), leader.master.kill()]);
    const first = await standby.master.acknowledgedAfter(killedMs, 2 * FAILOVER_MS_MAX);
    failoversMs.push(Math.round(first.atMs - killedMs));

    expect(first.term).toBeGreaterThan(term);
    await leader.revive();
    [leader, standby] = [standby, leader];
  }

  process.stdout.write(`failover took ${failoversMs.join(", ")} ms\n`);
  expect(Math.max(...failoversMs)).toBeLessThanOrEqual(FAILOVER_MS_MAX);
  await leader.master.hold();
  const head = await readBack(leader.client, records.history, LOG);
  await watch.reachesNow();
  expect(records.history.violations()).toEqual([]);
  expect(records.leadership.violations()).toEqual([]);
  expect(records.leadership.terms).toHaveLength(ROUNDS + 1);
  const hashes = await Promise.all([leader, standby].map((side) => side.stateHash(BigInt(head))));
  expect(hashes[0]).toMatch(new RegExp(`^${head} `));
  expect(hashes[1]).toBe(hashes[0]);
});
