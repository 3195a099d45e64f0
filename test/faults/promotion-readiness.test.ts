import { randomBytes } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { expect, it } from "vitest";
import { unary } from "../../src/client/calls.js";
import { openChannel } from "../../src/client/channel.js";
import type { OplogClient } from "../../src/client/client.js";
import { LeaderLeaseSchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import {
  type GetPromotionReadinessResponse,
  type PromotionBlocker,
  PromotionBlockerKind,
  PromotionVerdict,
  StandbyPhase,
  StandbyService,
} from "../../src/gen/oplog/v1/standby_pb.js";
import { LogKeys } from "../../src/oplog/keys.js";
import type { EtcdServer } from "../support/etcd.js";
import { freePort, type Oplogd } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";
import { EtcdLink } from "./etcd-link.js";
import { aClientOf, aFaultProxy, anEtcd, anOplogd, atEnd, failureOf } from "./stage.js";

const LOG = "awaited";
const keys = new LogKeys("/oplog", LOG);
const { PROMOTABLE, STANDING_BY, NOT_PROMOTABLE } = PromotionVerdict;
const { GAP, TAIL_SILENT, BOOTSTRAPPING, NOT_CAUGHT_UP, LEASE_HELD, STORE_UNREACHABLE } = PromotionBlockerKind;
/** The feed must not notice by itself, before it has been seen, what the scenario is about. */
const SLOW_POLL = ["--tail-head-poll", "30s"];

it("a standby that is stalled at a gap names it, and stands by once the gap is closed", {
  timeout: 60_000,
}, async () => {
  const etcd = await anEtcd();
  const link = await anEtcdLink(etcd);
  const writer = aClientOf(await anOplogd({ store: { etcd: etcd.endpoint } }));
  await append(writer, 10);
  const standby = await Standby.start(link.endpoint, SLOW_POLL);
  await standby.becomes(PROMOTABLE);
  const lease = await aLeaderLease(etcd, "master-a", 60);

  // What follows reaches the store behind the back of the standby, and two of it vanish before it looks.
  link.holdWatches(true);
  for (let id = 11; id <= 14; id++) await append(writer, 1);
  const lost = [keys.record(11n), keys.record(12n)];
  const values = await Promise.all(lost.map((key) => take(etcd, key)));
  link.holdWatches(false);
  link.cutWatches();

  const { response, blocker } = await standby.isBlockedBy(GAP);
  expect(response).toMatchObject({ verdict: NOT_PROMOTABLE, appliedSequenceId: 10n, headSequenceId: 14n });
  expect(blocker).toMatchObject({ firstMissingSequenceId: 11n, lastMissingSequenceId: 12n });
  expect(kindsOf(response)).toEqual([GAP, NOT_CAUGHT_UP, LEASE_HELD]);

  for (const [index, key] of lost.entries()) await etcd.ask("/v3/kv/put", { key: base64(key), value: values[index] });
  const standingBy = await standby.becomes(STANDING_BY);
  expect(standingBy).toMatchObject({ appliedSequenceId: 14n, headSequenceId: 14n, phase: StandbyPhase.FOLLOWING });
  expect(standingBy.blockers).toMatchObject([{ kind: LEASE_HELD, holder: "master-a" }]);
  const leftMs = durationMs(standingBy.blockers[0]!.timeLeft!);
  expect(leftMs).toBeGreaterThan(0);
  expect(leftMs).toBeLessThanOrEqual(60_000);

  await etcd.ask("/v3/lease/revoke", { ID: lease });
  expect(kindsOf(await standby.becomes(PROMOTABLE))).toEqual([]);
});

it("a standby whose watch is silently dead says so as soon as the head has moved", { timeout: 60_000 }, async () => {
  const etcd = await anEtcd();
  const link = await anEtcdLink(etcd);
  const writer = aClientOf(await anOplogd({ store: { etcd: etcd.endpoint } }));
  await append(writer, 4);
  const standby = await Standby.start(link.endpoint, SLOW_POLL);
  await standby.becomes(PROMOTABLE);
  // So that the watch is known to stand.
  await append(writer, 1);
  await waitFor(async () => (await standby.readiness()).appliedSequenceId === 5n, { what: "the watch to bring 5" });

  link.holdWatches(true);
  expect(await standby.readiness()).toMatchObject({ verdict: PROMOTABLE });
  await append(writer, 3);
  const response = await standby.readiness();
  expect(response).toMatchObject({ verdict: NOT_PROMOTABLE, appliedSequenceId: 5n, headSequenceId: 8n });
  expect(kindsOf(response)).toEqual([TAIL_SILENT, NOT_CAUGHT_UP]);
  expect(response.blockers[0]).toMatchObject({ appliedSequenceId: 5n, headSequenceId: 8n });
  expect(durationMs(response.blockers[0]!.elapsed!)).toBeGreaterThan(0);

  link.holdWatches(false);
  expect(await standby.becomes(PROMOTABLE)).toMatchObject({ appliedSequenceId: 8n, headSequenceId: 8n });
});

it("a standby that is behind, or still loading, says how far and for how long", { timeout: 120_000 }, async () => {
  const etcd = await anEtcd();
  const proxy = await aFaultProxy(etcd.port);
  const writer = aClientOf(await anOplogd({ store: { etcd: etcd.endpoint } }));
  await append(writer, 10);
  const standby = await Standby.start(proxy.endpoint, SLOW_POLL);
  await standby.becomes(PROMOTABLE);

  proxy.blackHole(true);
  for (let index = 0; index < 100; index++) await append(writer, 10, 4000);
  const cutOff = await standby.readiness();
  expect(cutOff).toMatchObject({ verdict: NOT_PROMOTABLE, appliedSequenceId: 10n, headSequenceId: 0n });
  expect(kindsOf(cutOff)[0]).toBe(STORE_UNREACHABLE);
  expect(durationMs(cutOff.blockers[0]!.elapsed!)).toBeGreaterThanOrEqual(1000);

  // From here on as over a thin line.
  proxy.throttle(3_000_000);
  proxy.blackHole(false);
  const behind = await standby.isBlockedBy(NOT_CAUGHT_UP, ({ timeLeft }) => timeLeft !== undefined);
  expect(behind.response).toMatchObject({ verdict: NOT_PROMOTABLE, headSequenceId: 1010n });
  expect(behind.blocker).toMatchObject({
    headSequenceId: 1010n,
    message: expect.stringMatching(/^applied \d+ < head 1010$/),
  });
  expect(behind.blocker.appliedSequenceId).toBeGreaterThanOrEqual(10n);
  expect(behind.blocker.appliedSequenceId).toBeLessThan(1010n);
  expect(await standby.becomes(PROMOTABLE)).toMatchObject({ appliedSequenceId: 1010n, headSequenceId: 1010n });

  const beginner = await Standby.start(proxy.endpoint, SLOW_POLL);
  const loading = await beginner.isBlockedBy(BOOTSTRAPPING, ({ appliedSequenceId }) => appliedSequenceId > 0n);
  const { appliedSequenceId, message } = loading.blocker;
  expect(loading.response).toMatchObject({ verdict: NOT_PROMOTABLE, phase: StandbyPhase.BOOTSTRAPPING });
  expect(message).toContain(`at ${(appliedSequenceId * 100n) / 1010n} %: applied ${appliedSequenceId} of 1010`);
  const { history } = await beginner.becomes(PROMOTABLE);
  const phases = history.map(({ phase }) => phase);
  expect(phases.slice(0, 1)).toEqual([StandbyPhase.BOOTSTRAPPING]);
  expect(phases.at(-1)).toBe(StandbyPhase.FOLLOWING);
  expect(history.at(-1)).toMatchObject({ appliedSequenceId: 1010n, reason: expect.stringContaining("1010") });
});

it("the phases of a standby are logged and counted though nobody asks", { timeout: 60_000 }, async () => {
  const etcd = await anEtcd();
  const proxy = await aFaultProxy(etcd.port);
  await append(aClientOf(await anOplogd({ store: { etcd: etcd.endpoint } })), 3);
  const adminPort = await freePort();
  const { oplogd } = await Standby.start(proxy.endpoint, ["--admin-listen", `127.0.0.1:${adminPort}`]);
  const metrics = async () => (await fetch(`http://127.0.0.1:${adminPort}/metrics`)).text();
  const logs = (to: string) =>
    waitFor(() => new RegExp(`"event":"standby_phase".*"to":"${to}"`).test(oplogd.log), { what: `the log of ${to}` });
  await logs("following");
  expect(await metrics()).toContain(`oplog_view_phase{log="${LOG}",phase="following"} 1`);
  proxy.blackHole(true);
  await logs("reconnecting");
  const text = await metrics();
  expect(text).toContain(`oplog_view_phase{log="${LOG}",phase="following"} 0`);
  expect(text).toContain(`oplog_view_phase{log="${LOG}",phase="reconnecting"} 1`);
  expect(text).toContain(`oplog_view_phase_changes_total{log="${LOG}",phase="reconnecting"} 1`);
});

it("a log without a view has no readiness", { timeout: 30_000 }, async () => {
  const standby = new Standby(await anOplogd({}));
  expect(await failureOf(standby.readiness())).toMatchObject({ code: "FAILED_PRECONDITION", reason: "NO_VIEW" });
});

class Standby {
  private readonly channel;

  constructor(readonly oplogd: Oplogd) {
    this.channel = openChannel(oplogd.target);
    atEnd(() => this.channel.close());
  }

  static async start(etcd: string, args: readonly string[]): Promise<Standby> {
    return new Standby(await anOplogd({ store: { etcd }, args: ["--views", LOG, ...args] }));
  }

  readiness(): Promise<GetPromotionReadinessResponse> {
    const method = StandbyService.method.getPromotionReadiness;
    return unary(this.channel, method, { log: LOG }, { deadlineMs: 10_000 });
  }

  /** Waits for a verdict. */
  async becomes(verdict: PromotionVerdict): Promise<GetPromotionReadinessResponse> {
    let seen: GetPromotionReadinessResponse | undefined;
    const isSo = async () => {
      seen = await this.readiness();
      return seen.verdict === verdict ? seen : undefined;
    };
    return waitFor(isSo, { deadlineMs: 20_000, what: PromotionVerdict[verdict] }).catch((error: unknown) => {
      throw new Error(`${error}: ${seen?.blockers.map(({ message }) => message).join("; ")}`);
    }) as Promise<GetPromotionReadinessResponse>;
  }

  /** Waits for a blocker. */
  async isBlockedBy(kind: PromotionBlockerKind, isEnough: (blocker: PromotionBlocker) => boolean = () => true) {
    const isSo = async () => {
      const response = await this.readiness();
      const blocker = response.blockers.find((each) => each.kind === kind && isEnough(each));
      return blocker && { response, blocker };
    };
    return (await waitFor(isSo, { what: PromotionBlockerKind[kind] }))!;
  }
}

function kindsOf({ blockers }: GetPromotionReadinessResponse): PromotionBlockerKind[] {
  return blockers.map(({ kind }) => kind);
}

/** As one record. */
async function append(client: OplogClient, count: number, payloadBytes = 10): Promise<void> {
  const entries = Array.from({ length: count }, (_, index) => ({
    opType: OpType.PUT_END,
    key: `key ${index}`,
    payload: randomBytes(payloadBytes),
  }));
  await client.append({ log: LOG, entries });
}

async function anEtcdLink(etcd: EtcdServer): Promise<EtcdLink> {
  const link = await EtcdLink.start(etcd.port);
  atEnd(() => link.close());
  return link;
}

const base64 = (text: string) => Buffer.from(text).toString("base64");

/** Deletes a key, and returns what it held. */
async function take(etcd: EtcdServer, key: string): Promise<string> {
  const { kvs } = (await etcd.ask("/v3/kv/range", { key: base64(key) })) as { kvs: { value: string }[] };
  await etcd.ask("/v3/kv/deleterange", { key: base64(key) });
  return kvs[0]!.value;
}

/** As a campaign at another sidecar puts it; the id of the lease. */
async function aLeaderLease(etcd: EtcdServer, holder: string, ttlSeconds: number): Promise<string> {
  const { ID } = (await etcd.ask("/v3/lease/grant", { TTL: ttlSeconds })) as { ID: string };
  const value = toBinary(LeaderLeaseSchema, create(LeaderLeaseSchema, { id: holder, term: 1n }));
  await etcd.ask("/v3/kv/put", { key: base64(keys.leader), value: Buffer.from(value).toString("base64"), lease: ID });
  return ID;
}
