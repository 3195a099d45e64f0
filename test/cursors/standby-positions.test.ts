import { create, toBinary } from "@bufbuild/protobuf";
import * as fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type StandbyDemand, StandbyPositions } from "../../src/cursors/standby-positions.js";
import { type StandbyWait, StandbyWaits } from "../../src/cursors/standby-waits.js";
import { CursorSchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import { silentLogger } from "../../src/oplog/logger.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { Dice, keysOf, passTime, testClock, until, useFakeTime } from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";

useFakeTime();

const keys = keysOf();
const POLL_MS = 1000;
let store: FaultyKvStore;
let standbys: StandbyPositions;
beforeEach(() => {
  store = new FaultyKvStore(new MemoryKvStore({ clock: testClock }));
  standbys = new StandbyPositions({ store, keys, clock: testClock, logger: silentLogger, pollMs: POLL_MS, onBroken });
});
const onBroken = (error: unknown) => {
  throw error;
};
afterEach(() => standbys.close());

const received = (count: number, timeoutMs = 5000): StandbyDemand => ({ position: "received", count, timeoutMs });
const applied = (count: number, timeoutMs = 5000): StandbyDemand => ({ position: "applied", count, timeoutMs });

/** What a standby reports at a sidecar of its own: only the store tells of it. */
async function report(consumer: string, receivedId: number, appliedId = receivedId): Promise<void> {
  const cursor = create(CursorSchema, { receivedSequenceId: BigInt(receivedId), appliedSequenceId: BigInt(appliedId) });
  const write = { kind: "put" as const, key: keys.cursor(consumer), value: toBinary(CursorSchema, cursor) };
  await store.txn({ compares: [], writes: [write] });
}

async function forget(consumer: string): Promise<void> {
  await store.txn({ compares: [], writes: [{ kind: "delete", key: keys.cursor(consumer) }] });
}

/** What a standby reports at this sidecar, once it is durable at that revision. */
function note(consumer: string, id: number, modRevision: bigint): void {
  const cursor = create(CursorSchema, { receivedSequenceId: BigInt(id), appliedSequenceId: BigInt(id) });
  standbys.note({ consumer, cursor, modRevision });
}

interface Waiting {
  /** How many had passed when it was answered. */
  reached: number | undefined;
  release(): void;
}

function wait(lastSequenceId: number, demand: StandbyDemand): Waiting {
  const waiting: Waiting = { reached: undefined, release: () => undefined };
  waiting.release = standbys.wait(BigInt(lastSequenceId), demand, (reached) => {
    if (waiting.reached !== undefined) throw new Error("settled twice");
    waiting.reached = reached;
  });
  return waiting;
}

describe("an append that waits for standbys", () => {
  it("counts every sound cursor, also while another one is damaged and becomes so", async () => {
    const damaged = { kind: "put" as const, key: keys.cursor("bad"), value: Buffer.from([0x0b]) };
    await store.txn({ compares: [], writes: [damaged] });
    const one = wait(5, received(1));
    await report("sound", 5);
    await until(() => one.reached === 1, "the sound one to count");
    await report("bad", 9);
    const two = wait(6, received(1));
    await until(() => two.reached === 1, "the repaired one to count");
    await store.txn({ compares: [], writes: [damaged] });
    await passTime(2 * POLL_MS);
    const none = wait(6, received(1, 3000));
    await passTime(3000);
    expect(none.reached).toBe(0);
  });

  it("is answered when as many as it wants have passed its last id, by the position it wants", async () => {
    const [one, two, both] = [wait(10, received(1)), wait(10, received(2)), wait(10, applied(2))];
    await report("a", 10, 9);
    await passTime(0);
    expect([one.reached, two.reached, both.reached]).toEqual([1, undefined, undefined]);
    await report("b", 12, 12);
    await passTime(0);
    expect([two.reached, both.reached]).toEqual([2, undefined]);
    await report("a", 10, 10);
    await passTime(0);
    expect(both.reached).toBe(2);
  });

  it("finds what was reported before it came", async () => {
    await report("a", 10);
    const waiting = wait(10, applied(1));
    await passTime(0);
    expect(waiting.reached).toBe(1);
  });

  it("counts a consumer once, however often it reports", async () => {
    const waiting = wait(10, received(2));
    for (const id of [10, 11, 12]) await report("a", id);
    await passTime(4999);
    expect(waiting.reached).toBeUndefined();
    await passTime(1);
    expect(waiting.reached).toBe(1);
  });

  it("is answered with none when its time is over and nobody has reported", async () => {
    const waiting = wait(1, received(1, 60_000));
    await passTime(59_999);
    expect(waiting.reached).toBeUndefined();
    await passTime(1);
    expect(waiting.reached).toBe(0);
  });

  it("does not count one that has gone back, or is gone, by the time of the answer", async () => {
    const waiting = wait(10, received(3));
    for (const consumer of ["a", "b", "c"]) await report(consumer, consumer === "c" ? 9 : 10);
    await passTime(0);
    await report("a", 3);
    await passTime(0);
    waiting.release();
    expect(waiting.reached).toBe(1);
    const next = wait(10, received(2));
    await forget("b");
    await passTime(5000);
    expect(next.reached).toBe(0);
  });

  it("is answered at once when its caller leaves, and only then", async () => {
    const waiting = wait(10, received(1));
    waiting.release();
    expect(waiting.reached).toBe(0);
    await report("a", 10);
    await passTime(10_000);
    expect(waiting.reached).toBe(0);
  });

  it("is answered at once by a drain, and so is whoever comes after", async () => {
    await report("a", 10);
    const [early, other] = [wait(10, applied(2)), wait(11, received(1))];
    await passTime(0);
    standbys.drain();
    expect([early.reached, other.reached]).toEqual([1, 0]);
    expect(wait(10, applied(2)).reached).toBe(1);
  });
});

describe("the cursors in the store", () => {
  it("are read and watched only while somebody waits, or did so just now", async () => {
    await passTime(60_000);
    expect(store.calls).toMatchObject({ reads: 0, watches: 0 });
    wait(1, received(1, 100));
    await passTime(3000);
    expect(store.calls.watches).toBe(1);
    await passTime(5000);
    const { reads } = store.calls;
    await passTime(60_000);
    expect(store.calls).toMatchObject({ reads, watches: 1 });
  });

  it("count as unknown until they have been read again after a rest", async () => {
    await report("a", 10);
    wait(10, received(1));
    await passTime(10_000);
    await report("a", 5);
    const waiting = wait(10, received(1));
    expect(waiting.reached).toBeUndefined();
    await passTime(5000);
    expect(waiting.reached).toBe(0);
  });

  it.each<[string, () => void]>([
    ["a break of the watch", () => store.breakWatches()],
    ["a compaction under the watch", () => store.compactUnderWatches()],
    [
      "an outage",
      () => {
        store.goAway();
        testClock.setTimer(2000, () => store.comeBack());
      },
    ],
  ])("are read again after %s", async (_, happens) => {
    const waiting = wait(10, received(1, 60_000));
    await passTime(0);
    happens();
    await passTime(2000);
    await report("a", 10);
    await until(() => waiting.reached !== undefined, "the answer", 2000);
    expect(waiting.reached).toBe(1);
  });

  it("are polled, so that a watch that is silent delays an answer and no more, and is begun again", async () => {
    const waiting = wait(10, received(1, 60_000));
    await passTime(0);
    store.dropWatchEvents();
    await report("a", 10);
    await passTime(POLL_MS);
    expect(waiting.reached).toBe(1);
    const later = wait(11, received(1, 60_000));
    store.dropWatchEvents(false);
    await until(() => store.calls.watches > 1, "another watch", 3 * POLL_MS);
    await report("a", 11);
    await passTime(0);
    expect(later.reached).toBe(1);
  });

  it("count by their newest revision, whichever way it was heard of", async () => {
    const waiting = wait(10, received(1, 60_000));
    await report("a", 10);
    await passTime(0);
    expect(waiting.reached).toBe(1);
    await report("a", 5);
    await passTime(0);
    const late = wait(8, received(1, 60_000));
    note("a", 10, 1n);
    expect(late.reached).toBeUndefined();
    note("a", 10, 100n);
    expect(late.reached).toBe(1);
  });

  it("that vanish unseen are found missing by the poll, and those it cannot have seen yet are kept", async () => {
    const waiting = wait(10, received(3, 3 * POLL_MS));
    await report("a", 10);
    await passTime(0);
    store.dropWatchEvents();
    await forget("a");
    note("b", 10, 100n);
    await passTime(3 * POLL_MS);
    expect(waiting.reached).toBe(1);
  });

  it("are those that the store tells of as of the term that was claimed last, or later", async () => {
    await report("a", 10);
    const past = await store.page({ from: keys.cursorsFrom, to: keys.cursorsTo, limit: 10, bytesMax: 1000 });
    await forget("a");
    const { revision } = await store.txn({ compares: [], writes: [{ kind: "delete", key: keys.nothing }] });
    const page = store.page.bind(store);
    store.page = () => Promise.resolve(past);
    standbys.renew(revision);
    const waiting = wait(10, received(1, 60_000));
    note("a", 10, past.revision);
    await passTime(3 * POLL_MS);
    expect(waiting.reached).toBeUndefined();
    store.page = page;
    await report("a", 10);
    await until(() => waiting.reached === 1, "the standby to be known", 3 * POLL_MS);
  });

  it("are known again when a term is claimed while an append waits", async () => {
    await report("a", 5);
    const waiting = wait(10, received(1, 60_000));
    await passTime(0);
    const { revision } = await store.get(keys.term);
    standbys.renew(revision);
    await report("a", 10);
    await until(() => waiting.reached === 1, "the standby to be known", 3 * POLL_MS);
  });

  it("are read again until they can be, when one of them makes no sense", async () => {
    await store.txn({ compares: [], writes: [{ kind: "put", key: keys.cursor("x"), value: Buffer.from([0xff]) }] });
    const waiting = wait(10, received(1, 60_000));
    await passTime(3000);
    await forget("x");
    await report("a", 10);
    await until(() => waiting.reached !== undefined, "the answer", 3000);
    expect(waiting.reached).toBe(1);
  });

  it("settle thousands of waits in the order of their ids, at little cost each", async () => {
    const order: number[] = [];
    const ids = Array.from({ length: 5000 }, (_, index) => (index * 7919) % 5000);
    for (const id of ids) standbys.wait(BigInt(id + 1), applied(1, 60_000), () => order.push(id + 1));
    for (let id = 500; id <= 5000; id += 500) {
      await report("a", id);
      await passTime(0);
      expect(order).toHaveLength(id);
    }
    expect(order).toEqual([...order].sort((a, b) => a - b));
  });
});

describe("the waits of a level", () => {
  it("give up the lowest first, whoever has left in between", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(50), { maxLength: 60 }), fc.integer(), (ids, seed) => {
        const dice = new Dice(seed);
        const waits = new StandbyWaits<StandbyWait>();
        let inside: StandbyWait[] = ids.map((id) => ({ lastSequenceId: BigInt(id), index: -1 }));
        for (const each of inside) waits.add(each);
        inside = inside.filter((each) => {
          if (dice.chance(0.6)) return true;
          waits.remove(each);
          waits.remove(each);
          return false;
        });
        const order: bigint[] = [];
        for (let lowest = waits.lowest; lowest !== undefined; lowest = waits.lowest) {
          order.push(lowest.lastSequenceId);
          waits.remove(lowest);
        }
        const expected = inside.map(({ lastSequenceId }) => lastSequenceId).sort((a, b) => Number(a - b));
        expect(order).toEqual(expected);
      }),
    );
  });
});
