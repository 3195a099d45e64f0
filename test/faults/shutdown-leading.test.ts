import { expect, it } from "vitest";
import { within } from "../support/wait.js";
import { aCandidateAt } from "./campaign-call.js";
import { aClientOf, aFaultProxy, anEtcd, anOplogd } from "./stage.js";

const LOG = "stopped";
const LATENCY_MS = 40;
const TTL_SECONDS = 20n;
/** Far below the TTL. */
const AT_ONCE_MS = 8_000;

it.each(["is told alone", "is told together with its master"] as const)(
  "hands on at once when a leading sidecar behind latency %s to stop",
  { timeout: 60_000 },
  async (how) => {
    const etcd = await anEtcd();
    const proxy = await aFaultProxy(Number(new URL(etcd.endpoint).port));
    proxy.delay(LATENCY_MS);
    const sidecar = await anOplogd({ store: { etcd: proxy.endpoint } });
    const next = await anOplogd({ store: { etcd: etcd.endpoint } });
    const master = aCandidateAt(sidecar, { log: LOG, id: "master", ttl: { seconds: TTL_SECONDS, nanos: 0 } });
    await master.hears("leaseRenewed");
    const standby = aCandidateAt(next, { log: LOG, id: "standby" });
    await standby.hears("waiting");

    const exit = sidecar.kill("SIGTERM");
    if (how === "is told together with its master") master.cancel();
    await standby.hears("leaseRenewed", AT_ONCE_MS);
    await within(exit, { what: "the sidecar to stop" });

    expect(sidecar.exitCode, sidecar.log).toBe(0);
    expect(await aClientOf(next).getLeader({ log: LOG })).toMatchObject({ leader: { id: "standby", term: 2n } });
  },
);
