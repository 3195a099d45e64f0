import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { Clients, type MasterResult, type StandbyResult } from "./clients.js";
import { logHash } from "./log-hash.js";
import { Sidecar } from "./sidecar.js";
import { Toolchain } from "./toolchain.js";

const ENTRIES_PER_MASTER = 20_000;
const BUILD_MS_MAX = 600_000;
const RUN_MS_MAX = 180_000;

const toolchain = await Toolchain.probe();
const stores = (["embedded", "etcd"] as const).filter((store) => store === "embedded" || toolchain.has("etcd"));

describe.runIf(toolchain.has("go") || toolchain.has("cpp")).each(stores)(
  "clients of every language on one log, on the %s store",
  (store) => {
    let clients: Clients;
    let sidecar: Sidecar;

    beforeAll(async () => {
      clients = await Clients.build(toolchain.languages);
      sidecar = await Sidecar.start(store);
    }, BUILD_MS_MAX);

    afterAll(async () => {
      await clients?.stop();
      await sidecar?.stop();
    });

    it(
      "see the same entries in the same order, live and later, over TCP and a unix socket",
      async () => {
        const log = "live";
        const total = clients.masters.length * ENTRIES_PER_MASTER;
        const { tcpTarget, unixTarget } = sidecar;
        const followAll = (target: string) =>
          clients.standbys.map((language) => clients.standby(language, { target, log, until: total }));

        const live = [...followAll(tcpTarget), ...followAll(unixTarget)];
        const masters = clients.masters.map((language) =>
          clients.master(language, {
            target: language === "go" ? tcpTarget : unixTarget,
            log,
            writer: language,
            count: ENTRIES_PER_MASTER,
            "entries-per-append": 5,
          }),
        );
        expectEverythingAcknowledged(await Promise.all(masters), 1, total);
        for (const { duplicates } of await Promise.all(masters)) expect(duplicates).toBe(0);
        const seen = await Promise.all(live);
        await expectSameAsTypeScript(seen, log, total);
        for (const { resumes } of seen) expect(resumes).toBe(0);

        await expectSameAsTypeScript(await Promise.all(followAll(unixTarget)), log, total);
      },
      RUN_MS_MAX,
    );

    it(
      "go on where they were when the sidecar has been killed: nothing is lost, repeated or reordered",
      async () => {
        const log = "killed";
        const total = 1 + clients.masters.length * ENTRIES_PER_MASTER;
        const target = sidecar.tcpTarget;
        await sidecar.client.append({ log, entries: [{ opType: OpType.EVENT }] });
        const standbys = clients.standbys.map((language) => clients.standby(language, { target, log, until: total }));
        await sidecar.waitForLog(log, "all standbys", ({ subscribers }) => subscribers.length === standbys.length);
        const masters = clients.masters.map((language) =>
          clients.master(language, {
            target,
            log,
            writer: language,
            count: ENTRIES_PER_MASTER,
            "entries-per-append": 5,
          }),
        );

        const quarter = BigInt(Math.floor(total / 4));
        await sidecar.waitForLog(log, `${quarter} entries`, ({ headSequenceId }) => headSequenceId >= quarter);
        await sidecar.killAndRestart();

        expectEverythingAcknowledged(await Promise.all(masters), 2, total);
        const seen = await Promise.all(standbys);
        for (const { resumes } of seen) expect(resumes).toBeGreaterThan(0);
        await expectSameAsTypeScript(seen, log, total);
      },
      RUN_MS_MAX,
    );

    it("a master that is started again with the same operations appends nothing", async () => {
      const flags = { target: sidecar.tcpTarget, log: "again", writer: "w", count: 1_000, "entries-per-append": 3 };
      const [language] = clients.masters;
      const first = await clients.master(language!, flags);
      const again = await clients.master(language!, flags);
      expect(first).toEqual({ acknowledged: 1_000, first: 1, last: 1_000, duplicates: 0 });
      expect(again).toEqual({ acknowledged: 1_000, first: 1, last: 1_000, duplicates: 1_000 });
    });

    function expectEverythingAcknowledged(results: readonly MasterResult[], from: number, to: number): void {
      for (const { acknowledged } of results) expect(acknowledged).toBe(ENTRIES_PER_MASTER);
      expect(Math.min(...results.map(({ first }) => first))).toBe(from);
      expect(Math.max(...results.map(({ last }) => last))).toBe(to);
    }

    async function expectSameAsTypeScript(
      results: readonly StandbyResult[],
      log: string,
      total: number,
    ): Promise<void> {
      const hash = await logHash(sidecar.client, log, BigInt(total));
      for (const result of results) expect(result).toMatchObject({ received: total, hash });
      const status = await sidecar.client.getStatus({ log });
      expect(status.log?.headSequenceId).toBe(BigInt(total));
    }
  },
);
