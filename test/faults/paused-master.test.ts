import { expect, it } from "vitest";
import { History } from "../support/history.js";
import { LeadershipHistory } from "../support/leadership-history.js";
import type { Oplogd } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";
import { machineMs } from "./candidate.js";
import { Master, type Records } from "./master.js";
import type { MasterPlan } from "./master-plan.js";
import { readBack } from "./recording-follower.js";
import { Side } from "./side.js";
import { aClientOf, anEtcd, anOplogd, atEnd } from "./stage.js";
import { StoreWatch } from "./store-watch.js";

const LOG = "paused";
const TTL_MS = 1_000;
const PAUSE_MS = 3 * TTL_MS;
const TAKES_OVER_MS_MAX = TTL_MS + 2_000;
/** Of the new leader, before the old one is let go on. */
const APPENDS = 20;

const master = { log: LOG, ttlMs: TTL_MS, everyMs: 10, appendsAsStandby: false, deadlineMs: 5_000 };

/** It goes on trying with the term that it led, whatever it is told. */
const stubborn = { ...master, appendsAsStandby: true };

it("a master that was stopped together with its sidecar finds itself fenced, and has lost nothing", {
  timeout: 60_000,
}, async () => {
  const etcd = await anEtcd(["--heartbeat-interval", "50", "--election-timeout", "500"]);
  const records = { history: new History(), leadership: new LeadershipHistory() };
  const watch = new StoreWatch(etcd, LOG, records.leadership);
  atEnd(() => watch.close());
  const paused = await Side.start({ name: "paused", etcd: etcd.endpoint, master: stubborn }, records);
  const term = await paused.master.leads();
  const other = await Side.start({ name: "other", etcd: etcd.endpoint, master }, records);
  await paused.master.appends(APPENDS);

  const stoppedMs = machineMs();
  paused.master.signal("SIGSTOP");
  await paused.oplogd.kill("SIGSTOP");
  expect(await other.master.leads(TAKES_OVER_MS_MAX)).toBe(term + 1);
  await other.master.appends(APPENDS);
  await waitFor(() => machineMs() >= stoppedMs + PAUSE_MS, { what: "the pause to end" });
  const seen = { reports: paused.master.reports.length, answers: paused.master.acknowledged.length };
  await paused.oplogd.kill("SIGCONT");
  paused.master.signal("SIGCONT");

  expect(["EXPIRED", "FENCED", "STORE_UNREACHABLE"]).toContain(await lossOf(paused.master, seen.reports));
  await isRefused(paused.master, "NOT_PRIMARY", seen.reports);
  await other.master.appends(APPENDS);
  expect(other.master.term).toBe(term + 1);

  await Promise.all([paused, other].map((side) => side.master.hold()));
  await readBack(other.client, records.history, LOG);
  await watch.reachesNow();
  expect(records.history.violations()).toEqual([]);
  expect(records.leadership.violations()).toEqual([]);
  // The append that was under way may have been answered before the pause; no later one was taken.
  expect(paused.master.acknowledged.length).toBeLessThanOrEqual(seen.answers + 1);
});

it("a master that was stopped beside its sidecar is followed by the other one there, and its term is stale", {
  timeout: 60_000,
}, async () => {
  const records = { history: new History(), leadership: new LeadershipHistory() };
  const sidecar = await anOplogd({});
  const aliveWithinMs = TTL_MS / 2;
  const paused = await aMaster(sidecar, "paused", { ...stubborn, aliveWithinMs }, records);
  const term = await paused.leads();
  const other = await aMaster(sidecar, "other", { ...master, aliveWithinMs }, records);
  await paused.appends(APPENDS);

  paused.signal("SIGSTOP");
  expect(await other.leads(TAKES_OVER_MS_MAX)).toBe(term + 1);
  await other.appends(APPENDS);
  const seen = { reports: paused.reports.length, answers: paused.acknowledged.length };
  paused.signal("SIGCONT");

  expect(await lossOf(paused, seen.reports)).toBe("SILENT");
  await isRefused(paused, "STALE_TERM", seen.reports);
  await other.appends(APPENDS);
  expect(other.term).toBe(term + 1);

  await Promise.all([paused, other].map((each) => each.hold()));
  await readBack(aClientOf(sidecar), records.history, LOG);
  expect(records.history.violations()).toEqual([]);
  expect(records.leadership.violations()).toEqual([]);
  expect(paused.acknowledged.length).toBeLessThanOrEqual(seen.answers + 1);
});

type Plan = Omit<MasterPlan, "target" | "id" | "writerId">;

async function aMaster({ target }: Oplogd, id: string, plan: Plan, records: Records): Promise<Master> {
  const started = Master.start({ ...plan, target, id, writerId: `${id}.1` }, records);
  atEnd(() => started.kill());
  await started.isCampaigning();
  return started;
}

/** The reason that it is told for its loss. */
async function lossOf({ reports, plan }: Master, after: number): Promise<string> {
  const told = () => reports.slice(after).find(({ kind }) => kind === "lost" || kind === "broken");
  const report = await waitFor(told, { what: `${plan.writerId} to be told that it leads no more` });
  return report?.kind === "lost" ? report.reason : JSON.stringify(report);
}

async function isRefused({ reports, plan }: Master, reason: string, after: number): Promise<void> {
  const refused = () => reports.slice(after).some((each) => each.kind === "failed" && each.reason === reason);
  await waitFor(refused, { what: `an append of ${plan.writerId} to be refused with ${reason}` });
}
