import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { expect, it } from "vitest";
import type { Campaign } from "../../src/client/campaign.js";
import type { OplogClient } from "../../src/client/client.js";
import { LostReason } from "../../src/gen/oplog/v1/leadership_pb.js";
import { PromotionBlockerKind } from "../../src/gen/oplog/v1/standby_pb.js";
import type { EtcdServer } from "../support/etcd.js";
import { freePort, type Oplogd } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";
import { aClientOf, anEtcd, anOplogd, atEnd, failureOf, put, revisionOf } from "./stage.js";

const TTL_MS = 3_000;
/** Told by whatever knows of it: what has happened, and what to do. */
const TOLD = /the store is empty|was replaced by older data/;
const REMEDY = "oplogctl adopt";

interface Sidecar {
  readonly oplogd: Oplogd;
  readonly client: OplogClient;
  readonly readyz: () => Promise<string>;
}

async function aSidecar(etcd: EtcdServer, id: string): Promise<Sidecar> {
  const admin = await freePort();
  const oplogd = await anOplogd({
    store: { etcd: etcd.endpoint },
    args: ["--sidecar-id", id, "--admin-listen", `127.0.0.1:${admin}`, "--views", "auto,elected"],
  });
  const readyz = async () => {
    const response = await fetch(`http://127.0.0.1:${admin}/readyz`);
    return `${response.status} ${await response.text()}`;
  };
  return { oplogd, client: aClientOf(oplogd), readyz };
}

/** What a candidate is told. */
class Told {
  readonly messages: { readonly kind: string; readonly text: string; readonly reason?: LostReason }[] = [];

  constructor(campaign: Campaign) {
    void this.listen(campaign).catch(() => undefined);
  }

  hears(kind: string, text = /^/): Promise<unknown> {
    const heard = () => this.messages.find((message) => message.kind === kind && text.test(message.text));
    return waitFor(heard, { deadlineMs: 20_000, what: `the candidate to hear ${kind} ${text}` });
  }

  private async listen(campaign: Campaign): Promise<void> {
    for await (const { message } of campaign) {
      if (message.case === "prepare") campaign.ready(message.value.finalSequenceId);
      const { case: kind = "" } = message;
      if (message.case === "lost") {
        this.messages.push({ kind, text: message.value.message, reason: message.value.reason });
      } else {
        this.messages.push({ kind, text: message.case === "waiting" ? message.value.storeRefusal : "" });
      }
    }
  }
}

/** Everything that was logged, apart from what was before. */
function linesAfter(oplogd: Oplogd, bytes: number): string[] {
  return oplogd.log.slice(bytes).split("\n");
}

it.each([
  ["while sidecars run", false],
  ["while sidecars stand still, and others have written more there since than there was", true],
])(
  "etcd emptied %s: each line and each answer says what has happened and what to do",
  { timeout: 120_000 },
  async (_, isUnseen) => {
    const etcd = await anEtcd();
    const [a, b] = [await aSidecar(etcd, "a"), await aSidecar(etcd, "b")];
    for (const text of ["1", "2", "3"]) await a.client.append({ log: "auto", entries: [put(text)] });
    const stand = (client: OplogClient, id: string) => {
      const gone = new AbortController();
      atEnd(() => gone.abort());
      return new Told(client.campaign({ log: "elected", id, ttl: durationFromMs(TTL_MS) }, { signal: gone.signal }));
    };
    const leader = stand(a.client, "leader");
    await leader.hears("leading");
    const waiting = stand(b.client, "waiting");
    await waiting.hears("waiting");
    await a.client.append({ log: "elected", entries: [put("1")] });
    const applied = async () => (await b.client.getStateHash({ log: "auto" })).appliedSequenceId === 3n;
    await waitFor(applied, { what: "the view to have all of it" });
    const logged = [a, b].map(({ oplogd }) => oplogd.log.length);

    if (isUnseen) for (const { oplogd } of [a, b]) await oplogd.kill("SIGSTOP");
    const before = await revisionOf(etcd);
    await etcd.wipe();
    if (isUnseen) {
      for (let each = 0n; each < before + 5n; each++) {
        await etcd.ask("/v3/kv/put", { key: Buffer.from(`/x/${each}`).toString("base64"), value: "" });
      }
      for (const { oplogd } of [a, b]) await oplogd.kill("SIGCONT");
    }

    const refusedAt = async ({ client }: Sidecar, log: string) => {
      const refused = async () => {
        const error = await failureOf(client.append({ log, entries: [put("lost")] }));
        return error.reason === "STORE_REPLACED" ? error.message : undefined;
      };
      return (await waitFor(refused, { what: `appends to ${log} to be refused as such` })) ?? "";
    };
    for (const sidecar of [a, b]) {
      const message = await refusedAt(sidecar, "auto");
      expect(message).toMatch(TOLD);
      expect(message).toContain(REMEDY);
      const answer = async () => (await sidecar.readyz()).startsWith("503") && (await sidecar.readyz());
      const ready = await waitFor(answer, { what: "/readyz to be 503" });
      expect(ready).toMatch(TOLD);
      expect(ready).toContain(REMEDY);
      const calls = [
        sidecar.client.getLeader({ log: "elected" }),
        sidecar.client.read({ log: "auto" }),
        sidecar.client.listLogs(),
        sidecar.client.follow({ log: "new" })[Symbol.asyncIterator]().next(),
      ];
      for (const call of calls) {
        const { code, reason } = await failureOf(call);
        expect({ code, reason }).toEqual({ code: "FAILED_PRECONDITION", reason: "STORE_REPLACED" });
      }
      // What is in the store now can be looked at before it is adopted.
      expect(await failureOf(sidecar.client.describeRecord({ log: "auto" }))).toMatchObject({
        reason: "LOG_NOT_FOUND",
      });
      const { blockers } = await sidecar.client.getPromotionReadiness({ log: "auto" });
      const refusal = blockers.find(({ kind }) => kind === PromotionBlockerKind.STORE_REFUSES);
      expect(refusal?.message).toMatch(TOLD);
      expect((await sidecar.client.getStatus({})).sidecar?.store?.error).toMatch(TOLD);
    }

    await leader.hears("lost", TOLD);
    expect(leader.messages.at(-1)).toMatchObject({ reason: LostReason.STORE_REPLACED });
    await waiting.hears("waiting", TOLD);

    for (const [index, { oplogd }] of [a, b].entries()) {
      const lines = linesAfter(oplogd, logged[index]!);
      const told = lines.filter((line) => line.includes('"store_replaced"'));
      expect(told.length).toBeGreaterThanOrEqual(1);
      expect(told.length).toBeLessThanOrEqual(3);
      expect(told.at(-1)).toMatch(TOLD);
      expect(told.at(-1)).toContain(REMEDY);
      expect(lines.join("\n")).not.toMatch(/leads term 0|higher term|last term was 0|"log_broken"|"view_failed"/);
    }
    // Nothing was begun in the empty store.
    const range = {
      key: Buffer.from("/oplog/").toString("base64"),
      range_end: Buffer.from("/oplog0").toString("base64"),
    };
    const keys = (await etcd.ask("/v3/kv/range", { ...range, count_only: true })) as { count?: string };
    expect(keys.count ?? "0").toBe("0");

    for (const { client } of [a, b]) await client.adopt();
    await waitFor(async () => (await a.readyz()).startsWith("200"), { what: "/readyz after the adoption" });
    // The logs begin anew, and so do the views: at whoever led them before, and by candidates that come again.
    expect(await a.client.append({ log: "auto", entries: [put("new")] })).toMatchObject({ firstSequenceId: 1n });
    const isRebuilt = () =>
      b.client.getStateHash({ log: "elected" }).then(
        ({ appliedSequenceId }) => appliedSequenceId === 0n,
        () => false,
      );
    await waitFor(isRebuilt, { what: "the view to be built anew" });
    await stand(b.client, "again").hears("leading");
    expect(await b.client.append({ log: "elected", entries: [put("new")] })).toMatchObject({ firstSequenceId: 1n });
  },
);
