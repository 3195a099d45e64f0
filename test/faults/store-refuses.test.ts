import { randomBytes } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { expect, it } from "vitest";
import { openChannel } from "../../src/client/channel.js";
import { PromotionBlockerKind, PromotionVerdict } from "../../src/gen/oplog/v1/standby_pb.js";
import type { EtcdServer } from "../support/etcd.js";
import { freePort, type Oplogd } from "../support/oplogd.js";
import { makeTempDir } from "../support/temp-dir.js";
import { waitFor } from "../support/wait.js";
import { CampaignCall } from "./campaign-call.js";
import { aClientOf, anEtcd, anOplogd, atEnd, failureOf, put, revisionOf } from "./stage.js";

const LOG = "refused";
const MIB = 1024 * 1024;
const TTL_MS = 2000;
/** Far below the deadline of a write, and of a client that waits. */
const TOLD_MS_MAX = 4000;
const base64 = (text: string) => Buffer.from(text).toString("base64");

class Side {
  private constructor(
    readonly oplogd: Oplogd,
    private readonly adminPort: number,
  ) {}

  static async start(etcd: EtcdServer, args: readonly string[] = []): Promise<Side> {
    const adminPort = await freePort();
    const admin = ["--admin-listen", `127.0.0.1:${adminPort}`, "--views", LOG];
    return new Side(await anOplogd({ store: { etcd: etcd.endpoint }, args: [...admin, ...args] }), adminPort);
  }

  get client() {
    return aClientOf(this.oplogd);
  }

  async readyz(): Promise<{ readonly status: number; readonly text: string }> {
    const response = await fetch(`http://127.0.0.1:${this.adminPort}/readyz`);
    return { status: response.status, text: await response.text() };
  }

  async becomesReady(): Promise<void> {
    await waitFor(async () => (await this.readyz()).status === 200, { what: "/readyz to be well" });
  }

  async becomesUnready(because: string): Promise<void> {
    const answers = async () => {
      const { status, text } = await this.readyz();
      return status === 503 && text.includes(because);
    };
    await waitFor(answers, { what: `/readyz to say "${because}"` });
  }

  campaign(id: string): CampaignCall {
    const channel = openChannel(this.oplogd.target);
    atEnd(() => channel.close());
    return new CampaignCall(channel).stand({ log: LOG, id, ttl: durationFromMs(TTL_MS) });
  }
}

async function fill(etcd: EtcdServer): Promise<void> {
  const value = randomBytes(MIB).toString("base64");
  for (let index = 0; index < 64; index++) {
    const written = await etcd.ask("/v3/kv/put", { key: base64(`/filler/${index}`), value }).then(
      () => true,
      (error: unknown) => {
        if (String(error).includes("space exceeded")) return false;
        throw error;
      },
    );
    if (!written) return;
  }
  throw new Error("etcd took 64 MiB though its quota is below");
}

/** As an operator would. */
async function makeRoom(etcd: EtcdServer): Promise<void> {
  await etcd.ask("/v3/kv/deleterange", { key: base64("/filler/"), range_end: base64("/filler0") });
  await etcd.compact(await revisionOf(etcd));
  await etcd.ask("/v3/maintenance/defragment", {});
  const { alarms } = (await etcd.ask("/v3/maintenance/alarm", {})) as { readonly alarms: readonly object[] };
  for (const alarm of alarms) await etcd.ask("/v3/maintenance/alarm", { action: "DEACTIVATE", ...alarm });
}

it("a full etcd is named at once to whoever leads, stands or asks, and all goes on when there is room", {
  timeout: 90_000,
}, async () => {
  const etcd = await anEtcd(["--quota-backend-bytes", String(16 * MIB)]);
  const side = await Side.start(etcd);
  const other = await Side.start(etcd);
  const { client } = side;
  await side.becomesReady();
  const leader = side.campaign("a");
  const first = await leader.hears("leading");
  const term = () => leader.newest("leading")!.term;
  await client.append({ log: LOG, term: term(), entries: [put("1")] });
  const leading = await client.getPromotionReadiness({ log: LOG });
  expect(leading.verdict).toBe(PromotionVerdict.LEADING);

  await fill(etcd);
  const sentMs = performance.now();
  const refused = await failureOf(client.append({ log: LOG, term: term(), entries: [put("2")] }));
  expect(refused).toMatchObject({ reason: "STORE_REFUSED", message: expect.stringContaining("space exceeded") });
  expect(performance.now() - sentMs).toBeLessThan(TOLD_MS_MAX);
  for (const each of [side, other]) {
    await each.becomesUnready("space exceeded");
    const { verdict, blockers } = await each.client.getPromotionReadiness({ log: LOG });
    expect(verdict).toBe(PromotionVerdict.NOT_PROMOTABLE);
    expect(blockers[0]).toMatchObject({
      kind: PromotionBlockerKind.STORE_REFUSES,
      message: expect.stringContaining("space exceeded"),
    });
  }
  const candidate = other.campaign("b");
  const enteredMs = performance.now();
  expect(await candidate.hears("waiting")).toMatchObject({ storeRefusal: expect.stringContaining("space exceeded") });
  expect(performance.now() - enteredMs).toBeLessThan(TOLD_MS_MAX);

  await makeRoom(etcd);
  await waitFor(() => term() > first.term, { what: "the leader to lead on" });
  expect(leader.newest("leading")!.nextSequenceId).toBe(2n);
  expect((await client.append({ log: LOG, term: term(), entries: [put("2")] })).firstSequenceId).toBe(2n);
  for (const each of [side, other]) await each.becomesReady();
  await waitFor(() => candidate.newest("waiting")?.leader?.id === "a", { what: "the candidate to be told who leads" });
  expect(candidate.newest("waiting")!.storeRefusal).toBe("");
});

it("a user of etcd that may not use all of the prefix makes nobody ready, and a candidate is told why", {
  timeout: 60_000,
}, async () => {
  const etcd = await anEtcd();
  const everyone = { key: base64("/oplog/"), range_end: base64("/oplog0") };
  await etcd.ask("/v3/auth/role/add", { name: "reader" });
  await etcd.ask("/v3/auth/role/grant", { name: "reader", perm: { permType: "READ", ...everyone } });
  for (const [name, role] of [
    ["root", "root"],
    ["reads", "reader"],
    ["nothing", undefined],
  ] as const) {
    await etcd.ask("/v3/auth/user/add", { name, password: "secret" });
    if (role !== undefined) await etcd.ask("/v3/auth/user/grant", { user: name, role });
  }
  await etcd.ask("/v3/auth/enable", {});
  const directory = await makeTempDir("password");
  atEnd(() => directory.remove());
  const password = join(directory.path, "password");
  await writeFile(password, "secret", { mode: 0o600 });
  for (const user of ["reads", "nothing"]) {
    const side = await Side.start(etcd, ["--etcd-username", user, "--etcd-password-file", password]);
    await side.becomesUnready("permission denied");
    const { verdict, blockers } = await side.client.getPromotionReadiness({ log: LOG });
    expect(verdict).toBe(PromotionVerdict.NOT_PROMOTABLE);
    expect(blockers.map(({ kind }) => kind)).toContain(PromotionBlockerKind.STORE_REFUSES);
    const candidate = side.campaign(`of-${user}`);
    expect(await candidate.hears("waiting")).toMatchObject({
      storeRefusal: expect.stringContaining("permission denied"),
    });
    candidate.cancel();
  }
  const { token } = (await etcd.ask("/v3/auth/authenticate", { name: "root", password: "secret" })) as {
    readonly token: string;
  };
  await etcd.ask(
    "/v3/auth/role/grant",
    { name: "reader", perm: { permType: "READWRITE", ...everyone } },
    { authorization: token },
  );
  const side = await Side.start(etcd, ["--etcd-username", "reads", "--etcd-password-file", password]);
  await side.becomesReady();
  await side.campaign("a").hears("leading");
});
