import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { beforeEach, describe, expect, it } from "vitest";
import { TermSchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import { OperationRuledOutError } from "../../src/oplog/append-errors.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { TOO_MANY_BARRIERS } from "../../src/writing/barriers.js";
import {
  anAppend,
  appendedOf,
  aWriter,
  errorOf,
  inTime,
  keysOf,
  passTime,
  readAtRest,
  resolveFromStore,
  testClock,
  useFakeTime,
} from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";

useFakeTime();

const keys = keysOf();
let store: FaultyKvStore;
beforeEach(() => {
  store = new FaultyKvStore(new MemoryKvStore({ clock: testClock }));
});

const atRest = () => readAtRest(store, keys);
const ids = async () => (await atRest()).map(({ first, last }) => `${first}..${last}`);
const payloads = async () =>
  (await atRest()).flatMap(({ entries }) => entries.map(({ payload }) => Buffer.from(payload).toString()));

describe("a barrier", () => {
  const resolveHere = (id: bigint, writerId = "w") => inTime(resolveFromStore(store, keys, writerId, id));

  it("rules out one operation that is on its way: refused for good, while the writer goes on with the rest", async () => {
    const { append, writer, budget, claim } = await aWriter(store);
    const late = store.hangNextTxn();
    const pending = [
      append(anAppend().saying("plain")),
      append(anAppend().by("w", 1n).saying("never")),
      append(anAppend().by("w", 2n).saying("this")),
    ];
    await late.arrived;
    const queued = append(anAppend().by("w", 3n).saying("and this"));
    expect(await resolveHere(1n)).toMatchObject({ outcome: "not committed" });
    expect((await late.applyNow()).succeeded).toBe(false);
    await late.answer();
    expect(errorOf(await inTime(pending[1]!.outcome))).toBeInstanceOf(OperationRuledOutError);
    expect(appendedOf(await inTime(queued.outcome))).toMatchObject({ term: claim.term });
    expect(await payloads()).toEqual(["plain", "this", "and this"]);
    expect(await ids()).toEqual(["1..2", "3..3"]);
    expect(writer.end).toBeUndefined();
    expect(budget).toMatchObject({ bytes: 0, appends: 0 });
  });

  it("of another operation refuses nothing of what is on its way", async () => {
    const { append } = await aWriter(store);
    const late = store.hangNextTxn();
    const pending = append(anAppend().by("w", 1n));
    await late.arrived;
    expect(await resolveHere(7n, "nobody")).toMatchObject({ outcome: "not committed", highest: 0n });
    expect((await late.applyNow()).succeeded).toBe(false);
    await late.answer();
    expect(appendedOf(await inTime(pending.outcome)).first).toBe(1n);
    expect(await payloads()).toHaveLength(1);
  });

  it("holds for every later term, and a higher operation of the writer may follow", async () => {
    await aWriter(store);
    expect(await resolveHere(5n)).toMatchObject({ outcome: "not committed" });
    const later = await aWriter(store);
    expect(errorOf(await inTime(later.append(anAppend().by("w", 5n)).outcome))).toMatchObject({
      reason: "OPERATION_ID_USED",
      facts: { writer_id: "w", operation_id: 5n },
    });
    appendedOf(await inTime(later.append(anAppend().by("w", 6n)).outcome));
    expect(errorOf(await inTime(later.append(anAppend().by("w", 5n)).outcome)).reason).toBe("OPERATION_ID_USED");
    // What lies below a mark is not remembered one by one; it cannot commit.
    expect(await resolveHere(5n)).toMatchObject({ outcome: "forgotten", highest: 6n });
  });

  it("is not put for what has been committed or passed, nor for the highest operation", async () => {
    const { append, writer } = await aWriter(store);
    await inTime(append(anAppend().by("w", 1n)).outcome);
    await inTime(append(anAppend().by("w", 3n)).outcome);
    expect(await resolveHere(1n)).toMatchObject({ outcome: "committed", highest: 3n });
    expect(await resolveHere(3n)).toMatchObject({ outcome: "committed", highest: 3n });
    expect(await resolveHere(2n)).toMatchObject({ outcome: "not committed", highest: 3n });
    expect(await resolveHere(0n)).toMatchObject({ outcome: "committed", operation: { first: 2n }, highest: 3n });
    expect(await resolveHere(0n, "nobody")).toMatchObject({ outcome: "unknown", highest: 0n });
    expect((await store.get(keys.barriers)).pair).toBeUndefined();
    expect(appendedOf(await inTime(append(anAppend()).outcome)).first).toBe(3n);
    expect(writer.end).toBeUndefined();
  });

  it("is dropped once its writer has passed it, and beyond 1,024 of them the answer is that nobody knows", async () => {
    const { append, writer } = await aWriter(store);
    const ask = (writerId: string) => inTime(writer.resolve(writerId, 9n));
    await Promise.all(Array.from({ length: 512 }, (_, index) => ask(`writer ${index}`)));
    await Promise.all(Array.from({ length: 512 }, (_, index) => ask(`another ${index}`)));
    expect(await ask("one more")).toMatchObject({ outcome: "unknown", because: TOO_MANY_BARRIERS });
    expect(await resolveHere(9n, "one more")).toMatchObject({ outcome: "unknown", because: TOO_MANY_BARRIERS });
    expect(appendedOf(await inTime(append(anAppend().by("one more", 9n)).outcome)).first).toBe(1n);
    appendedOf(await inTime(append(anAppend().by("writer 7", 10n)).outcome));
    expect(await ask("yet one more")).toMatchObject({ outcome: "not committed" });
    expect(await ask("writer 7")).toMatchObject({ outcome: "not committed", highest: 10n });
  });

  it("of a writer with many becomes one for all up to the highest, and holds for every later term", async () => {
    const { writer } = await aWriter(store);
    const ask = (id: number) => writer.resolve("w", BigInt(id));
    for (let from = 1; from <= 1101; from += 100) {
      const answers = await inTime(Promise.all(Array.from({ length: 50 }, (_, index) => ask(from + 2 * index))));
      for (const answer of answers) expect(answer).toMatchObject({ outcome: "not committed", highest: 0n });
      await Promise.all(
        Array.from({ length: 50 }, (_, index) => inTime(resolveHere(BigInt(from + 2 * index), "other"))),
      );
    }
    const later = await aWriter(store);
    const refusal = async (id: bigint) => errorOf(await inTime(later.append(anAppend().by("w", id)).outcome));
    for (const id of [1n, 2n, 1000n, 1199n]) expect(await refusal(id)).toBeInstanceOf(OperationRuledOutError);
    expect((await refusal(2n)).facts).toMatchObject({ operation_id: 2n, highest_operation_id: expect.any(BigInt) });
    appendedOf(await inTime(later.append(anAppend().by("w", 1200n)).outcome));
  });

  it("of a writer that stays silent gives way once the log has gone on for more than a day", async () => {
    const HOUR_MS = 3_600_000;
    const { append, writer } = await aWriter(store);
    const ask = (writerId: string) => inTime(writer.resolve(writerId, 9n));
    await Promise.all(Array.from({ length: 512 }, (_, index) => ask(`silent ${index}`)));
    await Promise.all(Array.from({ length: 511 }, (_, index) => ask(`another ${index}`)));
    await passTime(20 * HOUR_MS);
    expect(await ask("asked about later")).toMatchObject({ outcome: "not committed" });
    expect(await ask("silent 0")).toMatchObject({ outcome: "not committed" });
    await passTime(20 * HOUR_MS);
    // Nothing that was on its way has been settled meanwhile.
    expect(await ask("one more")).toMatchObject({ outcome: "unknown", because: TOO_MANY_BARRIERS });
    appendedOf(await inTime(append(anAppend()).outcome));
    expect(await ask("one more")).toMatchObject({ outcome: "not committed" });
    expect(await resolveHere(9n, "here too")).toMatchObject({ outcome: "not committed" });
    for (const writerId of ["asked about later", "silent 0", "one more", "here too"]) {
      expect(errorOf(await inTime(append(anAppend().by(writerId, 9n)).outcome))).toBeInstanceOf(OperationRuledOutError);
    }
  });

  it("is not answered where the leader is of a version that does not heed it", async () => {
    await aWriter(store);
    const { pair } = await store.get(keys.term);
    const term = toBinary(TermSchema, { ...fromBinary(TermSchema, pair!.value), heedsBarriers: false });
    await store.txn({ compares: [], writes: [{ kind: "put", key: keys.term, value: term }] });
    expect(await resolveHere(1n)).toMatchObject({ outcome: "unknown" });
    expect(await resolveHere(0n, "w")).toMatchObject({ outcome: "unknown", highest: 0n });
    expect((await store.get(keys.barriers)).pair).toBeUndefined();
  });
});

describe("a writer that is asked what became of an operation", () => {
  it("rules it out with its next record, so that it is refused when it comes after all", async () => {
    const { append, writer } = await aWriter(store);
    const { txns } = store.calls;
    const slow = store.hangNextTxn();
    append(anAppend().by("w", 1n));
    await slow.arrived;
    const asked = writer.resolve("w", 3n);
    const record = append(anAppend().by("w", 2n).saying("two"));
    const refused = append(anAppend().by("w", 3n).saying("three"));
    await slow.answer();
    expect(await inTime(asked)).toMatchObject({ outcome: "not committed", highest: 2n });
    appendedOf(await inTime(record.outcome));
    expect(errorOf(await inTime(refused.outcome))).toBeInstanceOf(OperationRuledOutError);
    expect(store.calls.txns - txns).toBe(2);
    expect((await store.get(keys.barriers)).pair).toBeDefined();
  });

  it("leaves alone what is queued, and says so", async () => {
    const { append, writer } = await aWriter(store);
    const slow = store.hangNextTxn();
    const inFlight = append(anAppend().by("v", 1n));
    await slow.arrived;
    const queued = append(anAppend().by("w", 2n));
    for (const [writerId, id] of [["v", 1n] as const, ["w", 2n] as const]) {
      expect(await writer.resolve(writerId, id)).toMatchObject({ outcome: "unknown" });
    }
    await slow.answer();
    for (const { outcome } of [inFlight, queued]) appendedOf(await inTime(outcome));
    expect(await inTime(writer.resolve("w", 2n))).toMatchObject({ outcome: "committed", operation: { first: 2n } });
  });

  it("does not know any more once somebody else leads, and rules nothing out", async () => {
    const { writer } = await aWriter(store);
    const other = await aWriter(store);
    appendedOf(await inTime(other.append(anAppend().by("w", 1n)).outcome));
    expect(await inTime(writer.resolve("w", 1n))).toBeUndefined();
    expect((await store.get(keys.barriers)).pair).toBeUndefined();
  });

  it("does not tell the highest operation of a writer after somebody else has taken the term", async () => {
    const { append, writer } = await aWriter(store);
    appendedOf(await inTime(append(anAppend().by("w", 1n)).outcome));
    const { revision } = await store.get(keys.head);
    expect(await inTime(writer.resolve("w", 0n))).toMatchObject({ outcome: "committed", highest: 1n });
    expect((await store.get(keys.head)).revision).toBe(revision);
    const other = await aWriter(store);
    appendedOf(await inTime(other.append(anAppend().by("w", 2n)).outcome));
    expect(await inTime(writer.resolve("w", 0n))).toBeUndefined();
  });

  it("answers that nobody knows when the store stays silent", async () => {
    const { writer } = await aWriter(store);
    store.goAway();
    expect(await inTime(writer.resolve("w", 1n), 3000)).toBeUndefined();
  });

  it("puts again a barrier whose reply was lost", async () => {
    const { writer, append } = await aWriter(store);
    store.loseNextReplies(1);
    expect(await inTime(writer.resolve("w", 4n))).toMatchObject({ outcome: "not committed" });
    expect(errorOf(await inTime(append(anAppend().by("w", 4n)).outcome)).reason).toBe("OPERATION_ID_USED");
    expect(writer.end).toBeUndefined();
  });

  it("puts all that is asked meanwhile in one transaction, at most 20 times a second", async () => {
    const { writer } = await aWriter(store);
    const { txns } = store.calls;
    const asked: Promise<unknown>[] = [];
    for (let index = 0; index < 100; index++) {
      asked.push(writer.resolve(`w${index}`, 1n));
      await passTime(10);
    }
    await inTime(Promise.all(asked));
    expect(store.calls.txns - txns).toBeLessThanOrEqual(21);
  });

  it("refuses to hold more than 1,000 questions", async () => {
    const { writer } = await aWriter(store);
    store.hangNextTxn();
    const asked = Array.from({ length: 1002 }, (_, index) => writer.resolve(`w${index}`, 1n));
    const refused = await inTime(Promise.allSettled(asked));
    const reasons = refused.flatMap((each) => (each.status === "rejected" ? [each.reason.reason] : []));
    expect(new Set(reasons)).toEqual(new Set(["TOO_MANY"]));
    expect(reasons.length).toBeLessThanOrEqual(2);
  });
});
