import { expect, it } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import { History } from "../support/history.js";
import { waitFor } from "../support/wait.js";
import { RecordingFollower, readBack } from "./recording-follower.js";
import { scaled } from "./scale.js";
import { aClientOf, aFaultProxy, anEtcd, anOplogd, put, revisionOf } from "./stage.js";

const LOG = "compacted";
const APPENDS = scaled(2_000, 20_000);
/** All together far more than what is on its way to a subscriber that does not read. */
const PADDING = "x".repeat(10_000);
const CATCH_UP_STEPS = 20;

it("misses nothing when etcd is compacted again and again during a catch-up", async () => {
  const { etcd, writer, standby, history } = await aPrimaryAndAStandby();
  await writer.append(APPENDS);

  const seen = history.subscriber("slow");
  const stepEntries = Math.floor(APPENDS / CATCH_UP_STEPS);
  let compactAt = stepEntries;
  // Frames of the least size, and nothing read ahead of the loop but what flow control lets through.
  for await (const event of standby.follow({ log: LOG, maxBatchBytes: 4096 })) {
    if (event.case !== "batch") continue;
    for (const entry of event.value.entries) seen.add(entry);
    if (seen.last >= compactAt && seen.last < APPENDS) {
      compactAt += stepEntries;
      // The log moves on while history is read, so that the watch has revisions to lose too.
      await writer.append(1);
      await etcd.compact(await revisionOf(etcd));
    }
    if (seen.last >= writer.head) break;
  }

  await readBack(standby, history, LOG);
  expect(history.violations()).toEqual([]);
});

it("misses nothing when a subscriber that was away resumes after a compaction", async () => {
  const { etcd, writer, standby, history } = await aPrimaryAndAStandby();
  await writer.append(100);

  const seen = history.subscriber("away");
  const readUntil = async (id: number, previousTerm?: bigint) => {
    const start = { case: "fromSequenceId", value: BigInt(seen.last + 1) } as const;
    for await (const { frame } of standby.subscribe({ log: LOG, start, previousTerm: previousTerm ?? 0n })) {
      if (frame.case === "batch") for (const entry of frame.value.entries) seen.add(entry);
      if (seen.last >= id) return;
    }
  };
  await readUntil(100);
  await writer.append(APPENDS);
  await etcd.compact(await revisionOf(etcd));
  await readUntil(writer.head, 1n);

  await readBack(standby, history, LOG);
  expect(history.violations()).toEqual([]);
});

it("misses nothing when etcd is compacted while the sidecar is cut off from it", async () => {
  const { etcd, wire, writer, standby, history } = await aPrimaryAndAStandby();
  await writer.append(100);
  const follower = new RecordingFollower(standby, history, LOG, "cut-off");
  await follower.reaches(100);

  await wire.refuse(true);
  await writer.append(APPENDS);
  await etcd.compact(await revisionOf(etcd));
  expect(follower.seen.last).toBe(100);
  await wire.refuse(false);
  await follower.reaches(writer.head);

  // Live again: what comes now comes through the new watch.
  await writer.append(10);
  await follower.reaches(writer.head, 2_000);
  await follower.close();
  expect(follower.breaks).toBe(0);
  await readBack(standby, history, LOG);
  expect(history.violations()).toEqual([]);
});

it("misses nothing when etcd is compacted while the watch is held up", async () => {
  const { etcd, wire, writer, standby, history } = await aPrimaryAndAStandby();
  await writer.append(100);
  const follower = new RecordingFollower(standby, history, LOG, "held-up");
  await follower.reaches(100);

  wire.blackHole(true);
  await writer.append(APPENDS);
  await etcd.compact(await revisionOf(etcd));
  wire.cutAll();
  wire.blackHole(false);
  await follower.reaches(writer.head);

  await follower.close();
  await readBack(standby, history, LOG);
  expect(history.violations()).toEqual([]);
});

/** The primary has a connection of its own to etcd; that of the standby, where subscribers are, can be broken. */
async function aPrimaryAndAStandby() {
  const etcd = await anEtcd();
  const wire = await aFaultProxy(etcd.port);
  const primary = await anOplogd({ store: { etcd: etcd.endpoint }, args: ["--sidecar-id", "primary"] });
  const standbyArgs = ["--sidecar-id", "standby", "--subscribe-cache-bytes-max", "64KiB", "--tail-head-poll", "200ms"];
  standbyArgs.push("--subscribe-buffer-bytes-max", "64KiB");
  const standby = await anOplogd({ store: { etcd: wire.endpoint }, args: standbyArgs });
  const history = new History();
  await waitFor(() => wire.stats.accepted > 0, { what: "the standby to connect" });
  return { etcd, wire, history, writer: new Writer(aClientOf(primary), history), standby: aClientOf(standby) };
}

/** Appends entries one by one, each a record or nearly so. */
class Writer {
  head = 0;

  constructor(
    private readonly client: OplogClient,
    private readonly history: History,
  ) {}

  async append(count: number): Promise<void> {
    const appender = this.client.appender({ inFlightMax: 8 });
    const answers: Promise<void>[] = [];
    for (const end = this.head + count; this.head < end; ) {
      const operationId = BigInt(++this.head);
      const entries = [put(`entry ${operationId}`, PADDING)];
      this.history.sent("writer", operationId, entries);
      await appender.ready();
      const answer = appender.append({ log: LOG, writerId: "writer", operationId, entries });
      answers.push(answer.then((ids) => this.history.acknowledged("writer", operationId, ids)));
    }
    await Promise.all([appender.end(), ...answers]);
  }
}
