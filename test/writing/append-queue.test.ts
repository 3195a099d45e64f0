import { beforeEach, describe, expect, it } from "vitest";
import { QueueFullError } from "../../src/oplog/append-errors.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { QueueBudget } from "../../src/writing/append-item.js";
import { costOf } from "../../src/writing/seal.js";
import {
  anAppend,
  appendedOf,
  aWriter,
  errorOf,
  inTime,
  keysOf,
  readAtRest,
  testClock,
  useFakeTime,
} from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";

useFakeTime();

let store: FaultyKvStore;
beforeEach(() => {
  store = new FaultyKvStore(new MemoryKvStore({ clock: testClock }));
});

describe("the queue of a writer", () => {
  it("is bounded in bytes and in appends, and says which", async () => {
    const cost = costOf(anAppend().build());
    const { append } = await aWriter(store, { budget: new QueueBudget(2 * cost, 10) });
    append(anAppend());
    append(anAppend());
    const tooMany = anAppend();
    expect(() => append(tooMany)).toThrow(QueueFullError);
    expect(() => append(tooMany)).toThrow(/\(bytes\)/);
    const few = await aWriter(store, { budget: new QueueBudget(1e6, 1), keys: keysOf("few") });
    few.append(anAppend());
    expect(() => few.append(anAppend())).toThrow(/\(appends\)/);
  });

  it("lets what the sidecar itself appends pass, before all that wait", async () => {
    const { append, writer, budget } = await aWriter(store, { budget: new QueueBudget(1e6, 2) });
    const slow = store.hangNextTxn();
    append(anAppend());
    await slow.arrived;
    const waiting = append(anAppend());
    const own = anAppend().build();
    writer.appendFirst(own);
    await slow.answer();
    expect(appendedOf(await inTime(waiting.outcome)).first).toBe(3n);
    expect(appendedOf(own.settled).first).toBe(2n);
    expect(budget.appends).toBe(0);
  });

  it("lets one append pass that is larger than all of it", async () => {
    const { append, budget } = await aWriter(store, { budget: new QueueBudget(10, 10) });
    expect(appendedOf(await inTime(append(anAppend().of(1, 5000)).outcome)).first).toBe(1n);
    expect(budget.bytes).toBe(0);
  });

  it("tells who waits as soon as something has left it", async () => {
    const { append, writer } = await aWriter(store, { budget: new QueueBudget(1e6, 1) });
    append(anAppend());
    const next = anAppend().build();
    expect(writer.hasRoomFor(next)).toBe(false);
    await inTime(writer.roomMade());
    expect(writer.hasRoomFor(next)).toBe(true);
  });

  it("gives back to the byte what it took, refusals, duplicates and the abandoned included", async () => {
    const { append, budget, writer } = await aWriter(store);
    append(anAppend().by("w", 2n));
    append(anAppend().by("w", 2n));
    append(anAppend().by("w", 1n));
    append(anAppend().with({ expectedSequenceId: 50n }));
    append(anAppend().with({ isAbandoned: () => true }));
    expect(budget.appends).toBe(5);
    expect(writer.status.queuedBytes).toBe(budget.bytes);
    await inTime(append(anAppend()).outcome);
    expect(budget).toMatchObject({ bytes: 0, appends: 0 });
    expect(writer.status).toMatchObject({ queuedAppends: 0, queuedBytes: 0 });
  });

  it("drops an append whose caller has left before its turn, without a trace in the log", async () => {
    const { append } = await aWriter(store);
    const slow = store.hangNextTxn();
    append(anAppend().saying("first"));
    await slow.arrived;
    let hasLeft = false;
    const abandoned = append(
      anAppend()
        .by("w", 1n)
        .saying("gone")
        .with({ isAbandoned: () => hasLeft }),
    );
    hasLeft = true;
    const last = append(anAppend().saying("last"));
    await slow.answer();
    await inTime(last.outcome);
    expect(errorOf(abandoned.settled).reason).toBe("ABANDONED");
    const records = await readAtRest(store, keysOf());
    const payloads = records.flatMap(({ entries }) => entries.map(({ payload }) => Buffer.from(payload).toString()));
    expect(payloads).toEqual(["first", "last"]);
    expect(appendedOf(await inTime(append(anAppend().by("w", 1n).saying("again")).outcome)).isDuplicate).toBe(false);
  });
});
