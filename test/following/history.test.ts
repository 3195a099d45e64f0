import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { beforeEach, describe, expect, it } from "vitest";
import { type Head, HeadSchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import type { Log } from "../../src/log/log.js";
import { HistoryDivergedError } from "../../src/oplog/log-errors.js";
import { type Origin, UNKNOWN_ORIGIN } from "../../src/oplog/record.js";
import { readOrigin } from "../../src/stored/history.js";
import { trim } from "../../src/stored/trim.js";
import { anAppend, inTime, keysOf, readAtRest, testClock, until, useFakeTime } from "../log/support.js";
import { type Backup, RestorableKvStore } from "../support/restorable-kv-store.js";
import { aLog, appendTo, aSubscriber, type Subscriber } from "./followers.js";

useFakeTime();

const keys = keysOf();
let store: RestorableKvStore;
/** A sidecar that stays away while the store is put back and goes on. */
let away: Log;
beforeEach(() => {
  store = new RestorableKvStore(testClock);
  away = aLog(store);
});

/** Entries by a sidecar that has seen nothing before: each call under the next term, in records of its own. */
async function append(...counts: number[]): Promise<void> {
  const log = aLog(store);
  for (const count of counts) await appendTo(log, anAppend().of(count));
}

/** 1..3 in the backup, 4..6 lost; then the store goes on by itself, under the same term again. */
async function fork(...counts: number[]): Promise<Backup> {
  await append(3);
  const backup = await store.backup();
  await append(3);
  await store.restore(backup);
  await append(...counts);
  return backup;
}

async function errorOf({ ended }: Subscriber): Promise<unknown> {
  return inTime(
    ended.then(
      () => "left",
      (error: unknown) => error,
    ),
  );
}

const originOf = (id: bigint) => readOrigin(store, keys, id, undefined);

describe("a follower that has seen entries that are lost", () => {
  /** Follows until 6, and has no contact with the store until that has been put back and has gone on. */
  async function follower(...counts: number[]): Promise<Subscriber> {
    await append(3);
    const backup = await store.backup();
    const subscriber = aSubscriber(away);
    await append(3);
    await until(() => subscriber.sink.covered === 6n, "6");
    await store.restore(backup);
    await append(...counts);
    return subscriber;
  }

  it.each([
    ["has grown past it", [3, 4]],
    ["has grown past it in the middle of a record", [10]],
    ["is exactly as long again", [3]],
    ["is exactly as long again, in records of another size", [1, 2]],
  ])("is told so when the new history %s", async (_, counts) => {
    const subscriber = await follower(...counts);
    const error = await errorOf(subscriber);
    expect(error).toBeInstanceOf(HistoryDivergedError);
    expect(error).toMatchObject({ facts: { log: "log", sequence_id: 6n } });
    expect(subscriber.sink.covered).toBe(6n);
  });

  it("goes on where nothing that it has seen is lost", async () => {
    const subscriber = aSubscriber(away);
    await append(3);
    await until(() => subscriber.sink.covered === 3n, "3");
    await store.restore(await store.backup());
    await append(3);
    await until(() => subscriber.sink.covered === 6n, "6");
    expect(subscriber.outcome()).toBeUndefined();
  });
});

describe("a subscriber that hands back a chain", () => {
  const resumed = (from: bigint, previous: Origin) =>
    aSubscriber(away, { start: { kind: "sequence", from, previous }, logId: away.feedView.logId ?? new Uint8Array() });

  it.each([
    ["past the end of the lost entries", 7n, [10]],
    ["at the new head", 7n, [3]],
    ["in the middle of what was lost", 6n, [10]],
    ["beyond the new head", 7n, [1]],
  ])("of a lost entry is refused %s, though the terms agree", async (_, from, counts) => {
    await append(3);
    const backup = await store.backup();
    await append(3);
    const lost = await originOf(from - 1n);
    await store.restore(backup);
    await append(...counts);
    const current = await originOf(from - 1n);
    if (current.chain !== "") expect(current.term).toBe(lost.term);
    const error = await errorOf(resumed(from, lost));
    expect(error).toMatchObject({
      reason: "HISTORY_DIVERGED",
      facts: {
        sequence_id: from - 1n,
        yours: lost.chain,
        current: current.chain === "" ? "none, since it ends at 4" : current.chain,
      },
    });
  });

  it("of a log that is gone is refused, and does not wait for another one", async () => {
    await append(3);
    const lost = await originOf(3n);
    await store.restore([]);
    expect(await errorOf(resumed(4n, lost))).toMatchObject({
      reason: "HISTORY_DIVERGED",
      facts: { sequence_id: 3n, yours: lost.chain, current: "none, since there is no such log" },
    });
  });

  it("of an entry in the backup continues behind it", async () => {
    await fork(5);
    const subscriber = resumed(3n, await originOf(2n));
    await until(() => subscriber.sink.covered === 8n, "8");
    expect(subscriber.sink.ids).toEqual([3n, 4n, 5n, 6n, 7n, 8n]);
  });

  it("is told of the chain of what it has by the first heartbeat and every batch, filtered or not", async () => {
    await append(2, 3);
    const none = { keyPrefix: Buffer.from("nothing"), opTypes: new Set<never>() };
    const { sink } = aSubscriber(away, {
      start: { kind: "sequence", from: 3n, previous: await originOf(2n) },
      filter: none,
    });
    await until(() => sink.covered === 5n, "5");
    expect(sink.notices[0]).toMatchObject({ kind: "heartbeat", sent: 2n, sentOrigin: await originOf(2n) });
    expect(sink.batches.at(-1)).toMatchObject({ entries: [], last: 5n, lastOrigin: await originOf(5n) });
  });

  it("at the floor is compared with what the first record left says of the one before", async () => {
    await fork(1, 1, 4);
    const before = await originOf(4n);
    const after = await originOf(5n);
    await trim(store, keys, 5n);
    expect(await originOf(4n)).toMatchObject({ chain: before.chain });
    expect(await errorOf(resumed(5n, after))).toBeInstanceOf(HistoryDivergedError);
    const subscriber = resumed(5n, before);
    await until(() => subscriber.sink.covered === 9n, "9");
  });

  it("after everything was trimmed is compared with the head", async () => {
    await append(3);
    const { chain } = await originOf(3n);
    await trim(store, keys, 4n);
    expect(await originOf(3n)).toMatchObject({ chain });
    expect(await errorOf(resumed(4n, { term: 0n, chain: "00".repeat(16) }))).toBeInstanceOf(HistoryDivergedError);
  });
});

describe("a log that was written before records were chained", () => {
  /** As the version before left it: no field of the chain anywhere. */
  async function unchain(): Promise<Head> {
    const { pair } = await store.get(keys.head);
    const value = toBinary(HeadSchema, { ...fromBinary(HeadSchema, pair!.value), recordNonce: new Uint8Array() });
    await store.txn({ compares: [], writes: [{ kind: "put", key: keys.head, value }] });
    return fromBinary(HeadSchema, value);
  }

  it("is taken over: the first record of this version names the last one before it", async () => {
    await append(3);
    expect((await unchain()).recordNonce).toHaveLength(0);
    const { sink } = aSubscriber(away, { start: { kind: "head" } });
    await until(() => sink.noticed.includes("caught up"), "the head");
    await append(2);
    await until(() => sink.covered === 5n, "5");
    expect(await readAtRest(store, keys)).toHaveLength(2);
    expect((await originOf(3n)).chain).toMatch(/^[0-9a-f]{32}$/);
  });

  it("shows by its old records too that another history has taken their place", async () => {
    await append(3);
    const backup = await store.backup();
    await append(3);
    await unchain();
    const lost = await originOf(6n);
    await store.restore(backup);
    await append(9);
    const start = { kind: "sequence", from: 7n, previous: { ...UNKNOWN_ORIGIN, chain: lost.chain } } as const;
    expect(await errorOf(aSubscriber(away, { start }))).toBeInstanceOf(HistoryDivergedError);
  });
});
