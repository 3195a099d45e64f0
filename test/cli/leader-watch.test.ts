import { afterEach, describe, expect, it } from "vitest";
import { connect, type OplogClient } from "../../src/client/client.js";
import { etcdBinaries, startEtcd } from "../support/etcd.js";
import { type Oplogd, startOplogd } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";
import { Oplogctl } from "./oplogctl-process.js";

const LOG = "orders";
const STORE_WAIT = { deadlineMs: 15_000 };

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanups.splice(0).reverse()) await cleanUp();
});

async function aWatched(options: Parameters<typeof startOplogd>[0]) {
  const oplogd = await startOplogd(options);
  cleanups.push(() => oplogd.stop());
  const client = connect(oplogd.target);
  cleanups.push(() => client.close());
  await claim(client, 1n);
  const watch = await aWatch(oplogd);
  return { oplogd, client, watch };
}

async function aWatch(oplogd: Oplogd): Promise<Oplogctl> {
  const watch = new Oplogctl(oplogd.target, ["leader", LOG, "--watch"]);
  cleanups.push(() => watch.child.kill("SIGKILL"));
  await watch.printed(/token 1$/m);
  return watch;
}

const claim = (client: OplogClient, token: bigint) => client.claimTerm({ log: LOG, token, claimant: "keeper" });

describe("leader --watch", () => {
  it("goes on when the sidecar is restarted, and repeats nothing", async () => {
    const { oplogd, client, watch } = await aWatched({});
    await oplogd.kill("SIGKILL");
    await waitFor(() => /trying again in/.test(watch.stderr), { what: "the break to be told" });
    await oplogd.restart();
    await waitFor(() => claim(client, 2n).catch(() => undefined), { what: "the claim" });
    await watch.printed(/token 2$/m);
    const outcome = watch.outcome();
    watch.child.kill("SIGINT");
    const { exitCode, stdout } = await outcome;
    expect(exitCode).toBe(130);
    expect(stdout).toMatch(/^keeper at \S+, term 1, token 1\nkeeper at \S+, term 2, token 2\n$/);
  });

  it("tells when the store is away, and when it is back", async () => {
    const etcd = await startEtcd({ binary: (await etcdBinaries()).at(-1)! });
    cleanups.push(() => etcd.stop());
    const options = { store: { etcd: etcd.endpoint }, args: ["--etcd-request-timeout", "500ms"] };
    const { client, watch } = await aWatched(options);
    etcd.pause();
    await waitFor(() => /the store does not answer/.test(watch.stderr), { ...STORE_WAIT, what: "the outage" });
    etcd.resume();
    await waitFor(() => /the store answers again/.test(watch.stderr), { ...STORE_WAIT, what: "the end of the outage" });
    await waitFor(() => claim(client, 2n).catch(() => undefined), { what: "the claim" });
    await watch.printed(/token 2$/m);
    expect(watch.stderr.match(/the store/g)).toHaveLength(2);
  });
});
