import { expect, it } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import { History } from "../support/history.js";
import { LeadershipHistory } from "../support/leadership-history.js";
import { waitFor } from "../support/wait.js";
import { machineMs } from "./candidate.js";
import { readBack } from "./recording-follower.js";
import { scaled } from "./scale.js";
import { Side } from "./side.js";
import { anEtcd, atEnd } from "./stage.js";
import { StoreWatch } from "./store-watch.js";
import { faketimeLibrary, WallClock } from "./wall-clock.js";

const LOG = "timed";
const TTL_MS = 1_000;
const RECOVERY_MS_MAX = TTL_MS + scaled(6_000, 2_000);
const HOUR_S = 3_600;
/** How far a clock that has been read in another process may be off. */
const READING_MS = 2_000;
/** Several renewals of the lease, and longer than it lasts without one. */
const KEEPS_MS = 1.3 * TTL_MS;

const library = faketimeLibrary();

it.runIf(library !== undefined)(
  "neither gains nor loses the leadership when a wall clock jumps by an hour",
  {
    timeout: 90_000,
  },
  async () => {
    const etcd = await anEtcd(["--heartbeat-interval", "50", "--election-timeout", "500"]);
    const records = { history: new History(), leadership: new LeadershipHistory() };
    const watch = new StoreWatch(etcd, LOG, records.leadership);
    atEnd(() => watch.close());
    const clock = await WallClock.make(library!);
    const master = {
      log: LOG,
      ttlMs: TTL_MS,
      aliveWithinMs: TTL_MS,
      everyMs: 10,
      appendsAsStandby: true,
      deadlineMs: 5_000,
    };
    const jumping = await Side.start({ name: "jumping", etcd: etcd.endpoint, env: clock.env, master }, records);
    const steady = await Side.start({ name: "steady", etcd: etcd.endpoint, master }, records);

    const jumps = async (leader: Side, offsets: readonly number[]) => {
      for (const offsetS of offsets) {
        clock.set(offsetS);
        await waitFor(async () => Math.abs((await wallClockAheadMs(jumping.client)) - offsetS * 1000) < READING_MS, {
          what: `the wall clock of the sidecar to be ${offsetS} s ahead`,
        });
        await goesOnLeading(leader);
      }
    };
    // The one before may have been claimed by an append that came before the candidates.
    const term = await jumping.master.leads();
    await jumps(jumping, [HOUR_S, -HOUR_S, 0]);
    expect(monotonicErrorMs(jumping)).toBeLessThan(READING_MS);

    // The same to a standby; and it takes over, twice, while its clock is wrong.
    expect(await passesOn(jumping, steady)).toBeGreaterThan(term);
    await jumps(steady, [HOUR_S, -HOUR_S]);
    await passesOn(steady, jumping);
    await jumps(jumping, [HOUR_S]);
    const last = await passesOn(jumping, steady);
    await goesOnLeading(steady);

    await Promise.all([jumping, steady].map(({ master }) => master.hold()));
    const head = await readBack(steady.client, records.history, LOG);
    await watch.reachesNow();
    expect(records.history.violations()).toEqual([]);
    expect(records.leadership.violations()).toEqual([]);
    expect(records.leadership.terms.at(-1)).toBe(last);
    await timestampsNeverFall(steady.client, head);
  },
);

/** Of the sidecar, before that of this process. */
async function wallClockAheadMs(client: OplogClient): Promise<number> {
  for await (const { frame } of client.subscribe({ log: LOG, start: { case: "fromHead", value: true } })) {
    if (frame.case === "heartbeat") return Number(frame.value.timeMs) - Date.now();
  }
  throw new Error("the stream ended without a heartbeat");
}

/** Who resigns stands again soon, and leads again if the other has just lost its lease on a machine that is busy. */
async function passesOn({ master: from }: Side, { name, master: to }: Side): Promise<number> {
  let resignedFrom = 0;
  const hasPassed = () => {
    const { term = 0 } = from;
    if (term > resignedFrom) {
      resignedFrom = term;
      from.resign();
    }
    return (to.term ?? 0) > resignedFrom ? to.term : undefined;
  };
  return (await waitFor(hasPassed, { deadlineMs: 2 * RECOVERY_MS_MAX, what: `${name} to lead` }))!;
}

async function goesOnLeading({ master, name }: Side): Promise<void> {
  const { term } = master;
  const untilMs = machineMs() + KEEPS_MS;
  await master.acknowledgedAfter(untilMs, KEEPS_MS + RECOVERY_MS_MAX);
  expect({ name, term: master.term }).toEqual({ name, term });
}

/** What the sidecar promises is on the clock of the machine; by how much it is not. */
function monotonicErrorMs({ master }: Side): number {
  const promise = master.reports.findLast(({ kind }) => kind === "promised");
  if (promise?.kind !== "promised") throw new Error("no lease was ever renewed");
  return Math.abs(promise.untilMs - machineMs());
}

async function timestampsNeverFall(client: OplogClient, head: number): Promise<void> {
  let before = 0n;
  for (let from = 1n; from <= BigInt(head); ) {
    const { entries, nextSequenceId } = await client.read({ log: LOG, fromSequenceId: from, maxEntries: 10_000 });
    for (const { timestampMs, sequenceId } of entries) {
      if (timestampMs < before) expect.fail(`timestamp ${timestampMs} of entry ${sequenceId} after ${before}`);
      before = timestampMs;
    }
    from = nextSequenceId;
  }
  // That of the clock when it was an hour ahead.
  expect(Number(before) - Date.now()).toBeGreaterThan((HOUR_S * 1000) / 2);
}
