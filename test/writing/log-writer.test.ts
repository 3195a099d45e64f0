import { beforeEach, describe, expect, it } from "vitest";
import {
  ExpectedSequenceMismatchError,
  OperationContentMismatchError,
  OperationIdUsedError,
  OutcomeUnknownError,
  RuledOutError,
} from "../../src/oplog/append-errors.js";
import { ShuttingDownError } from "../../src/oplog/errors.js";
import { NotPrimaryError, StaleTermError } from "../../src/oplog/leadership-errors.js";
import { DataLossError } from "../../src/oplog/log-errors.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { decodeRecord } from "../../src/oplog/record.js";
import { StoreRefusalError, StoreUnavailableError } from "../../src/oplog/store-errors.js";
import { costOf } from "../../src/writing/seal.js";
import {
  anAppend,
  appendedOf,
  aWriter,
  errorOf,
  inTime,
  keysOf,
  passTime,
  putHeadAgain,
  readAtRest,
  resolveFromStore,
  testClock,
  theFakeTime,
  useFakeTime,
} from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";
import { aLogger } from "../support/logged-lines.js";

useFakeTime();

const keys = keysOf();
let store: FaultyKvStore;
beforeEach(() => {
  store = new FaultyKvStore(new MemoryKvStore({ clock: testClock }));
});

const payloads = async () =>
  (await readAtRest(store, keys)).flatMap(({ entries }) =>
    entries.map(({ payload }) => Buffer.from(payload).toString()),
  );
const ids = async () => (await readAtRest(store, keys)).map(({ first, last }) => `${first}..${last}`);

describe("group commit", () => {
  it("writes what has queued up while the line was busy as one record", async () => {
    const { append } = await aWriter(store);
    const slow = store.hangNextTxn();
    append(anAppend());
    await slow.arrived;
    const queued = [append(anAppend().of(2)), append(anAppend()), append(anAppend().of(3))];
    await slow.answer();
    const outcomes = await inTime(Promise.all(queued.map(({ outcome }) => outcome)));
    expect(outcomes.map((outcome) => appendedOf(outcome).first)).toEqual([2n, 4n, 5n]);
    expect(await ids()).toEqual(["1..1", "2..7"]);
  });

  it("starts a new record at the bound of entries, and never splits an append", async () => {
    const { append } = await aWriter(store, { record: { entriesMax: 5 } });
    const appends = [3, 2, 1, 5, 9, 1].map((count) => append(anAppend().of(count)));
    await inTime(Promise.all(appends.map(({ outcome }) => outcome)));
    expect(await ids()).toEqual(["1..5", "6..6", "7..11", "12..20", "21..21"]);
  });

  it("starts a new record at the bound of bytes", async () => {
    const cost = costOf(anAppend().of(1, 100).build());
    const { append } = await aWriter(store, { record: { bytesMax: 2 * cost } });
    const appends = [1, 2, 3].map(() => append(anAppend().of(1, 100)));
    await inTime(Promise.all(appends.map(({ outcome }) => outcome)));
    expect(await ids()).toEqual(["1..2", "3..3"]);
  });

  it("answers in the order of the appends, refusals among them", async () => {
    const { append } = await aWriter(store);
    const order: string[] = [];
    const noting = (name: string) => anAppend().with({ onSettled: () => order.push(name) });
    append(noting("first"));
    append(noting("refused").with({ expectedSequenceId: 99n }));
    append(noting("second"));
    await inTime(append(noting("last").with({ expectedTerm: 42n })).outcome);
    expect(order).toEqual(["first", "refused", "second", "last"]);
  });

  it("acknowledges nothing before the store has answered", async () => {
    const { append, committed, writer } = await aWriter(store);
    const slow = store.hangNextTxn();
    const first = append(anAppend());
    await slow.applyNow();
    await passTime(1000);
    expect(first.settled).toBeUndefined();
    expect(committed).toEqual([]);
    expect(writer.lastSequenceId).toBe(0n);
    await slow.answer();
    await inTime(first.outcome);
    expect(committed.map(({ first: from, last, term }) => [from, last, term])).toEqual([[1n, 1n, 1n]]);
  });

  it("gives times that do not fall when the wall clock does", async () => {
    const wall = [5000, 3000, 7000];
    const { append } = await aWriter(store, {});
    for (const timeMs of wall) {
      theFakeTime().setWall(timeMs);
      await inTime(append(anAppend()).outcome);
    }
    const records = await readAtRest(store, keys);
    expect(records.map(({ entries }) => entries[0]!.timestampMs)).toEqual([5000n, 5000n, 7000n]);
  });
});

describe("the time of a log", () => {
  const DAY_MS = 86_400_000;
  const timesAfter = async (...wall: number[]) => {
    for (const timeMs of wall) {
      const { append, abort } = await aWriter(store);
      theFakeTime().setWall(timeMs);
      await inTime(append(anAppend()).outcome);
      abort();
    }
    const { pairs } = await store.page({ from: keys.recordsFrom, to: keys.recordsTo, limit: 100, bytesMax: 1 << 20 });
    return pairs.map(({ value }) => Number(decodeRecord(value).header.timestampMs));
  };
  const nowMs = 1_800_000_000_000;

  it("goes on from the clock of a later leader where one before it was years ahead", async () => {
    expect(await timesAfter(nowMs, nowMs + 1000 * DAY_MS, nowMs + 10, nowMs + 20)).toEqual([
      nowMs,
      nowMs + 1000 * DAY_MS,
      nowMs + 10,
      nowMs + 20,
    ]);
  });

  it("stands still for up to a day until the clock has caught up, and with a clock that was never set", async () => {
    expect(await timesAfter(nowMs, nowMs - DAY_MS, 5000, nowMs + 1)).toEqual([nowMs, nowMs, nowMs, nowMs + 1]);
  });
});

describe("compare-and-append", () => {
  it("sees the appends before it in the same record", async () => {
    const { append } = await aWriter(store);
    const pipeline = [0n, 1n, 1n, 2n].map((expectedSequenceId) => append(anAppend().with({ expectedSequenceId })));
    await inTime(pipeline[3]!.outcome);
    expect(pipeline.map(({ settled }) => (settled && "error" in settled ? settled.error.facts : "ok"))).toEqual([
      "ok",
      "ok",
      { expected: 1n, head: 2n },
      "ok",
    ]);
    expect(errorOf(pipeline[2]!.settled)).toBeInstanceOf(ExpectedSequenceMismatchError);
    expect(await ids()).toEqual(["1..3"]);
  });

  it("leaves no hole where an append was refused", async () => {
    const { append } = await aWriter(store);
    append(anAppend().with({ expectedSequenceId: 7n }).of(3));
    expect(appendedOf(await inTime(append(anAppend()).outcome)).first).toBe(1n);
  });

  it("refuses a term that is not the writer's", async () => {
    const { append } = await aWriter(store);
    const error = errorOf(await inTime(append(anAppend().with({ expectedTerm: 2n })).outcome));
    expect(error).toBeInstanceOf(StaleTermError);
    expect(error.facts).toEqual({ yours: 2n, current: 1n });
    expect(appendedOf(await inTime(append(anAppend().with({ expectedTerm: 1n })).outcome)).first).toBe(1n);
  });
});

describe("an operation that is sent again", () => {
  it("in the same record is answered with the ids of the first", async () => {
    const { append } = await aWriter(store);
    const both = [append(anAppend().by("w", 1n).of(2)), append(anAppend().by("w", 1n).of(2))];
    const [first, again] = (await inTime(Promise.all(both.map(({ outcome }) => outcome)))).map(appendedOf);
    expect(first).toMatchObject({ first: 1n, last: 2n, isDuplicate: false });
    expect(again).toMatchObject({ first: 1n, last: 2n, term: 1n, isDuplicate: true });
    expect(await ids()).toEqual(["1..2"]);
  });

  it("while the first is in flight waits for it, and shares its fate", async () => {
    const { append } = await aWriter(store, { writeDeadlineMs: 100 });
    const slow = store.hangNextTxn();
    const first = append(anAppend().by("w", 1n));
    await slow.arrived;
    const again = append(anAppend().by("w", 1n));
    expect(again.settled).toBeUndefined();
    await slow.answer();
    expect(appendedOf(await inTime(again.outcome))).toMatchObject({ first: 1n, isDuplicate: true });
    expect(appendedOf(first.settled).isDuplicate).toBe(false);
  });

  it("in a record that never becomes durable is not acknowledged either", async () => {
    const { append, budget } = await aWriter(store, { writeDeadlineMs: 100 });
    store.goAway();
    const both = [append(anAppend().by("w", 1n)), append(anAppend().by("w", 1n))];
    const outcomes = await inTime(Promise.all(both.map(({ outcome }) => outcome)));
    expect(outcomes.map(errorOf).every((error) => error instanceof OutcomeUnknownError)).toBe(true);
    expect(budget).toMatchObject({ bytes: 0, appends: 0 });
  });

  it("is answered even while what shares its turn fails", async () => {
    const { append } = await aWriter(store, { writeDeadlineMs: 100 });
    await inTime(append(anAppend().by("w", 1n)).outcome);
    store.goAway();
    const retry = append(anAppend().by("w", 1n));
    const fresh = append(anAppend().by("w", 2n));
    expect(errorOf(await inTime(fresh.outcome))).toBeInstanceOf(OutcomeUnknownError);
    expect(appendedOf(retry.settled)).toMatchObject({ first: 1n, isDuplicate: true });
  });

  it("comes before a comparison that its first commit has overtaken", async () => {
    const { append } = await aWriter(store);
    const compared = anAppend().by("w", 1n).with({ expectedSequenceId: 0n });
    await inTime(append(compared).outcome);
    expect(appendedOf(await inTime(append(compared).outcome))).toMatchObject({ first: 1n, isDuplicate: true });
  });

  it("with other content is refused, in the same record and across", async () => {
    const { append } = await aWriter(store);
    append(anAppend().by("w", 1n).saying("one"));
    const inRecord = append(anAppend().by("w", 1n).saying("two"));
    expect(errorOf(await inTime(inRecord.outcome))).toBeInstanceOf(OperationContentMismatchError);
    const across = append(anAppend().by("w", 1n).saying("two"));
    expect(errorOf(await inTime(across.outcome))).toBeInstanceOf(OperationContentMismatchError);
    expect(await payloads()).toEqual(["one"]);
  });

  it("below the highest and never committed is refused as used", async () => {
    const { append } = await aWriter(store);
    append(anAppend().by("w", 5n));
    const error = errorOf(await inTime(append(anAppend().by("w", 3n)).outcome));
    expect(error).toBeInstanceOf(OperationIdUsedError);
    expect(error.facts).toEqual({ writer_id: "w", operation_id: 3n, highest_operation_id: 5n });
  });

  it("after a take-over is answered with its original ids and term", async () => {
    const before = await aWriter(store);
    for (const id of [1n, 2n, 3n]) before.append(anAppend().by("w", id).saying(`op ${id}`));
    await inTime(before.append(anAppend().by("v", 9n)).outcome);
    const after = await aWriter(store);
    const retries = [1n, 2n, 3n].map((id) => after.append(anAppend().by("w", id).saying(`op ${id}`)));
    const outcomes = await inTime(Promise.all(retries.map(({ outcome }) => outcome)));
    expect(outcomes.map(appendedOf).map(({ first, term, isDuplicate }) => [first, term, isDuplicate])).toEqual([
      [1n, 1n, true],
      [2n, 1n, true],
      [3n, 1n, true],
    ]);
    expect(await ids()).toEqual(["1..4"]);
  });
});

describe("a reply that is lost", () => {
  it("after the record was applied: the append is acknowledged, and there once", async () => {
    const { append, writer } = await aWriter(store);
    store.loseNextReplies(1);
    expect(appendedOf(await inTime(append(anAppend().saying("once")).outcome)).first).toBe(1n);
    expect(appendedOf(await inTime(append(anAppend().saying("then")).outcome)).first).toBe(2n);
    expect(await payloads()).toEqual(["once", "then"]);
    expect(writer.end).toBeUndefined();
  });

  it("with the transaction: the record is sent again", async () => {
    const { append } = await aWriter(store);
    store.failNextTxns(3);
    expect(appendedOf(await inTime(append(anAppend().saying("once")).outcome)).first).toBe(1n);
    expect(await payloads()).toEqual(["once"]);
  });

  it("and whose transaction arrives after the retry changes nothing", async () => {
    const { append } = await aWriter(store);
    const late = store.holdNextTxn();
    await inTime(append(anAppend().saying("once")).outcome);
    expect((await late.applyNow()).succeeded).toBe(false);
    await inTime(append(anAppend().saying("then")).outcome);
    expect(await payloads()).toEqual(["once", "then"]);
  });

  it("and whose transaction arrives just before the retry commits once", async () => {
    const { append } = await aWriter(store);
    const late = store.holdNextTxn();
    const pending = append(anAppend().saying("once"));
    await late.arrived;
    expect((await late.applyNow()).succeeded).toBe(true);
    expect(appendedOf(await inTime(pending.outcome)).first).toBe(1n);
    expect(await payloads()).toEqual(["once"]);
  });

  it("and then a barrier: found committed all the same", async () => {
    const { append } = await aWriter(store);
    await inTime(append(anAppend().by("w", 1n)).outcome);
    const late = store.holdNextTxn();
    const pending = append(anAppend().by("w", 2n));
    await late.arrived;
    await late.applyNow();
    expect(await inTime(resolveFromStore(store, keys, "w", 3n))).toMatchObject({
      outcome: "not committed",
      highest: 2n,
    });
    expect(appendedOf(await inTime(pending.outcome))).toMatchObject({ first: 2n, isDuplicate: false });
    expect(appendedOf(await inTime(append(anAppend()).outcome)).first).toBe(3n);
    expect(await ids()).toEqual(["1..1", "2..2", "3..3"]);
  });
});

describe("a head that was put again by a sidecar of version 0.1", () => {
  it("refuses for certain what is on its way, and the writer ends", async () => {
    const { append, running, writer, budget } = await aWriter(store);
    const late = store.hangNextTxn();
    const pending = append(anAppend().by("w", 1n).saying("never"));
    await late.arrived;
    const queued = append(anAppend().by("w", 2n).saying("nor this"));
    await putHeadAgain(store, keys);
    await late.answer();
    expect(errorOf(await inTime(pending.outcome))).toBeInstanceOf(RuledOutError);
    await inTime(running);
    expect(errorOf(queued.settled)).toBeInstanceOf(RuledOutError);
    expect(writer.end?.kind).toBe("stalled");
    expect(budget).toMatchObject({ bytes: 0, appends: 0 });
    expect(await payloads()).toEqual([]);
  });
});

describe("a writer whose term is taken", () => {
  it("refuses what it could not write, and accepts nothing more", async () => {
    const { append, writer, running, budget, committed } = await aWriter(store);
    const other = await aWriter(store);
    const error = errorOf(await inTime(append(anAppend()).outcome));
    expect(error).toBeInstanceOf(NotPrimaryError);
    expect(error.facts).toEqual({ primary: "a", endpoint: "a:7070", term: 2n });
    await inTime(running);
    expect(writer.end?.kind).toBe("fenced");
    expect(() => append(anAppend())).toThrow(NotPrimaryError);
    expect(committed).toEqual([]);
    expect(budget).toMatchObject({ bytes: 0, appends: 0 });
    expect(appendedOf(await inTime(other.append(anAppend()).outcome))).toMatchObject({ first: 1n, term: 2n });
  });

  it("after its record was applied acknowledges that, and hands it on", async () => {
    const { append, committed, writer } = await aWriter(store);
    const late = store.holdNextTxn();
    const pending = append(anAppend().saying("mine"));
    await late.arrived;
    await late.applyNow();
    const other = await aWriter(store);
    const queued = append(anAppend().saying("never"));
    expect(appendedOf(await inTime(pending.outcome))).toMatchObject({ first: 1n, term: 1n });
    expect(errorOf(await inTime(queued.outcome))).toBeInstanceOf(NotPrimaryError);
    expect(committed.map(({ last }) => last)).toEqual([1n]);
    expect(writer.end?.kind).toBe("fenced");
    await inTime(other.append(anAppend().saying("yours")).outcome);
    expect(await payloads()).toEqual(["mine", "yours"]);
  });

  it("with a transaction still on its way is certain that it never commits", async () => {
    const { append } = await aWriter(store);
    const late = store.holdNextTxn();
    const pending = append(anAppend().saying("never"));
    await late.arrived;
    const other = await aWriter(store);
    expect(errorOf(await inTime(pending.outcome))).toBeInstanceOf(NotPrimaryError);
    expect((await late.applyNow()).succeeded).toBe(false);
    await inTime(other.append(anAppend().saying("yours")).outcome);
    expect(await payloads()).toEqual(["yours"]);
  });

  it("does not take the new primary's record at the same id for its own", async () => {
    const { append } = await aWriter(store);
    const lost = store.holdNextTxn();
    const pending = append(anAppend().saying("never"));
    await lost.arrived;
    const other = await aWriter(store);
    await other.append(anAppend().saying("yours")).outcome;
    expect(errorOf(await inTime(pending.outcome))).toBeInstanceOf(NotPrimaryError);
    expect(await payloads()).toEqual(["yours"]);
  });
});

describe("a store that stays away", () => {
  it("ends the writer at the deadline: in flight is unknown, queued is refused, nothing is owed", async () => {
    const { append, writer, running, budget } = await aWriter(store, { writeDeadlineMs: 500 });
    store.goAway();
    const inFlight = append(anAppend().by("w", 1n));
    await passTime(1);
    const queued = append(anAppend().by("w", 2n));
    await inTime(running);
    const error = errorOf(inFlight.settled);
    expect(error).toBeInstanceOf(OutcomeUnknownError);
    expect(error.facts).toEqual({ writer_id: "w", operation_id: 1n });
    expect(errorOf(queued.settled)).toBeInstanceOf(StoreUnavailableError);
    expect(writer.end?.kind).toBe("stalled");
    expect(writer.status).toMatchObject({ queuedAppends: 0, queuedBytes: 0 });
    expect(budget).toMatchObject({ bytes: 0, appends: 0 });
    expect(() => append(anAppend())).toThrow(StoreUnavailableError);
  });

  it("is not UNKNOWN where the store itself has refused every attempt", async () => {
    const { append } = await aWriter(store, { writeDeadlineMs: 100 });
    store.refuseNextTxns(1000);
    expect(errorOf(await inTime(append(anAppend()).outcome))).toBeInstanceOf(StoreRefusalError);
    expect(await ids()).toEqual([]);
  });

  it.each([
    ["error", "writer_stalled", "could not write within the deadline", () => store.goAway(), false],
    ["error", "writer_refused", "the store refuses what is written", () => store.refuseNextTxns(1000), false],
    ["warn", "writer_stopped", "the writer was stopped while the store failed it", () => store.goAway(), true],
  ] as const)("is logged as %s %s: %s", async (level, event, message, fail, isStopped) => {
    const { logger, lines } = aLogger();
    const { append, abort, running } = await aWriter(store, { writeDeadlineMs: 500, logger });
    fail();
    append(anAppend());
    await passTime(100);
    if (isStopped) abort();
    await inTime(running);
    const ends = lines.filter((line) => line.event.startsWith("writer_"));
    expect(ends).toMatchObject([{ level, event, facts: { log: "log", term: "1", store: expect.any(String) } }]);
    expect(ends[0]?.message).toContain(message);
    expect(ends[0]?.facts.failedMs).toBeGreaterThanOrEqual(isStopped ? 50 : 500);
  });

  it("says since when it fails, and that it has recovered", async () => {
    const { append, writer } = await aWriter(store);
    store.failNextTxns(3);
    const pending = append(anAppend());
    await passTime(1);
    expect(writer.status.stalledSinceMs).toBe(1_700_000_000_000);
    await inTime(pending.outcome);
    expect(writer.status.stalledSinceMs).toBeUndefined();
  });

  it("gives every record a deadline of its own", async () => {
    const { append, writer } = await aWriter(store, { writeDeadlineMs: 300 });
    for (let round = 0; round < 5; round++) {
      store.failNextTxns(4);
      appendedOf(await inTime(append(anAppend()).outcome));
    }
    expect(writer.end).toBeUndefined();
    expect(await ids()).toHaveLength(5);
  });
});

describe("ending", () => {
  it("by draining settles all that was accepted and accepts nothing more", async () => {
    const { append, writer, running } = await aWriter(store, { record: { entriesMax: 1 } });
    const accepted = [1, 2, 3].map(() => append(anAppend()));
    writer.drain();
    expect(() => append(anAppend())).toThrow(ShuttingDownError);
    await inTime(running);
    expect(accepted.map(({ settled }) => appendedOf(settled).first)).toEqual([1n, 2n, 3n]);
    expect(writer.end?.kind).toBe("stopped");
  });

  it("by abort gives up what cannot be written at once", async () => {
    const { append, abort, running, budget, writer } = await aWriter(store, { writeDeadlineMs: 3_600_000 });
    store.goAway();
    const inFlight = append(anAppend());
    await passTime(5);
    const queued = append(anAppend());
    abort();
    await inTime(running, 1000);
    expect(errorOf(inFlight.settled)).toBeInstanceOf(OutcomeUnknownError);
    expect(errorOf(queued.settled)).toBeInstanceOf(ShuttingDownError);
    expect(writer.end?.kind).toBe("stopped");
    expect(budget).toMatchObject({ bytes: 0, appends: 0 });
  });

  it("by a head that somebody else has written under our term fails all, and says so", async () => {
    const { append, running, writer, budget } = await aWriter(store);
    await inTime(append(anAppend()).outcome);
    await store.txn({ compares: [], writes: [{ kind: "delete", key: keys.head }] });
    const inFlight = append(anAppend());
    await inTime(running);
    const error = errorOf(inFlight.settled);
    expect(error).toBeInstanceOf(OutcomeUnknownError);
    expect(error.message).toContain("the head has vanished");
    expect(writer.end?.kind).toBe("data loss");
    expect(() => append(anAppend())).toThrow(DataLossError);
    expect(budget).toMatchObject({ bytes: 0, appends: 0 });
  });
});
