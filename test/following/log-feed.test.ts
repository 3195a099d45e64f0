import { beforeEach, expect, it } from "vitest";
import type { GetResult, PageRequest, WatchRequest } from "../../src/oplog/kv-store.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { trim } from "../../src/stored/trim.js";
import {
  anAppend,
  aWriter,
  inTime,
  keysOf,
  passTime,
  resolveFromStore,
  testClock,
  until,
  useFakeTime,
} from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";
import { aLog, appendTo, aSubscriber } from "./followers.js";

useFakeTime();

const keys = keysOf();

/** Does now and then what a real store is known to do. */
class OddStore extends MemoryKvStore {
  /** Answered once for the head, from the past. */
  staleHead: GetResult | undefined;
  watchesThatEndQuietly = 0;
  /** Called before the ranges of records, with their number. */
  beforeRange: (number: number) => Promise<void> = async () => undefined;
  private ranges = 0;

  override async get(key: string): Promise<GetResult> {
    const stale = key === keys.head ? this.staleHead : undefined;
    if (stale !== undefined) this.staleHead = undefined;
    return stale ?? super.get(key);
  }

  override async page(request: PageRequest) {
    if (!request.keysOnly && request.to === keys.recordsTo) await this.beforeRange(++this.ranges);
    return super.page(request);
  }

  override async *watch(request: WatchRequest, signal: AbortSignal) {
    if (this.watchesThatEndQuietly-- > 0) return;
    yield* super.watch(request, signal);
  }
}

let store: OddStore;
beforeEach(() => {
  store = new OddStore({ clock: testClock, pageBytesMax: 600 });
});

it("what was written here before the feed had looked at the store is continued, though the store answers from the past", async () => {
  const log = aLog(store);
  await appendTo(log, anAppend());
  const past = await store.get(keys.head);
  await appendTo(log, anAppend());
  store.staleHead = past;
  const { sink } = aSubscriber(log);
  await until(() => sink.covered === 2n, "2");
  await appendTo(log, anAppend());
  await until(() => sink.covered === 3n, "3");
});

it("answers from the past that come far apart are not taken for a head that went back for good", async () => {
  const log = aLog(store);
  await appendTo(log, anAppend());
  const past = await store.get(keys.head);
  await appendTo(log, anAppend());
  const { sink, outcome } = aSubscriber(aLog(store));
  await until(() => sink.covered === 2n, "2");
  for (let each = 0; each < 5; each++) {
    store.staleHead = past;
    await passTime(60_000);
  }
  expect(outcome()).toBeUndefined();
  await appendTo(log, anAppend());
  await until(() => sink.covered === 3n, "3", 10_000);
});

it("a watch that ends without an error is begun again", async () => {
  store.watchesThatEndQuietly = 3;
  const broken: unknown[] = [];
  const log = aLog(store, { onBroken: (error) => broken.push(error) });
  const { sink } = aSubscriber(aLog(store, { onBroken: (error) => broken.push(error) }));
  await appendTo(log, anAppend());
  await until(() => sink.covered === 1n, "1");
  expect(broken).toEqual([]);
});

it("a trim that overtakes the reading of the window does not make a committed operation an uncommitted one", async () => {
  const { append } = await aWriter(store, { record: { entriesMax: 1 } });
  const items = Array.from({ length: 41 }, (_, index) => append(anAppend().by("w", BigInt(index + 1))));
  await inTime(Promise.all(items.map(({ outcome }) => outcome)));
  store.beforeRange = async (number) => {
    if (number === 2) await trim(store, keys, 31n);
  };
  expect(await inTime(resolveFromStore(store, keys, "w", 20n))).toMatchObject({ outcome: "forgotten" });
  expect(await inTime(resolveFromStore(store, keys, "w", 35n))).toMatchObject({ outcome: "committed" });
});

it("the beginning is where the floor is, though the watch has not told of it", async () => {
  const network = new FaultyKvStore(store);
  const primary = aLog(store);
  const standby = aLog(network);
  for (let each = 0; each < 5; each++) await appendTo(primary, anAppend());
  const before = aSubscriber(standby);
  await until(() => before.sink.covered === 5n, "5");
  network.dropWatchEvents();
  await trim(store, keys, 4n);
  const { sink } = aSubscriber(standby);
  await until(() => sink.covered === 5n, "5");
  expect(sink.ids).toEqual([4n, 5n]);
});

it("the head stays confirmed while the store answers, and what the watch brings confirms nothing", async () => {
  const network = new FaultyKvStore(store);
  const primary = aLog(store);
  const standby = aLog(network, { headPollMs: 1000 });
  await appendTo(primary, anAppend());
  const { sink } = aSubscriber(standby);
  await until(() => sink.covered === 1n, "1");
  for (let passedMs = 0; passedMs < 10_000; passedMs += 37) {
    await passTime(37);
    expect(standby.feedView.headAgeMs).toBeLessThanOrEqual(500);
  }
  network.failReads();
  await passTime(1000);
  await appendTo(primary, anAppend());
  await until(() => sink.covered === 2n, "2");
  expect(standby.feedView.headAgeMs).toBeGreaterThan(1000);
  expect(standby.feedView.watchAgeMs).toBeLessThan(100);
});
