import { beforeEach, describe, expect, it } from "vitest";
import { OperationIdUsedError } from "../../src/oplog/append-errors.js";
import { ShuttingDownError } from "../../src/oplog/errors.js";
import { NotPrimaryError } from "../../src/oplog/leadership-errors.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { StoreRefusalError, StoreUnavailableError } from "../../src/oplog/store-errors.js";
import { trim } from "../../src/stored/trim.js";
import { aLog, appendTo } from "../following/followers.js";
import {
  anAppend,
  appendedOf,
  errorOf,
  inTime,
  keysOf,
  passTime,
  readAtRest,
  SETTINGS,
  testClock,
  until,
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

const aPrimary = () => aLog(store, { settings: { ...SETTINGS, writeDeadlineMs: 200 } }).primary;
const termsOf = async () => (await readAtRest(store, keys)).map(({ term }) => term);

async function append(primary: ReturnType<typeof aPrimary>, builder = anAppend()) {
  const item = builder.build();
  (await inTime(primary.lead())).append(item);
  return inTime(item.outcome);
}

describe("a primary without an election", () => {
  it("claims nothing before the first append asks for it", async () => {
    const primary = aPrimary();
    await passTime(60_000);
    expect(primary).toMatchObject({ role: "standby", writer: undefined });
    expect((await store.get(keys.term)).pair).toBeUndefined();
  });

  it("claims nothing by an append where leaders are elected, and says that nobody leads", async () => {
    const { primary } = aLog(store, { claimsByAppend: false });
    await expect(inTime(primary.lead())).rejects.toMatchObject({
      reason: "NOT_PRIMARY",
      facts: { primary: "", term: 0n },
    });
    expect((await store.get(keys.term)).pair).toBeUndefined();
    await inTime(primary.claimByToken(5n, { id: "master", endpoint: "" }));
    expect((await inTime(primary.lead())).term).toBe(1n);
  });

  it("claims once, however many ask at the same time", async () => {
    const primary = aPrimary();
    const writers = await inTime(Promise.all([primary.lead(), primary.lead(), primary.lead()]));
    expect(new Set(writers).size).toBe(1);
    expect(writers[0]!.term).toBe(1n);
    expect(await primary.lead()).toBe(writers[0]);
    expect(primary.role).toBe("primary");
  });

  it("takes the log from whoever led before it came", async () => {
    const [former, present] = [aPrimary(), aPrimary()];
    appendedOf(await append(former));
    expect(appendedOf(await append(present))).toMatchObject({ first: 2n, term: 2n });
  });

  it("that is fenced stays so, and says by whom", async () => {
    const [former, present] = [aPrimary(), aPrimary()];
    await append(former);
    await append(present);
    expect(errorOf(await append(former))).toBeInstanceOf(NotPrimaryError);
    expect(former).toMatchObject({ role: "fenced", writer: undefined });
    await passTime(3_600_000);
    await expect(former.lead()).rejects.toThrow(NotPrimaryError);
    expect(appendedOf(await append(present)).first).toBe(3n);
    expect(await termsOf()).toEqual([1n, 2n, 2n]);
  });

  it("that has stalled claims again with the next append", async () => {
    const primary = aPrimary();
    await append(primary);
    store.goAway();
    errorOf(await append(primary));
    expect(primary.role).toBe("standby");
    store.comeBack();
    expect(appendedOf(await append(primary))).toMatchObject({ first: 2n, term: 2n });
    expect(primary.role).toBe("primary");
  });

  it("that has stalled does not take the log back from somebody else", async () => {
    const [former, present] = [aPrimary(), aLog(store).primary];
    await append(former);
    store.goAway();
    errorOf(await append(former));
    store.comeBack();
    await append(present);
    await expect(inTime(former.lead())).rejects.toThrow(NotPrimaryError);
    expect(former.role).toBe("fenced");
    expect(appendedOf(await append(present))).toMatchObject({ first: 3n, term: 2n });
  });

  it("that cannot reach the store says so, and tries again with the next append", async () => {
    const primary = aPrimary();
    store.goAway();
    await expect(inTime(primary.lead())).rejects.toThrow(StoreUnavailableError);
    expect(primary.role).toBe("standby");
    store.comeBack();
    expect(appendedOf(await append(primary)).first).toBe(1n);
  });

  it("that cannot claim is logged once for each reason, and again after it has claimed", async () => {
    const { logger, lines } = aLogger();
    const { primary } = aLog(store, { logger, settings: { ...SETTINGS, writeDeadlineMs: 200 } });
    const failures = () => lines.filter(({ event }) => event === "claim_failed").map(({ facts }) => facts.error);
    const fail = async (times: number) => {
      for (let time = 0; time < times; time++) await inTime(primary.lead()).catch(() => undefined);
    };
    store.goAway();
    await fail(3);
    expect(failures()).toHaveLength(1);
    store.comeBack();
    store.refuseNextTxns(3);
    await fail(3);
    expect(failures()).toHaveLength(2);
    expect(failures()[1]).not.toBe(failures()[0]);
    await append(primary);
    store.goAway();
    await append(primary);
    await fail(2);
    expect(failures()).toHaveLength(3);
  });

  it("that the store refuses says that", async () => {
    store.refuseNextTxns(1);
    await expect(inTime(aPrimary().lead())).rejects.toThrow(StoreRefusalError);
  });

  it("whose claim was made though its reply was lost knows the term for its own", async () => {
    const primary = aPrimary();
    await append(primary);
    store.goAway();
    errorOf(await append(primary));
    store.comeBack();
    store.loseNextReplies(1);
    await expect(inTime(primary.lead())).rejects.toThrow(StoreUnavailableError);
    expect(appendedOf(await append(primary))).toMatchObject({ first: 2n, term: 3n });
  });

  it("that drains refuses what is new, and settles what is not", async () => {
    const primary = aPrimary();
    const writer = await inTime(primary.lead());
    const item = anAppend().build();
    writer.append(item);
    await inTime(primary.drain());
    expect(appendedOf(item.settled).first).toBe(1n);
    await expect(primary.lead()).rejects.toThrow(ShuttingDownError);
  });

  it("that drains while it claims ends the writer it gets", async () => {
    const primary = aPrimary();
    const slow = store.hangNextTxn();
    const leading = primary.lead();
    await slow.arrived;
    const drained = primary.drain();
    await slow.answer();
    const writer = await inTime(leading);
    await inTime(drained);
    expect(writer.end?.kind).toBe("stopped");
  });
});

describe("a role", () => {
  it("is not that of one fenced where the term was never held, however often an append is refused", async () => {
    await inTime(aPrimary().claimByToken(5n, { id: "master", endpoint: "" }));
    const primary = aPrimary();
    for (let each = 0; each < 2; each++) {
      await expect(inTime(primary.lead())).rejects.toMatchObject({
        reason: "NOT_PRIMARY",
        facts: { primary: "master", term: 1n },
      });
      expect(primary).toMatchObject({ role: "standby", isIdle: true });
    }
    store.goAway();
    await expect(inTime(primary.lead())).rejects.toMatchObject({ reason: "NOT_PRIMARY" });
  });

  it("is that of one preparing from the claim of a candidate until it is opened, or steps down", async () => {
    const primary = aPrimary();
    const { leaseId } = await store.grantLease(60_000);
    const candidacy = { leaseId, nonce: new Uint8Array(16) };
    const claim = async (leaderRevision: bigint) =>
      (await inTime(
        primary.claimElected({ id: "c", endpoint: "" }, candidacy, { leaderRevision, successorRevision: 0n }),
      ))!;
    const first = await claim(0n);
    expect(primary).toMatchObject({ role: "preparing", term: 1n, writer: undefined });
    await inTime(primary.open(first));
    expect(primary).toMatchObject({ role: "primary", term: 1n });
    const second = await claim(first.leaderRevision!);
    expect(primary).toMatchObject({ role: "preparing", term: 2n });
    primary.stepDown(second, new NotPrimaryError("", "", 2n));
    expect(primary).toMatchObject({ role: "fenced", term: undefined });
  });
});

describe("two of them", () => {
  it("that claim at the same time get different terms, and one leads", async () => {
    const both = [aPrimary(), aPrimary()];
    const writers = await inTime(Promise.all(both.map((primary) => primary.lead())));
    expect(new Set(writers.map(({ term }) => term)).size).toBe(2);
    const outcomes = await Promise.all(both.map((primary) => append(primary)));
    expect(outcomes.filter((outcome) => "appended" in outcome)).toHaveLength(1);
    await until(() => both.filter(({ role }) => role === "fenced").length === 1, "one to be fenced");
  });

  it("that start on an empty log make one log of it", async () => {
    await Promise.all(
      [aPrimary(), aPrimary(), aPrimary()].map((primary) => inTime(primary.lead()).catch(() => undefined)),
    );
    const { pair } = await store.get(keys.head);
    expect(pair).toBeDefined();
    expect(appendedOf(await append(aPrimary())).first).toBe(1n);
  });
});

describe("exactly once, across restart and trim", () => {
  it("answers the last operation of a writer with its ids though its record is gone, and refuses older ones", async () => {
    const before = aLog(store);
    for (const id of [1n, 2n, 3n]) await appendTo(before, anAppend().by("w", id).of(2));
    await appendTo(before, anAppend());
    await trim(store, keys, 8n);
    const after = aPrimary();
    expect(appendedOf(await append(after, anAppend().by("w", 3n).of(2)))).toMatchObject({
      first: 5n,
      last: 6n,
      isDuplicate: true,
    });
    expect(errorOf(await append(after, anAppend().by("w", 2n).of(2)))).toBeInstanceOf(OperationIdUsedError);
    expect(appendedOf(await append(after, anAppend().by("w", 4n)))).toMatchObject({ first: 8n, isDuplicate: false });
  });

  it("goes on numbering after everything was trimmed", async () => {
    const before = aLog(store);
    await appendTo(before, anAppend().of(5));
    expect(await trim(store, keys, 6n)).toBe(6n);
    expect(appendedOf(await append(aPrimary())).first).toBe(6n);
    await expect(trim(store, keys, 8n)).rejects.toThrow("beyond the head");
  });
});
