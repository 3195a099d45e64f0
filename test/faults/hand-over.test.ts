import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { expect, it } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import { LeaderClient } from "../../src/client/leader-client.js";
import type { EtcdServer } from "../support/etcd.js";
import { History } from "../support/history.js";
import { LeadershipHistory } from "../support/leadership-history.js";
import { freePort, type Oplogd } from "../support/oplogd.js";
import { waitFor, within } from "../support/wait.js";
import { Candidate, type CandidateEvent, type CandidatePlan, machineMs } from "./candidate.js";
import { PacedWriters } from "./paced-writers.js";
import { readBack } from "./recording-follower.js";
import { scaled } from "./scale.js";
import { aClientOf, anEtcd, anOplogd, atEnd, failureOf } from "./stage.js";
import { StoreWatch } from "./store-watch.js";

const LOG = "passed";
const HAND_OVERS = 10;
const APPENDS_PER_SECOND = 1_000;
const WRITERS = 40;
/** A machine that is busy with other tests is given more. */
const GAP_MS_MAX = scaled(2_000, 300);
const RATE_SHARE_MIN = scaled(0.1, 0.5);
/** Long, so that nothing here can come from a lease that has run out. */
const TTL_MS = 10_000;
const AT_ONCE_MS = 2_000;
const HELD_MS = 1_500;

it(`hands over ${HAND_OVERS} times under ${APPENDS_PER_SECOND} appends per second: each within ${GAP_MS_MAX} ms`, {
  timeout: 60_000,
}, async () => {
  const { etcd, history, sides, writers } = await start();
  const leadership = new LeadershipHistory();
  const watch = new StoreWatch(etcd, LOG, leadership);
  atEnd(() => watch.close());
  const startedMs = machineMs();

  const gapsMs: number[] = [];
  for (let round = 0; round < HAND_OVERS; round++) {
    const [from, to] = round % 2 === 0 ? sides : [sides[1], sides[0]];
    await writers.answered(APPENDS_PER_SECOND / 4);
    const { term, finalSequenceId } = await from.client.handOver({ log: LOG, target: to.id });
    const { gapMs, answer } = await writers.gapBefore(Number(term), AT_ONCE_MS);
    gapsMs.push(Math.round(gapMs));
    expect(answer.term).toBe(Number(term));
    expect(finalSequenceId).toBeGreaterThan(0n);
    const isHandedOver = (event: CandidateEvent) => event.kind === "lost" && event.reason === "HANDED_OVER";
    await from.hasSeen(isHandedOver, Math.floor(round / 2) + 1);
  }
  const perSecond = Math.round((writers.answers.length / (machineMs() - startedMs)) * 1000);
  await writers.end();

  process.stdout.write(`hand-over left gaps of ${gapsMs.join(", ")} ms at ${perSecond} appends/s\n`);
  expect(Math.max(...gapsMs)).toBeLessThanOrEqual(GAP_MS_MAX);
  expect(perSecond).toBeGreaterThan(APPENDS_PER_SECOND * RATE_SHARE_MIN);
  expect(writers.failures).toEqual([]);
  await readBack(sides[0].client, history, LOG);
  await watch.reachesNow();
  expect(history.violations()).toEqual([]);
  expect(leadership.violations()).toEqual([]);
  expect(leadership.terms).toHaveLength(HAND_OVERS + 1);
});

it("goes on leading when the target does not answer, and no append fails", { timeout: 60_000 }, async () => {
  const { history, sides, writers } = await start({ answersPrepare: false });
  const [leader, mute] = sides;
  const handOver = { log: LOG, timeout: durationFromMs(HELD_MS) };

  const abandoned = failureOf(leader.client.handOver({ ...handOver, target: mute.id }));
  await mute.hasSeen(({ kind }) => kind === "preparing");
  expect(await failureOf(leader.client.handOver({ ...handOver, target: mute.id }))).toMatchObject({
    code: "ABORTED",
    reason: "HAND_OVER_RUNNING",
    metadata: { target: mute.id },
  });
  const failure = await abandoned;
  expect(failure).toMatchObject({ code: "ABORTED", reason: "HAND_OVER_ABANDONED", metadata: { target: mute.id } });
  expect(Number(failure.metadata.held_ms)).toBeGreaterThanOrEqual(HELD_MS - 1);
  expect(Number(failure.metadata.held_ms)).toBeLessThan(2 * HELD_MS);
  await writers.answered(200);

  expect(await failureOf(leader.client.handOver({ ...handOver, target: "nobody" }))).toMatchObject({
    code: "NOT_FOUND",
    reason: "CANDIDATE_NOT_FOUND",
    metadata: { log: LOG, id: "nobody" },
  });
  expect(await failureOf(mute.client.handOver({ ...handOver, target: leader.id }))).toMatchObject({
    code: "FAILED_PRECONDITION",
    reason: "NOT_PRIMARY",
    metadata: { primary: leader.id, endpoint: leader.oplogd.target },
  });

  await goesOnLeading(leader, writers, history);
});

it("goes on leading when the target is killed while it prepares, and no append fails", {
  timeout: 60_000,
}, async () => {
  const { history, sides, writers } = await start({ answersPrepare: false });
  const [leader, mute] = sides;
  const abandoned = failureOf(leader.client.handOver({ log: LOG, target: mute.id, timeout: durationFromMs(HELD_MS) }));
  await mute.hasSeen(({ kind }) => kind === "preparing");
  await mute.oplogd.kill("SIGKILL");
  expect(await abandoned).toMatchObject({ code: "ABORTED", reason: "HAND_OVER_ABANDONED" });
  await writers.answered(200);
  await goesOnLeading(leader, writers, history);
});

it("passes the log on at once when the leader resigns, or its sidecar is told to stop", {
  timeout: 60_000,
}, async () => {
  const { history, sides, writers } = await start();
  const [first, second] = sides;
  await writers.answered(200);

  const resignedMs = machineMs();
  expect(await first.client.resign({ log: LOG })).toMatchObject({ term: 1n });
  const resigned = await writers.gapBefore(2, AT_ONCE_MS);
  expect(resigned.answer.atMs - resignedMs).toBeLessThan(AT_ONCE_MS);
  await first.hasSeen((event) => event.kind === "lost" && event.reason === "RESIGNED");
  await writers.answered(200);

  const stoppedMs = machineMs();
  const exited = second.oplogd.kill("SIGTERM");
  const stopped = await writers.gapBefore(3, AT_ONCE_MS);
  expect(stopped.answer.atMs - stoppedMs).toBeLessThan(AT_ONCE_MS);
  await within(exited, { what: "the sidecar to stop" });
  expect(second.oplogd.exitCode).toBe(0);
  await second.hasSeen((event) => event.kind === "lost" && event.reason === "RESIGNED");
  await writers.answered(200);
  await writers.end();

  process.stdout.write(
    `without an append acknowledged: ${Math.round(resigned.gapMs)} ms after Resign, ` +
      `${Math.round(stopped.gapMs)} ms after SIGTERM\n`,
  );
  expect(writers.failures).toEqual([]);
  await readBack(first.client, history, LOG);
  expect(history.violations()).toEqual([]);
});

interface CandidateSide {
  readonly id: string;
  readonly oplogd: Oplogd;
  readonly client: OplogClient;
  hasSeen(what: (event: CandidateEvent) => boolean, times?: number): Promise<void>;
}

/** A candidate that leads, one that waits, and writers that follow whoever leads. */
async function start(waiting: Partial<CandidatePlan> = {}) {
  const etcd = await anEtcd();
  const history = new History();
  const sides = [await aSide(etcd, "a"), await aSide(etcd, "b", waiting)] as const;
  const leader = new LeaderClient(sides.map(({ oplogd }) => oplogd.target));
  atEnd(() => leader.close());
  const writers = new PacedWriters(leader, history, LOG, WRITERS, APPENDS_PER_SECOND);
  atEnd(() => writers.end());
  return { etcd, history, sides, writers };
}

/** Returns when it leads, or has been told who does. */
async function aSide(etcd: EtcdServer, id: string, plan: Partial<CandidatePlan> = {}): Promise<CandidateSide> {
  const args = ["--sidecar-id", `sidecar-${id}`];
  const oplogd = await anOplogd({ store: { etcd: etcd.endpoint }, port: await freePort(), args });
  const client = aClientOf(oplogd);
  const events: CandidateEvent[] = [];
  const candidate = new Candidate(client, { log: LOG, id, ttlMs: TTL_MS, ...plan }, (event) => events.push(event));
  const stop = new AbortController();
  const done = candidate.run(stop.signal);
  atEnd(async () => {
    stop.abort();
    await done;
  });
  const hasSeen = async (what: (event: CandidateEvent) => boolean, times = 1) => {
    const isSeen = () => events.filter(what).length >= times;
    await waitFor(isSeen, { what: `candidate ${id} to see ${what}` });
  };
  await hasSeen(({ kind }) => kind === "promised" || kind === "waiting");
  return { id, oplogd, client, hasSeen };
}

/** Under its first term. */
async function goesOnLeading(leader: CandidateSide, writers: PacedWriters, history: History): Promise<void> {
  await writers.answered(200);
  await writers.end();
  expect(writers.failures).toEqual([]);
  expect(new Set(writers.answers.map(({ term }) => term))).toEqual(new Set([1]));
  expect(await leader.client.getLeader({ log: LOG })).toMatchObject({
    leader: { id: leader.id, term: 1n },
    vacant: false,
  });
  await readBack(leader.client, history, LOG);
  expect(history.violations()).toEqual([]);
}
