import { expect, it } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import { History } from "../support/history.js";
import { waitFor, within } from "../support/wait.js";
import { EtcdLink } from "./etcd-link.js";
import { RecordingFollower, readBack } from "./recording-follower.js";
import { ResendingWriter } from "./resending-writer.js";
import { inRandomOrder, randomOf, SEED, scaled } from "./scale.js";
import { aClientOf, anEtcd, anOplogd, atEnd } from "./stage.js";

const LOG = "soak";
const WRITERS = 2;
const ENTRIES = scaled(100_000, 1_000_000);
const ENTRIES_PER_OPERATION = 5;
const ENTRIES_PER_SECOND = scaled(4_000, 6_000);
const OPLOGD_KILLS = scaled(5, 20);
const ETCD_KILLS = scaled(2, 5);
const CUT_WATCHES_MS = scaled(10_000, 60_000);
const CUT_ALL_MS = scaled(5_000, 30_000);
const RETRIED_OPERATIONS = 200;
const RUN_MS_MAX = scaled(180_000, 1_200_000);

it(`keeps every acknowledged entry once, in order, for everyone, through kills, restarts and cuts (seed ${SEED})`, {
  timeout: RUN_MS_MAX + 120_000,
}, async () => {
  const random = randomOf(SEED);
  const { etcd, link, primary, standby } = await start();
  const history = new History();
  const clients = { primary: aClientOf(primary), standby: aClientOf(standby) };

  const followers = [
    new RecordingFollower(clients.primary, history, LOG, "at-the-primary"),
    new RecordingFollower(clients.standby, history, LOG, "at-the-standby"),
    new RecordingFollower(aClientOf(standby), history, LOG, "at-the-standby-too"),
  ];
  const writers = Array.from({ length: WRITERS }, (_, index) => {
    const plan = {
      log: LOG,
      writerId: `writer-${index}`,
      operations: ENTRIES / ENTRIES_PER_OPERATION / WRITERS,
      entriesPerOperation: ENTRIES_PER_OPERATION,
      operationsPerSecondMax: ENTRIES_PER_SECOND / ENTRIES_PER_OPERATION / WRITERS,
    };
    return new ResendingWriter(aClientOf(primary), history, plan);
  });
  const giveUp = new AbortController();
  const writing = Promise.all(writers.map((writer) => writer.run(giveUp.signal)));
  const acknowledged = () => writers.reduce((sum, writer) => sum + writer.acknowledged, 0) * ENTRIES_PER_OPERATION;

  const faults = inRandomOrder(random, [
    ...Array.from({ length: OPLOGD_KILLS }, (_, index) => () => (index % 3 === 2 ? standby : primary).restart()),
    ...Array.from({ length: ETCD_KILLS }, () => () => etcd.restart()),
    () => cutFor(link, CUT_WATCHES_MS, 100, "watches"),
    () => cutFor(link, CUT_ALL_MS, 300, "all"),
  ]);
  const moments = faults.map(() => Math.floor(random() * ENTRIES * 0.8)).sort((a, b) => a - b);
  const faulting = (async () => {
    for (const [index, fault] of faults.entries()) {
      const moment = moments[index]!;
      await waitFor(() => acknowledged() >= moment, { deadlineMs: RUN_MS_MAX, what: `${moment} entries` });
      await fault();
    }
  })();
  await within(Promise.all([writing, faulting]), {
    deadlineMs: RUN_MS_MAX,
    what: "all entries to be acknowledged",
  }).finally(() => giveUp.abort());

  for (const writer of writers) await resendNewest(writer, clients.primary, history);
  const head = await readBack(clients.primary, history, LOG);
  for (const follower of followers) {
    await follower.reaches(head);
    await follower.close();
  }

  expect(history.violations()).toEqual([]);
  expect(head).toBe(ENTRIES);
  for (const { seen, breaks } of followers) {
    expect(seen.hash).toBe(history.log.hash);
    expect(breaks).toBeGreaterThan(0);
  }
  // The faults have happened: the watch was cut for as long as planned, and writers have had to send again.
  expect(link.cuts.watch).toBeGreaterThan((CUT_WATCHES_MS + CUT_ALL_MS) / 1000);
  expect(writers.every(({ streams }) => streams > 1)).toBe(true);
});

async function start() {
  const etcd = await anEtcd(["--quota-backend-bytes", String(4 * 2 ** 30)]);
  const link = await EtcdLink.start(etcd.port);
  atEnd(() => link.close());
  const store = { etcd: link.endpoint };
  const primary = await anOplogd({ store, args: ["--sidecar-id", "primary"] });
  const standby = await anOplogd({ store, args: ["--sidecar-id", "standby"] });
  return { etcd, link, primary, standby };
}

async function cutFor(link: EtcdLink, durationMs: number, everyMs: number, which: "watches" | "all"): Promise<void> {
  const until = performance.now() + durationMs;
  link.cutEvery(everyMs, which);
  await waitFor(() => performance.now() >= until, { deadlineMs: 2 * durationMs, what: "the cutting to end" });
  link.heal();
}

/** A retry of what has been acknowledged is answered with the ids it was acknowledged with; the history compares. */
async function resendNewest(writer: ResendingWriter, to: OplogClient, history: History): Promise<void> {
  const appender = to.appender();
  const { operations, writerId } = writer.plan;
  for (let operation = operations - RETRIED_OPERATIONS + 1; operation <= operations; operation++) {
    const answer = await appender.append(writer.request(operation));
    expect(answer.duplicate).toBe(true);
    history.acknowledged(writerId, BigInt(operation), answer);
  }
  await appender.end();
}
