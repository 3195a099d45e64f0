import { readdir, readFile } from "node:fs/promises";
import type { Client } from "@grpc/grpc-js";
import { beforeAll, describe, expect, it } from "vitest";
import { openChannel } from "../../src/client/channel.js";
import type { OplogClient } from "../../src/client/client.js";
import { connect } from "../../src/client/client.js";
import type { OplogRpcError } from "../../src/client/errors.js";
import { LeadershipMode } from "../../src/gen/oplog/v1/leadership_pb.js";
import { StandbyPhase } from "../../src/gen/oplog/v1/standby_pb.js";
import { type EtcdServer, etcdBinaries, startEtcd } from "../support/etcd.js";
import { type Oplogd, startOplogd } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";
import {
  CALLS,
  CANDIDATES,
  entry,
  FURTHER,
  HEAD,
  keys,
  LEADER,
  LOG,
  LONG,
  ms,
  YEARS_MS,
} from "./bad-leadership-input.js";
import { aChannelTo, CampaignCall, type CandidateFields } from "./campaign-call.js";
import type { Refusal } from "./refusals.js";
import { scaled } from "./scale.js";
import { failureOf, put } from "./stage.js";

const CANDIDATES_MAX = 64;
const CAMPAIGNS = scaled(200, 1_000);
const CAMPAIGNS_AT_ONCE = 50;
const GROWTH_BYTES_MAX = 32 << 20;

describe.each(["embedded", "etcd"] as const)("with the %s store", (kind) => {
  let etcd: EtcdServer | undefined;
  let oplogd: Oplogd;
  let client: OplogClient;
  /** For what outlives one test. */
  let channel: Client;
  let leader: CampaignCall;

  beforeAll(async () => {
    etcd = kind === "etcd" ? await startEtcd({ binary: (await etcdBinaries()).at(-1)! }) : undefined;
    const args = ["--views", LOG, "--object-lease-default", "1h"];
    oplogd = await startOplogd(etcd === undefined ? { args } : { args, store: { etcd: etcd.endpoint } });
    client = connect(oplogd.target);
    channel = openChannel(oplogd.target);
    leader = new CampaignCall(channel).stand({ log: LOG, id: LEADER, ttl: ms(60_000) });
    await leader.hears("leading");
    for (let id = 1; id <= HEAD; id++) await client.append({ log: LOG, entries: [put(`entry ${id}`)] });
    return async () => {
      channel.close();
      client.close();
      await oplogd.stop();
      await etcd?.stop();
    };
  }, 60_000);
  const aCall = (options?: { readonly reads: boolean }) => new CampaignCall(aChannelTo(oplogd), options);

  /** Everything that bad requests might have changed. */
  async function state(): Promise<string> {
    const { leaseLeft: _, ...leadership } = await client.getLeader({ log: LOG });
    const { log } = await client.getStatus({ log: LOG });
    const leases = etcd && (await leasesOf(etcd));
    const facts = { leadership, head: log?.headSequenceId, role: log?.role, leases };
    return JSON.stringify(facts, (_, value) => (typeof value === "bigint" ? String(value) : value));
  }

  async function isVacant(log: string): Promise<void> {
    await waitFor(async () => (await client.getLeader({ log })).vacant, { what: `${log} to be vacant` });
  }

  describe("a candidate", () => {
    it.each(CANDIDATES)("that begins with %s is refused, and nothing has changed", async (_what, bytes, refusal) => {
      const before = await state();
      const call = aCall().send(bytes);
      expectRefusal(await call.end(), refusal);
      expect(call.told).toEqual([]);
      expect(await state()).toBe(before);
    });

    it.each(FURTHER)("that waits and sends %s is refused, and stands no more", async (_what, bytes, refusal) => {
      const before = await state();
      const call = aCall().stand({ log: LOG, id: "bad" });
      expect((await call.hears("waiting")).leader).toMatchObject({ id: LEADER, term: 1n });
      call.send(bytes);
      expectRefusal(await call.end(), refusal);
      expect(await state()).toBe(before);
    });

    it.each(FURTHER)("that leads and sends %s is refused, and leads no more", async (what, bytes, refusal) => {
      const log = `further-${FURTHER.findIndex(([each]) => each === what)}`;
      const call = aCall().stand({ log, id: "bad", ttl: ms(60_000) });
      await call.hears("leading");
      call.send(bytes);
      expectRefusal(await call.end(), refusal);
      expect(await client.getLeader({ log })).toMatchObject({ vacant: true, candidates: [] });
    });

    it("that says that it has applied more than there is is refused; less is no answer yet", async () => {
      const log = "ready";
      const call = aCall().stand({ log, id: "eager", noHandshake: false });
      await call.hears("prepare");
      call.send({ case: "ready", value: { appliedSequenceId: 2n ** 64n - 1n } });
      expectRefusal(await call.end(), {
        code: "OUT_OF_RANGE",
        reason: "BEYOND_HEAD",
        metadata: { from: String(2n ** 64n - 1n), head: "0" },
      });
      expect(await client.getLeader({ log })).toMatchObject({ vacant: true });

      await client.append({ log: "auto-first", entries: [entry, entry] });
      const patient = aCall().stand({ log: "auto-first", id: "patient", noHandshake: false, readyTimeout: ms(300) });
      const { finalSequenceId } = await patient.hears("prepare");
      expect(finalSequenceId).toBe(2n);
      patient.send({ case: "ready", value: { appliedSequenceId: 1n } });
      expect(await patient.lost()).toBe("NOT_READY");
      expect(patient.newest("lost")?.message).toContain("Ready came for entry 1 where 2 is the last");
    });

    it("whose Ready comes before Prepare, twice, or for a term that never was, still leads", async () => {
      const log = "too-early";
      const first = aCall().stand({ log, id: "first" });
      await first.hears("leading");
      const call = aCall().stand({ log, id: "early", noHandshake: false });
      const ready = (term: bigint) => call.send({ case: "ready", value: { appliedSequenceId: 0n, term } });
      ready(0n);
      await call.hears("waiting");
      ready(7n);
      first.halfClose();
      const { term } = await call.hears("prepare");
      ready(term + 1n);
      ready(term);
      ready(term);
      expect((await call.hears("leading")).term).toBe(term);
      ready(term);
      call.halfClose();
      expect(await call.lost()).toBe("RESIGNED");
    });

    it("with a hash that is not that of the view is refused, and the leader before leads no less", async () => {
      const before = await state();
      const call = aCall().stand({ log: LOG, id: "diverged", noHandshake: false });
      await call.hears("waiting");
      const handOver = failureOf(client.handOver({ log: LOG, target: "diverged", timeout: ms(2_000) }));
      const { finalSequenceId } = await call.hears("prepare");
      call.send({ case: "ready", value: { appliedSequenceId: finalSequenceId, stateHash: new Uint8Array(64) } });
      expect(await call.end()).toMatchObject({ code: "FAILED_PRECONDITION", reason: "STATE_DIVERGED" });
      expect(await handOver).toMatchObject({ code: "ABORTED", reason: "HAND_OVER_ABANDONED" });
      expect(await state()).toBe(before);
    });

    it("with every field at its bound is taken", async () => {
      const before = await state();
      const bounds: readonly CandidateFields[] = [
        { ttl: ms(1_000), readyTimeout: ms(100), aliveWithin: ms(500) },
        { ttl: ms(60_000), readyTimeout: ms(600_000), aliveWithin: ms(60_000), endpoint: LONG.slice(1) },
        { id: "x".repeat(128) },
        { id: "x" },
      ];
      for (const [index, fields] of bounds.entries()) {
        const call = aCall().stand({ log: LOG, id: `bound-${index}`, ...(fields as object) });
        await call.hears("waiting");
        call.halfClose();
        expect(await call.lost()).toBe("RESIGNED");
      }
      expect(await state()).toBe(before);
    });

    it("with a TTL of 1 s is promised no more than the store grants, and no less than it renews", async () => {
      const call = aCall().stand({ log: "short", id: "short", ttl: ms(1_000) });
      const first = await call.hears("leaseRenewed");
      const grantedMs = etcd === undefined ? 1_000 : 2_000;
      expect(Number(first.validForMs)).toBeGreaterThan(500);
      expect(Number(first.validForMs)).toBeLessThanOrEqual(grantedMs);
      await waitFor(() => call.kinds.filter((each) => each === "leaseRenewed").length >= 4, { what: "renewals" });
      call.cancel();
    });

    it("that half-closes at once, or before it has led, changes nothing", async () => {
      const before = await state();
      const silent = aCall();
      silent.halfClose();
      expect(await silent.end()).toBeNull();
      const brief = aCall().stand({ log: LOG, id: "brief" });
      brief.halfClose();
      expect(await brief.lost()).toBe("RESIGNED");
      expect(await state()).toBe(before);
    });

    it.each(["at once", "waiting", "prepare", "leading", "leaseRenewed"] as const)(
      "that cancels (%s) is gone",
      async (when) => {
        const log = `cancelled-${when.replace(" ", "-")}`;
        const first = aCall();
        if (when === "waiting") await first.stand({ log, id: "first" }).hears("leading");
        const call = aCall().stand({ log, id: "leaves", ttl: ms(60_000), noHandshake: when !== "prepare" });
        if (when !== "at once") await call.hears(when);
        call.cancel();
        expect(await call.end()).toMatchObject({ code: "CANCELLED" });
        first.cancel();
        // Its old self may still be leaving.
        const ledAgain = async () => {
          const call = aCall().stand({ log, id: "leaves", ttl: ms(60_000) });
          return call.hears("leading").then(
            () => call,
            () => undefined,
          );
        };
        const again = (await waitFor(ledAgain, { what: "the same id to lead again" }))!;
        again.halfClose();
        expect(await again.lost()).toBe("RESIGNED");
        expect(await client.getLeader({ log })).toMatchObject({ vacant: true, candidates: [] });
      },
    );

    it(`is one of ${CANDIDATES_MAX} of a log, and one more is refused`, { timeout: 60_000 }, async () => {
      const log = "crowded";
      const channel = aChannelTo(oplogd);
      const calls = Array.from({ length: CANDIDATES_MAX }, (_, index) =>
        new CampaignCall(channel).stand({ log, id: `c${index}` }),
      );
      const isTold = (call: CampaignCall) =>
        call.newest("leading") !== undefined || call.newest("waiting") !== undefined;
      await waitFor(() => calls.every(isTold), { what: "all to be told who leads" });
      await waitFor(() => calls.some((call) => call.newest("leading")), { what: "one to lead" });
      expect(calls.filter((call) => call.newest("leading"))).toHaveLength(1);
      const { candidates } = await client.getLeader({ log });
      expect(candidates).toHaveLength(CANDIDATES_MAX);
      expectRefusal(await new CampaignCall(channel).stand({ log, id: "one-more" }).end(), {
        code: "RESOURCE_EXHAUSTED",
        reason: "TOO_MANY",
        metadata: { limit: String(CANDIDATES_MAX) },
      });
      for (const call of calls) call.cancel();
      await isVacant(log);
    });

    it("that never reads neither holds up others nor stays when it goes", async () => {
      const log = "deaf";
      const deaf = aCall({ reads: false }).stand({ log, id: "deaf", ttl: ms(1_000), aliveWithin: ms(60_000) });
      await waitFor(async () => (await client.getLeader({ log })).vacant === false, { what: "the deaf one to lead" });
      for (let count = 0; count < 10_000; count++) deaf.send({ case: "alive", value: {} });
      const next = aCall().stand({ log, id: "next" });
      expect((await next.hears("waiting")).leader?.id).toBe("deaf");
      const appendUnlessNotReady = () =>
        client.append({ log, entries: [entry], term: 1n }).catch((error: OplogRpcError) => {
          if (error.reason === "NOT_READY") return undefined;
          throw error;
        });
      const appended = await waitFor(appendUnlessNotReady, { what: "the deaf one to be ready" });
      expect(appended).toMatchObject({ firstSequenceId: 1n });
      deaf.cancel();
      expect((await next.hears("leading")).term).toBe(2n);
      next.cancel();
    });

    it(`leaves nothing behind: ${CAMPAIGNS} that were opened and cancelled`, { timeout: 180_000 }, async () => {
      const before = await state();
      const channel = aChannelTo(oplogd);
      const round = async (from: number) => {
        const calls = Array.from({ length: CAMPAIGNS_AT_ONCE }, (_, index) =>
          new CampaignCall(channel).stand({ log: LOG, id: `c${from + index}` }),
        );
        // A part of them before anything has come.
        await Promise.all(calls.slice(CAMPAIGNS_AT_ONCE / 5).map((call) => call.hears("waiting", 30_000)));
        for (const call of calls) call.cancel();
        await Promise.all(calls.map((call) => call.end()));
        await waitFor(async () => (await client.getLeader({ log: LOG })).candidates.length === 1, {
          what: "the candidates to be gone",
          deadlineMs: 30_000,
        });
      };
      await round(0);
      const [handles, memory] = [await openFiles(oplogd), await residentBytes(oplogd)];
      for (let count = CAMPAIGNS_AT_ONCE; count < CAMPAIGNS; count += CAMPAIGNS_AT_ONCE) await round(count);
      await waitFor(async () => (await state()) === before, { what: "all leases to be gone" });
      expect(await openFiles(oplogd)).toBeLessThanOrEqual(handles + 2);
      expect((await residentBytes(oplogd)) - memory).toBeLessThan(GROWTH_BYTES_MAX);
      if (etcd === undefined) return;
      const watches = await watchersOf(etcd);
      const one = aCall().stand({ log: LOG, id: "one" });
      await one.hears("waiting");
      one.cancel();
      await waitFor(async () => (await watchersOf(etcd!)) <= watches, { what: "the watches of one to be gone" });
    });
  });

  describe("a call", () => {
    it.each(CALLS)("%s is refused, and nothing has changed", async (_what, call, refusal) => {
      const before = await state();
      expectRefusal(await failureOf(call(client)), refusal);
      expect(await state()).toBe(before);
    });

    it("of RenewObjectLeases at every bound is answered with what is not held", async () => {
      const held = put("entry 1").key;
      const renew = { log: LOG, keys: [...keys(9_999), held], term: 1n, lease: ms(YEARS_MS) };
      expect((await client.renewObjectLeases(renew)).missingKeys).toEqual(keys(9_999));
      const { entry } = await client.getEntry({ log: LOG, key: held });
      expect(Number(entry!.leaseUntilMs)).toBeGreaterThan(Date.now() + YEARS_MS - 60_000);
      // It never shortens one, and a key that is named twice is renewed once.
      await client.renewObjectLeases({ log: LOG, keys: [held, held], lease: ms(1) });
      expect((await client.getEntry({ log: LOG, key: held })).entry!.leaseUntilMs).toBe(entry!.leaseUntilMs);
      const absent = await client.renewObjectLeases({ log: LOG, keys: ["k".repeat(4096), "absent", "absent"] });
      expect(new Set(absent.missingKeys)).toEqual(new Set(["k".repeat(4096), "absent"]));
    });

    it("of Append with a lease at its bounds is taken", async () => {
      const log = "leases";
      for (const leaseMs of [0n, 1n, BigInt(YEARS_MS)]) {
        await client.append({ log, entries: [{ ...entry, leaseMs }] });
      }
      expect((await client.getStatus({ log })).log?.headSequenceId).toBe(3n);
    });
  });

  describe("who may write", () => {
    it("a log that is claimed by token takes no candidate, and ClaimTerm fences a leader that was elected", async () => {
      const log = "tokens";
      await client.claimTerm({ log, token: 5n, claimant: "keeper" });
      expectRefusal(await aCall().stand({ log, id: "hopeful" }).end(), {
        code: "FAILED_PRECONDITION",
        reason: "LEADERSHIP_BY_TOKEN",
        metadata: { log, token: "5", claimant: "keeper" },
      });
      expect((await client.getLeader({ log })).candidates).toEqual([]);

      const led = "taken-by-token";
      const call = aCall().stand({ log: led, id: "elected" });
      const { term } = await call.hears("leading");
      const waiting = aCall().stand({ log: led, id: "waiting" });
      await waiting.hears("waiting");
      const claim = await client.claimTerm({ log: led, token: 1n, claimant: "keeper" });
      expect(claim.term).toBeGreaterThan(term);
      expect(await call.lost()).toBe("FENCED");
      expectRefusal(await waiting.end(), {
        code: "FAILED_PRECONDITION",
        reason: "LEADERSHIP_BY_TOKEN",
        metadata: { log: led, token: "1", claimant: "keeper" },
      });
      expect(await client.append({ log: led, entries: [entry], term: claim.term })).toMatchObject({
        firstSequenceId: 1n,
      });
      const stale = await failureOf(client.append({ log: led, entries: [entry], term }));
      expect(stale).toMatchObject({ reason: "STALE_TERM" });
      expect(await client.getLeader({ log: led })).toMatchObject({ mode: LeadershipMode.TOKEN, candidates: [] });
    });

    it("a log that was claimed by an append is led by the candidate that comes, and by no append after it", async () => {
      const log = "auto";
      await client.append({ log, entries: [entry] });
      const call = aCall().stand({ log, id: "elected" });
      expect(await call.hears("leading")).toMatchObject({ term: 2n, nextSequenceId: 2n });
      expect(await client.append({ log, entries: [entry] })).toMatchObject({ firstSequenceId: 2n, term: 2n });
      call.halfClose();
      expect(await call.lost()).toBe("RESIGNED");
      expectRefusal(await failureOf(client.append({ log, entries: [entry] })), {
        code: "FAILED_PRECONDITION",
        reason: "NOT_PRIMARY",
        metadata: { primary: "", term: "2" },
      });
      expectRefusal(await failureOf(client.resign({ log })), { code: "FAILED_PRECONDITION", reason: "NOT_PRIMARY" });
      expect((await client.getStatus({ log })).log?.headSequenceId).toBe(2n);
    });

    it("two candidates at one sidecar pass the log to each other and back, and each appends under its term", async () => {
      const log = LOG;
      expect(leader.failure).toBeUndefined();
      const other = aCall().stand({ log, id: "other" });
      await other.hears("waiting");
      const there = await client.handOver({ log, target: "other" });
      expect((await other.hears("leading")).term).toBe(there.term);
      const key = put("entry 1").key;
      expect((await client.renewObjectLeases({ log, keys: [key], term: there.term })).missingKeys).toEqual([]);
      expect(await leader.lost()).toBe("HANDED_OVER");
      expect((await client.getStateHash({ log })).phase).toBe(StandbyPhase.PROMOTED);
      expect(await failureOf(client.append({ log, entries: [entry], term: 1n }))).toMatchObject({
        reason: "STALE_TERM",
        metadata: { yours: "1", current: String(there.term) },
      });
      leader = new CampaignCall(channel).stand({ log, id: LEADER, ttl: ms(60_000) });
      await leader.hears("waiting");
      const back = await client.handOver({ log, target: LEADER });
      expect(back.term).toBe(there.term + 1n);
      expect((await leader.hears("leading")).term).toBe(back.term);
      expect(await other.lost()).toBe("HANDED_OVER");
      expect((await client.getStateHash({ log })).phase).toBe(StandbyPhase.PROMOTED);
    });

    it("Resign during a hand-over ends both, and the target leads all the same", async () => {
      const log = "resigned-under-way";
      const first = aCall().stand({ log, id: "first" });
      await first.hears("leading");
      const target = aCall().stand({ log, id: "target", noHandshake: false });
      await target.hears("waiting");
      const handOver = failureOf(client.handOver({ log, target: "target", timeout: ms(60_000) }));
      await target.hears("prepare");
      expect((await client.resign({ log })).term).toBe(1n);
      expect(await first.lost()).toBe("RESIGNED");
      expect(["HAND_OVER_ABANDONED", "NOT_PRIMARY"]).toContain((await handOver).reason);
      const isPrepared = () => {
        const prepare = target.newest("prepare");
        return prepare?.isHandOver === false ? prepare : undefined;
      };
      const prepare = await waitFor(isPrepared, { what: "Prepare for the vacant log" });
      target.send({ case: "ready", value: { appliedSequenceId: prepare!.finalSequenceId, term: prepare!.term } });
      expect((await target.hears("leading")).term).toBe(2n);
      target.cancel();
    });
  });
});

async function leasesOf(etcd: EtcdServer): Promise<number> {
  const { leases = [] } = (await etcd.ask("/v3/lease/leases", {})) as { leases?: unknown[] };
  return leases.length;
}

async function openFiles({ pid }: Oplogd): Promise<number> {
  return (await readdir(`/proc/${pid}/fd`)).length;
}

async function residentBytes({ pid }: Oplogd): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)![1]) * 1024;
}

async function watchersOf(etcd: EtcdServer): Promise<number> {
  const metrics = await (await fetch(`${etcd.endpoint}/metrics`)).text();
  return Number(/^etcd_debugging_mvcc_watcher_total (\S+)$/m.exec(metrics)![1]);
}

function expectRefusal(failure: OplogRpcError | null, { code, reason, metadata = {} }: Refusal): void {
  expect(failure).toMatchObject({ code, reason, metadata });
  expect(failure!.message).not.toBe("");
}
