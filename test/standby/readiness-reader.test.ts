import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { beforeEach, describe, expect, it } from "vitest";
import { HeadSchema, LeaderLeaseSchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import type { Log } from "../../src/log/log.js";
import { InvalidArgumentError } from "../../src/oplog/errors.js";
import type { KeyValue } from "../../src/oplog/kv-store.js";
import { NoViewError } from "../../src/oplog/log-errors.js";
import { silentLogger } from "../../src/oplog/logger.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { ReadinessReader } from "../../src/standby/readiness-reader.js";
import { Views } from "../../src/standby/views.js";
import { aLog, appendTo } from "../following/followers.js";
import { anAppend, inTime, keysOf, passTime, testClock, until, useFakeTime } from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";

useFakeTime();

const HEAD_POLL_MS = 20_000;
const keys = keysOf();
const forever = new AbortController().signal;
let memory: MemoryKvStore;
/** As the standby reaches it. */
let store: FaultyKvStore;
let log: Log;
/** Of another sidecar. */
let primary: Log;

beforeEach(() => {
  memory = new MemoryKvStore({ clock: testClock });
  store = new FaultyKvStore(memory);
  log = aLog(store, { headPollMs: HEAD_POLL_MS });
  primary = aLog(memory);
});

async function aStandby() {
  const views = new Views(
    {
      openLog: () => log,
      clock: testClock,
      logger: silentLogger,
      observer: { applied() {}, keyOrderViolated() {}, diverged() {}, phase() {} },
      headPollMs: HEAD_POLL_MS,
    },
    ["log"],
  );
  const gone = new AbortController();
  const ended = views.run(gone.signal);
  const view = views.get("log");
  const parts = { views, store, keyPrefix: "/oplog", clock: testClock, storeUnreachableMs: () => 0 };
  const reader = new ReadinessReader(parts);
  return {
    view,
    reader,
    read: () => inTime(reader.read("log", forever)),
    follows: () => until(() => view.phase === "following", "the view to follow"),
    leave: () => {
      gone.abort();
      return inTime(ended);
    },
  };
}

async function theLease(ttlMs: number, holder = "master-a") {
  const { leaseId } = await memory.grantLease(ttlMs);
  const value = toBinary(LeaderLeaseSchema, create(LeaderLeaseSchema, { id: holder, term: 1n }));
  await memory.txn({ compares: [], writes: [{ kind: "put", key: keys.leader, value, leaseId }] });
  return leaseId;
}

const everythingOf = async (from: MemoryKvStore) =>
  (await from.page({ from: keys.allFrom, to: keys.allTo, limit: 1000, bytesMax: 1024 * 1024 })).pairs;

/** The records before the head, as the writer of them would have put them. */
async function putBack(to: MemoryKvStore, pairs: readonly KeyValue[]): Promise<void> {
  await to.txn({ compares: [], writes: [{ kind: "delete-range", from: keys.recordsFrom, to: keys.recordsTo }] });
  for (const { key, value } of pairs.toSorted((a, b) => Number(a.modRevision - b.modRevision))) {
    await to.txn({ compares: [], writes: [{ kind: "put", key, value }] });
  }
}

describe("the readiness of a view", () => {
  it("is promotable when the log is vacant and all has been applied", async () => {
    await appendTo(primary, anAppend().of(3));
    const { read, follows, leave } = await aStandby();
    await follows();
    expect(await read()).toMatchObject({
      verdict: "promotable",
      blockers: [],
      life: { kind: "following" },
      applied: 3n,
      head: 3n,
      history: [{ to: "bootstrapping" }, { to: "following" }],
    });
    await leave();
  });

  it("waits for what was written just before it was asked", async () => {
    const { read, follows, leave } = await aStandby();
    await follows();
    await appendTo(primary, anAppend().of(3));
    expect(await read()).toMatchObject({ verdict: "promotable", applied: 3n, head: 3n });
    await leave();
  });

  it("never shows more applied than there is, though the log goes on while it is read", async () => {
    await appendTo(primary, anAppend());
    const { view, reader, follows, leave } = await aStandby();
    await follows();
    const get = store.get.bind(store);
    let hasReadHead = () => {};
    const headRead = new Promise<void>((resolve) => {
      hasReadHead = resolve;
    });
    let goOn = () => {};
    const paused = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    store.get = async (key, options) => {
      const answer = await get(key, options);
      if (key !== keys.head) return answer;
      hasReadHead();
      await paused;
      return answer;
    };
    const reading = reader.read("log", forever);
    await headRead;
    store.get = get;
    await appendTo(primary, anAppend().of(2));
    await until(() => view.applied === 3, "the view to apply what came");
    goOn();
    expect(await inTime(reading)).toMatchObject({ verdict: "promotable", blockers: [], applied: 3n, head: 3n });
    await leave();
  });

  it("is none where the head has the number of what was applied, and is of another history", async () => {
    await appendTo(primary, anAppend().of(3));
    const { view, read, follows, leave } = await aStandby();
    await follows();
    expect(await read()).toMatchObject({ verdict: "promotable", applied: 3n, head: 3n });
    const { pair } = await memory.get(keys.head);
    const value = toBinary(HeadSchema, { ...fromBinary(HeadSchema, pair!.value), recordNonce: Buffer.alloc(16, 7) });
    store.dropWatchEvents();
    await memory.txn({ compares: [], writes: [{ kind: "put", key: keys.head, value }] });
    expect(await read()).toMatchObject({
      verdict: "not promotable",
      blockers: [
        { kind: "history diverged", message: expect.stringContaining(`chain ${"07".repeat(16)} at its head`) },
      ],
    });
    expect(view.phase).toBe("following");
    await leave();
  });

  it("names who holds the lease and for how long, until the lease is gone", async () => {
    const { read, follows, leave } = await aStandby();
    await follows();
    await theLease(9000);
    await passTime(2000);
    const held = await read();
    expect(held).toMatchObject({ verdict: "standing by", blockers: [{ kind: "lease held", holder: "master-a" }] });
    expect(held.blockers[0]?.leftMs).toBeGreaterThan(6000);
    expect(held.blockers[0]?.leftMs).toBeLessThanOrEqual(7000);
    await passTime(10_000);
    expect(await read()).toMatchObject({ verdict: "promotable" });
    await leave();
  });

  it("names who has claimed the log by token, and takes no notice of a claim by an append", async () => {
    await appendTo(primary, anAppend().of(3));
    const { read, follows, leave } = await aStandby();
    await follows();
    expect(await read()).toMatchObject({ verdict: "promotable", blockers: [] });
    await inTime(primary.primary.claimByToken(7n, { id: "keeper", endpoint: "" }));
    expect(await read()).toMatchObject({
      verdict: "not promotable",
      blockers: [{ kind: "leadership by token", holder: "keeper", message: expect.stringContaining("7 of") }],
    });
    await leave();
  });

  it("is none where what tells who has claimed the log is damaged", async () => {
    const { read, follows, leave } = await aStandby();
    await follows();
    await memory.txn({ compares: [], writes: [{ kind: "put", key: keys.term, value: Buffer.from("damaged") }] });
    expect(await read()).toMatchObject({
      verdict: "not promotable",
      blockers: [{ kind: "failed", message: expect.stringMatching(/damaged/) }],
    });
    await leave();
  });

  it("tells that the watch is silent as soon as the head has moved without it", async () => {
    await appendTo(primary, anAppend().of(2));
    const { read, follows, leave } = await aStandby();
    await follows();
    store.dropWatchEvents();
    await passTime(3000);
    await appendTo(primary, anAppend().of(3));
    const { verdict, blockers, head } = await read();
    expect({ verdict, head }).toEqual({ verdict: "not promotable", head: 5n });
    expect(blockers.map(({ kind }) => kind)).toEqual(["tail silent", "not caught up"]);
    expect(blockers[0]).toMatchObject({ applied: 2n, head: 5n });
    // Not since the watch last brought something, which may be long on a log where nothing happens.
    expect(blockers[0]?.elapsedMs).toBeLessThan(1000);
    await passTime(3000);
    const later = (await read()).blockers[0];
    expect(later).toMatchObject({ kind: "tail silent" });
    expect(later?.elapsedMs).toBeGreaterThanOrEqual(3000);
    expect(later?.elapsedMs).toBeLessThan(5000);
    await leave();
  });

  it("names what the store does not have", async () => {
    for (let id = 0; id < 4; id++) await appendTo(primary, anAppend());
    await memory.txn({ compares: [], writes: [{ kind: "delete", key: keys.record(2n) }] });
    await memory.txn({ compares: [], writes: [{ kind: "delete", key: keys.record(3n) }] });
    const { view, read, leave } = await aStandby();
    await until(() => view.state.applied === 1, "what there is before the hole");
    const { verdict, blockers } = await read();
    expect(verdict).toBe("not promotable");
    expect(blockers.map(({ kind }) => kind)).toEqual(["gap", "bootstrapping"]);
    expect(blockers[0]).toMatchObject({ missing: { first: 2n, last: 3n } });
    expect(blockers[1]).toMatchObject({ applied: 1n, head: 4n });
    await leave();
  });

  it("is not known while the store does not answer, and says for how long that has been", async () => {
    await appendTo(primary, anAppend());
    const { read, follows, leave } = await aStandby();
    await follows();
    store.goAway();
    expect(await read()).toMatchObject({
      verdict: "not promotable",
      head: undefined,
      blockers: [{ kind: "store unreachable" }],
    });
    store.comeBack();
    expect(await read()).toMatchObject({ verdict: "promotable" });
    await leave();
  });

  it("is not known while the lease alone cannot be read", async () => {
    const { read, follows, leave } = await aStandby();
    await follows();
    await theLease(9000);
    store.failLeases();
    expect(await read()).toMatchObject({ verdict: "not promotable", blockers: [{ kind: "store unreachable" }] });
    await leave();
  });

  it("is none where the view has failed, or the store has gone back or is another", async () => {
    await appendTo(primary, anAppend().of(2));
    const { view, read, follows, leave } = await aStandby();
    await follows();
    store.dropWatchEvents();
    const elsewhere = new MemoryKvStore({ clock: testClock });
    await appendTo(aLog(elsewhere), anAppend().of(2));
    const { pair: foreign } = await elsewhere.get(keys.head);
    await memory.txn({ compares: [], writes: [{ kind: "put", key: keys.head, value: foreign!.value }] });
    expect((await read()).blockers[0]).toMatchObject({
      kind: "history diverged",
      message: expect.stringMatching(/another one/),
    });
    await memory.txn({ compares: [], writes: [{ kind: "delete", key: keys.head }] });
    expect(view.phase).toBe("following");
    expect(await read()).toMatchObject({
      verdict: "not promotable",
      blockers: [
        { kind: "history diverged", message: expect.stringMatching(/head in the store is 0, and 2 has been applied/) },
      ],
    });
    await memory.txn({ compares: [], writes: [{ kind: "put", key: keys.head, value: Buffer.from("damaged") }] });
    expect((await read()).blockers[0]).toMatchObject({ kind: "failed", message: expect.stringMatching(/damaged/) });
    await until(() => view.phase === "failed", "the view to fail");
    expect(await read()).toMatchObject({ verdict: "not promotable", life: { kind: "failed" } });
    await leave();
  });

  it.each([
    ["has another entry in the place of one that was applied", [2, 2]],
    ["is as long as what was applied", [2]],
  ])("is none, and of another history, where the view has failed since the store %s", async (_, counts) => {
    await appendTo(primary, anAppend().of(1));
    const { view, read, follows, leave } = await aStandby();
    await follows();
    const before = await everythingOf(memory);
    await appendTo(primary, anAppend().of(2));
    await until(() => view.applied === 3, "what will be lost");
    const other = new MemoryKvStore({ clock: testClock });
    await putBack(other, before);
    for (const count of counts) await appendTo(aLog(other), anAppend().of(count));
    await putBack(memory, await everythingOf(other));
    await until(() => view.phase === "failed", "the view to fail");
    const { verdict, blockers } = await read();
    expect(verdict).toBe("not promotable");
    expect(blockers[0]).toMatchObject({ kind: "history diverged", applied: 3n });
    expect(blockers[0]?.message).toMatch(/^the view has applied entries of another history, up to 3: /);
    await leave();
  });

  it("is refused for a log without a view, and for what is no log", async () => {
    const { reader, leave } = await aStandby();
    await expect(reader.read("other", forever)).rejects.toThrow(NoViewError);
    await expect(reader.read("../x", forever)).rejects.toThrow(InvalidArgumentError);
    await leave();
  });
});
