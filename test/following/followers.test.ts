import { expect, it } from "vitest";
import { type Entry, OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import type { Log } from "../../src/log/log.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { FRAME_ROOM_BYTES, UNKNOWN_ORIGIN } from "../../src/oplog/record.js";
import { anAppend, Dice, keysOf, passTime, readAtRest, testClock, until, useFakeTime } from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";
import { aLog, appendTo, aSubscriber, flawsOf, RecordingSink, type Subscriber } from "./followers.js";

useFakeTime();

const SEEDS = 80;
const STEPS = 150;
const FILTER = { keyPrefix: Buffer.from("a"), opTypes: new Set([OpType.PUT_END]) };
const BATCH_BYTES_MAX = 600;

interface Follower {
  readonly first: bigint;
  readonly subscriber: Subscriber;
  readonly passes: (entry: Entry) => boolean;
}

function aFollower(log: Log, dice: Dice, head: bigint): Follower {
  const slowness = dice.chance(0.4) ? dice.below(80) : 0;
  const delay = () =>
    slowness > 0 ? new Promise<void>((resolve) => void testClock.setTimer(dice.below(slowness), resolve)) : undefined;
  const filter = dice.chance(0.3) ? FILTER : undefined;
  const from = dice.chance(0.5) ? 1n + BigInt(dice.below(Number(head) + 1)) : 1n;
  const subscriber = aSubscriber(log, {
    start: from === 1n ? { kind: "beginning" } : { kind: "sequence", from, previous: UNKNOWN_ORIGIN },
    sink: new RecordingSink(delay),
    filter,
    batchBytesMax: BATCH_BYTES_MAX,
    lingerMs: dice.chance(0.3) ? 20 : 0,
  });
  const passes = ({ key, opType }: Entry) => key.startsWith("a") && opType === OpType.PUT_END;
  return { first: from, subscriber, passes: filter === undefined ? () => true : passes };
}

function anyAppend(dice: Dice) {
  const entries = Array.from({ length: 1 + dice.below(4) }, () => ({
    opType: dice.chance(0.5) ? OpType.PUT_END : OpType.REMOVE,
    key: dice.chance(0.5) ? "a/1" : "b/1",
    payload: Buffer.alloc(dice.below(300), dice.below(256)),
  }));
  return anAppend().with({ entries });
}

/** A primary writes while the network of another sidecar, with its subscribers, breaks in every way there is. */
async function schedule(seed: number) {
  const dice = new Dice(seed);
  const inner = new MemoryKvStore({ clock: testClock, pageBytesMax: 2000, historyBytesMax: 4000 });
  const network = new FaultyKvStore(inner);
  const parts = { cacheBytesMax: 1500, headPollMs: 200 };
  const primary = aLog(inner, parts);
  const standby = aLog(network, parts);
  const followers: Follower[] = [];
  let head = await appendTo(primary, anyAppend(dice));
  const breaks = [
    () => network.breakWatches(),
    () => network.compactUnderWatches(),
    () => network.dropWatchEvents(true),
    () => network.dropWatchEvents(false),
    () => network.failReads(true),
    () => network.failReads(false),
    () => network.goAway(),
    () => network.comeBack(),
    async () => inner.compact((await inner.get("/")).revision),
  ];
  const heal = () => {
    network.comeBack();
    network.failReads(false);
    network.dropWatchEvents(false);
  };

  followers.push(aFollower(primary, dice, 0n), aFollower(standby, dice, 0n));
  // Where a log stands is asked when a subscriber comes, and it is told so when that cannot be said.
  await until(() => followers.every(({ subscriber }) => subscriber.sink.notices.length > 0), "the first heartbeats");
  for (let step = 0; step < STEPS; step++) {
    const roll = dice.roll();
    if (roll < 0.5) head = await appendTo(primary, ...Array.from({ length: 1 + dice.below(3) }, () => anyAppend(dice)));
    else if (roll < 0.7) await breaks[dice.below(breaks.length)]!();
    else if (roll < 0.74 && followers.length < 8) followers.push(aFollower(primary, dice, head));
    else if (roll < 0.76 && followers.length < 8) {
      heal();
      await passTime(3000);
      followers.push(aFollower(standby, dice, head));
      await passTime(0);
    } else await passTime(dice.below(150));
  }
  heal();
  const reached = () => followers.every(({ subscriber, first }) => subscriber.sink.covered >= head || first > head);
  await until(
    () => reached() || followers.some(({ subscriber }) => subscriber.outcome() !== undefined),
    "all at the head",
  );
  const atRest = new Map<bigint, Entry>();
  for (const { entries } of await readAtRest(inner, keysOf())) {
    for (const entry of entries) atRest.set(entry.sequenceId, entry);
  }
  const flaws = followers.flatMap(({ first, subscriber, passes }, index) => {
    const outcome = subscriber.outcome();
    return [
      ...flawsOf(subscriber, first, atRest, passes),
      ...(outcome === undefined ? [] : [`ended: ${outcome}`]),
      ...subscriber.sink.batches
        .filter(({ bytes, entries }) => bytes > BATCH_BYTES_MAX + FRAME_ROOM_BYTES && entries.length > 1)
        .map(({ bytes }) => `a frame of ${bytes} bytes`),
    ].map((flaw) => `subscriber ${index}: ${flaw}`);
  });
  for (const { subscriber } of followers) subscriber.leave();
  const noticed = followers.flatMap(({ subscriber }) => subscriber.sink.noticed);
  await passTime(10_000);
  await Promise.all([primary.close(), standby.close()]);
  return { flaws, noticed, openSubscriptions: primary.subscriptions.size + standby.subscriptions.size };
}

it("subscribers of every kind receive one contiguous run through every break of watch, reads and store", {
  timeout: 120_000,
}, async () => {
  const noticed = new Map<string, number>();
  for (let seed = 1; seed <= SEEDS; seed++) {
    const verdict = await schedule(seed);
    expect(verdict.flaws, `seed ${seed}`).toEqual([]);
    expect(verdict.openSubscriptions, `seed ${seed}`).toBe(0);
    for (const kind of verdict.noticed) noticed.set(kind, (noticed.get(kind) ?? 0) + 1);
  }
  // What was meant to happen did.
  for (const kind of ["fell behind", "caught up", "gap"])
    expect(noticed.get(kind) ?? 0, kind).toBeGreaterThan(SEEDS / 10);
});
