import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Entry } from "../../src/gen/oplog/v1/entry_pb.js";
import type { EtcdServer } from "../support/etcd.js";
import { Clients } from "./clients.js";
import type { Replica, ReplicaEvent } from "./replica.js";
import { Sidecar, startSystemEtcd } from "./sidecar.js";
import { stateHash } from "./state-hash.js";
import { Toolchain } from "./toolchain.js";

const BUILD_MS_MAX = 600_000;
const RUN_MS_MAX = 120_000;
const TTL_MS = 2_000;
const MASTER_ENTRIES = 20_000;
const LOGS = "killed,handed-over,frozen,sidecar-frozen";

const toolchain = await Toolchain.probe();
const isPossible = toolchain.has("go") && toolchain.has("cpp") && toolchain.has("etcd");

describe.runIf(isPossible).each([
  ["cpp", "go"],
  ["go", "cpp"],
] as const)("a master in %s and a standby in %s, each beside a sidecar of its own", (first, second) => {
  let clients: Clients;
  let etcd: EtcdServer;
  let here: Sidecar;
  let there: Sidecar;

  beforeAll(async () => {
    clients = await Clients.build(["go", "cpp"]);
    etcd = await startSystemEtcd();
    here = await Sidecar.start(etcd, ["--sidecar-id", "here", "--views", LOGS]);
    there = await Sidecar.start(etcd, ["--sidecar-id", "there", "--views", LOGS]);
  }, BUILD_MS_MAX);

  afterAll(async () => {
    await clients?.stop();
    await here?.stop();
    await there?.stop();
    await etcd?.stop();
  });

  it(
    "killed with its sidecar, the master is replaced with every acknowledged entry there, and can be handed the log back",
    async () => {
      const log = "killed";
      const { leader, standby } = await pair(log);
      // It asks the wrong sidecar first, is sent to the leader, and later to the one after it.
      const master = clients.master(second, {
        target: `${there.tcpTarget},${here.tcpTarget}`,
        log,
        writer: "orders",
        count: MASTER_ENTRIES,
        "entries-per-append": 5,
      });
      const quarter = BigInt(MASTER_ENTRIES / 4);
      await there.waitForLog(log, `${quarter} entries`, ({ headSequenceId }) => headSequenceId >= quarter);
      await leader.next("acknowledged");

      await Promise.all([leader.kill(), here.kill()]);
      const prepare = await standby.next("prepare");
      const ready = await standby.next("ready");
      const leading = await standby.next("leading");
      await standby.next("acknowledged");
      expect(await master).toMatchObject({ acknowledged: MASTER_ENTRIES });

      const returned = replica(first, log, here.unixTarget); // Its sidecar comes later.
      await here.killAndRestart();
      await returned.next("waiting", leads(second));
      await there.client.handOver({ log, target: first });
      await standby.next("lost");
      await returned.next("acknowledged");
      await Promise.all([returned.stop(), standby.stop()]);

      const entries = await entriesOf(log);
      const final = prepare.final!;
      expect(ready).toMatchObject({ applied: final, state_hash: stateHash(entries.slice(0, final)) });
      expect(leading).toMatchObject({ term: prepare.term, next: final + 1 });
      expectInOrder(operationsOf(entries, leader), returned.acknowledged);
      expectInOrder(operationsOf(entries, standby), standby.acknowledged);
      const orders = writtenBy(entries, "object");
      const keys = Array.from({ length: MASTER_ENTRIES }, (_, index) => `object/${index % 100}`);
      expect(orders.map(({ key }) => key)).toEqual(keys);
      expect(Number(orders.at(-1)!.term), "the master went on at the new leader").toBe(prepare.term);
      expectWrittenBy(entries.slice(0, final), leader, (term) => term < prepare.term!);
      expectWrittenBy(entries.slice(final), returned, (term) => term > prepare.term!);
    },
    RUN_MS_MAX,
  );

  it(
    "the leadership is handed over, and goes back when the new leader is stopped",
    async () => {
      const log = "handed-over";
      const { leader, standby } = await pair(log);
      await leader.next("acknowledged");

      const { term, finalSequenceId } = await here.client.handOver({ log, target: second });
      const prepare = await standby.next("prepare");
      expect(prepare).toMatchObject({ hand_over: true, term: Number(term), final: Number(finalSequenceId) });
      const ready = await standby.next("ready");
      expect(await standby.next("leading")).toMatchObject({ term: Number(term), next: prepare.final! + 1 });
      expect(await leader.next("lost")).toMatchObject({ reason: "HANDED_OVER" });
      await leader.next("waiting", leads(second));
      await standby.next("acknowledged");

      expect(await standby.stop()).toMatchObject({ event: "stopped" });
      await leader.next("leading");
      await leader.next("acknowledged");
      expect(await leader.stop()).toMatchObject({ event: "stopped" });

      const entries = await entriesOf(log);
      expect(ready.state_hash).toBe(stateHash(entries.slice(0, prepare.final)));
      expectInOrder(operationsOf(entries, leader), leader.acknowledged);
      expectInOrder(operationsOf(entries, standby), standby.acknowledged);
      expectWrittenBy(entries, standby, (each) => each === Number(term));
      expectWrittenBy(entries, leader, (each) => each !== Number(term));
    },
    RUN_MS_MAX,
  );

  it.each([
    ["a master that is frozen", "frozen", (leader: Replica) => leader],
    ["a master whose sidecar is frozen", "sidecar-frozen", () => here],
  ] as const)(
    "%s is replaced, appends nothing when it thaws, and follows",
    async (_who, log, frozen) => {
      const { leader, standby } = await pair(log);
      await leader.next("acknowledged");

      await frozen(leader).pause();
      const { term } = await standby.next("leading");
      await standby.next("acknowledged");
      await frozen(leader).resume();
      await leader.next("lost");
      await leader.next("waiting", leads(second));
      await standby.next("acknowledged");
      await Promise.all([leader.stop(), standby.stop()]);

      const entries = await entriesOf(log);
      expectInOrder(operationsOf(entries, leader), leader.acknowledged);
      expectInOrder(operationsOf(entries, standby), standby.acknowledged);
      expectWrittenBy(entries, leader, (each) => each < term!);
    },
    RUN_MS_MAX,
  );

  /** The first leads, the second knows it. */
  async function pair(log: string): Promise<{ leader: Replica; standby: Replica }> {
    const leader = replica(first, log, here.unixTarget);
    await leader.next("leading");
    const standby = replica(second, log, there.tcpTarget);
    await standby.next("waiting", leads(first));
    return { leader, standby };
  }

  function replica(language: "go" | "cpp", log: string, target: string): Replica {
    return clients.replica(language, { id: language, log, target, "ttl-ms": TTL_MS, rate: 200, "report-every": 20 });
  }

  async function entriesOf(log: string): Promise<Entry[]> {
    const entries: Entry[] = [];
    for (;;) {
      const fromSequenceId = BigInt(entries.length + 1);
      const page = await there.client.read({ log, fromSequenceId, maxEntries: 10_000, maxBytes: 3 << 20 });
      entries.push(...page.entries);
      if (page.nextSequenceId > page.headSequenceId) return entries;
    }
  }
});

function leads(id: string): (event: ReplicaEvent) => boolean {
  return ({ leader }) => leader === id;
}

/** The numbers of the appends of one replica, as they stand in the log. */
function operationsOf(entries: readonly Entry[], { id }: Replica): number[] {
  return writtenBy(entries, id).map(({ payload }) => Number(Buffer.from(payload).toString().slice(id.length)));
}

/** Each once, in order, and none missing that was acknowledged. */
function expectInOrder(operations: readonly number[], acknowledged: number): void {
  expect(acknowledged).toBeGreaterThan(0);
  expect(operations.length).toBeGreaterThanOrEqual(acknowledged);
  expect(operations).toEqual(Array.from(operations, (_, index) => index + 1));
}

function expectWrittenBy(entries: readonly Entry[], { id }: Replica, isItsTerm: (term: number) => boolean): void {
  const terms = new Set(writtenBy(entries, id).map(({ term }) => Number(term)));
  expect([...terms].filter((term) => !isItsTerm(term))).toEqual([]);
}

function writtenBy(entries: readonly Entry[], id: string): Entry[] {
  return entries.filter(({ key }) => key.startsWith(`${id}/`));
}
