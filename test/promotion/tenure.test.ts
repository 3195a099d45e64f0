import { EventEmitter, getEventListeners } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { create, toBinary } from "@bufbuild/protobuf";
import type { ServerDuplexStream } from "@grpc/grpc-js";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { CampaignRequestSchema } from "../../src/gen/oplog/v1/leadership_pb.js";
import { CampaignStream } from "../../src/grpc/campaign-stream.js";
import { type CallOptions, StoreUnreachableError, type TxnRequest } from "../../src/oplog/kv-store.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { sleep } from "../../src/oplog/timing.js";
import { LeaseKeeper } from "../../src/promotion/lease-keeper.js";
import {
  appendedOf,
  errorOf,
  inTime,
  keysOf,
  passTime,
  putHeadAgain,
  SETTINGS,
  testClock,
  until,
  useFakeTime,
  useRealTime,
} from "../log/support.js";
import { leased } from "../standby/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";
import { aLogger, type LoggedLine } from "../support/logged-lines.js";
import { waitFor } from "../support/wait.js";
import { type Entrant, refusalOf, Side, TTL_MS } from "./side.js";

useFakeTime();

const keys = keysOf();
let inner: MemoryKvStore;
let store: FaultyKvStore;
beforeEach(() => {
  inner = new MemoryKvStore({ clock: testClock });
  store = new FaultyKvStore(inner);
});

const isRecord = ({ writes }: TxnRequest) =>
  writes.some((write) => write.kind === "put" && write.key.startsWith(keys.recordsFrom));

/** What is appended next is refused, which ends the writer and not the leadership. */
async function nextTerm(side: Side, leader: Entrant): Promise<void> {
  const { length } = leader.terms;
  await putHeadAgain(inner, keys);
  await side.append();
  await leader.hears("leading", length + 1);
}

describe("a further term of the same leadership", () => {
  it("keeps the object leases that the promotion gave", async () => {
    const before = new Side("a", inner);
    const first = await before.leader("a");
    for (const key of ["x", "y", "z"]) appendedOf(await before.append({ opType: OpType.PUT_END, key }));
    await passTime(2500);
    const side = new Side("b", store, { hasView: true, objectLeaseDefaultMs: 2000 });
    const leader = await side.standby("b");
    await first.resign();
    await leader.hears("leading");
    await nextTerm(side, leader);
    // Its end has all objects looked at.
    appendedOf(await side.append(leased("short", 300)));
    await passTime(1500);
    expect([...side.view.state.scan()].map(({ key }) => String(key)).sort()).toEqual(["x", "y", "z"]);
    await until(() => side.view.state.keys === 0, "the leases to run out", 5000);
    await leader.resign();
  });

  it("adds no listeners to what outlives it", async () => {
    const warnings: Error[] = [];
    const note = (warning: Error) => warnings.push(warning);
    process.on("warning", note);
    const granted = vi.spyOn(LeaseKeeper, "grant");
    const side = new Side("a", store);
    const leader = await side.leader("a");
    const keeper = await granted.mock.results[0]!.value;
    const listeners = () => getEventListeners(keeper.lost, "abort").length;
    const first = listeners();
    for (let term = 1; term <= 12; term++) await nextTerm(side, leader);
    expect(listeners()).toBe(first);
    await leader.resign();
    process.off("warning", note);
    granted.mockRestore();
    expect(warnings).toEqual([]);
  });

  /** The entry that ended the writer is committed after all, and the view does not get to it until `resume`. */
  async function stalled(readyTimeoutMs: number) {
    const side = new Side("b", store, { hasView: true, log: { settings: { ...SETTINGS, writeDeadlineMs: 300 } } });
    const leader = await side.leader("b", { readyTimeoutMs });
    appendedOf(await side.append());
    await until(() => side.view.state.applied === 1, "the view to apply");
    let resume: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => {
      resume = resolve;
    });
    const view = side.view as unknown as { apply(frame: Buffer): Promise<void> };
    const apply = view.apply.bind(view);
    view.apply = (frame) => gate.then(() => apply(frame));
    const late = store.holdNextTxn(isRecord);
    store.failNextTxns(50, isRecord);
    const item = await side.send();
    await late.arrived;
    await late.applyNow();
    await inTime(item.outcome);
    return { side, leader, resume };
  }

  it("is told as Leading only when the view has applied everything", async () => {
    const { side, leader, resume } = await stalled(20_000);
    await passTime(2000);
    expect(leader.terms).toHaveLength(1);
    resume();
    await leader.hears("leading", 2);
    expect(leader.told.findLast(({ kind }) => kind === "leading")).toMatchObject({ nextSequenceId: 3n });
    expect(side.view.state.applied).toBe(2);
    await leader.resign();
  });

  it("is ended by Resign before it is led", async () => {
    const { side, leader } = await stalled(20_000);
    await until(() => side.log.primary.preparing !== undefined, "the next term");
    expect(await inTime(side.campaigns.resign("log"))).toEqual({ term: 2n, finalSequenceId: 2n });
    expect(leader.end).toMatchObject({ reason: "resigned" });
    expect(leader.terms).toHaveLength(1);
    expect((await inner.get(keys.leader)).pair).toBeUndefined();
  });

  it("is lost as not ready when the view does not apply everything in time", async () => {
    const { leader } = await stalled(2000);
    const other = await new Side("c", inner).standby("c");
    expect(await inTime(leader.ended)).toMatchObject({ reason: "not ready" });
    expect(leader.terms).toHaveLength(1);
    await other.hears("leading");
    expect(testClock.monotonicMs()).toBeGreaterThanOrEqual(leader.promisedUntilMs);
    await other.resign();
  });
});

/** Calls about a lease that is held end with their deadline. */
class MuteLeases extends FaultyKvStore {
  isMute = false;

  override keepLeaseAlive(leaseId: bigint, options?: CallOptions) {
    return this.isMute ? unanswered(options) : super.keepLeaseAlive(leaseId, options);
  }

  override revokeLease(leaseId: bigint, options?: CallOptions) {
    return this.isMute ? unanswered(options) : super.revokeLease(leaseId, options);
  }
}

async function unanswered({ deadlineMs = 10_000 }: CallOptions = {}): Promise<never> {
  await sleep(testClock, deadlineMs);
  throw new StoreUnreachableError("no answer within the deadline");
}

it("is told that the store is unreachable at once when its promise has run out", async () => {
  const mute = new MuteLeases(inner);
  const leader = await new Side("a", mute).leader("a");
  mute.isMute = true;
  const { promisedUntilMs } = leader;
  await passTime(promisedUntilMs - testClock.monotonicMs() + 50);
  expect(leader.told.at(-1)).toMatchObject({ kind: "lost", lost: { reason: "store unreachable" } });
  expect(await inTime(leader.ended)).toMatchObject({ reason: "store unreachable" });
});

it("after a data loss nobody else leads before the promise has run out", async () => {
  const side = new Side("a", store);
  const leader = await side.leader("a", { ttlMs: 5000 });
  appendedOf(await side.append());
  const other = await new Side("c", inner).standby("c");
  await inner.txn({ compares: [], writes: [{ kind: "delete", key: keys.head }] });
  expect(errorOf(await side.append())).toBeInstanceOf(Error);
  const { promisedUntilMs } = leader;
  expect(promisedUntilMs).toBeGreaterThan(testClock.monotonicMs());
  await until(() => other.kinds.includes("leading") || other.end !== undefined, "the other one to lead");
  expect(testClock.monotonicMs()).toBeGreaterThanOrEqual(promisedUntilMs);
  expect(leader.promisedUntilMs).toBe(promisedUntilMs);
  expect(leader.end).toBeInstanceOf(Error);
  await other.resign();
});

it("after a defect of the eviction nobody else leads before the promise has run out", async () => {
  let failedMs = 0;
  const onEvicted = () => {
    failedMs = testClock.monotonicMs();
    throw new TypeError("a defect");
  };
  const side = new Side("a", store, { hasView: true, objectLeaseDefaultMs: 500, onEvicted });
  const leader = await side.leader("a", { ttlMs: 5000 });
  const other = await new Side("c", inner).standby("c");
  appendedOf(await side.append(leased("short", 300)));
  await until(() => other.kinds.includes("leading") || other.end !== undefined, "the other one to lead", 10_000);
  expect(failedMs).toBeGreaterThan(0);
  expect(leader.promisedUntilMs).toBeGreaterThan(failedMs);
  expect(testClock.monotonicMs()).toBeGreaterThanOrEqual(leader.promisedUntilMs);
  expect(await inTime(leader.ended)).toBeInstanceOf(TypeError);
  await other.resign();
});

describe("whoever waited leaves in the log", () => {
  const linesOf = (lines: LoggedLine[]) =>
    lines
      .filter(({ event }) => event === "leader_gone" || event === "leading")
      .map(({ level, event, facts }) => ({ level, event, ...facts }));

  it("that the lease of the leader ran out, and for how long nobody led", async () => {
    const leader = await new Side("a", store).leader("a");
    const { logger, lines } = aLogger();
    const other = await new Side("c", inner, { logger }).standby("c", { needsHandshake: true });
    store.goAway();
    await other.hears("prepare");
    await passTime(700);
    other.ready(0n);
    await other.hears("leading");
    expect(linesOf(lines)).toEqual([
      expect.objectContaining({
        level: "warn",
        event: "leader_gone",
        leader: "a",
        term: "1",
        because: expect.stringContaining("lease ran out"),
      }),
      expect.objectContaining({
        level: "info",
        event: "leading",
        candidate: "c",
        term: "2",
        after: "a",
        afterTerm: "1",
      }),
    ]);
    const { vacantMs } = linesOf(lines)[1] as unknown as { readonly vacantMs: number };
    expect(vacantMs).toBeGreaterThanOrEqual(700);
    expect(vacantMs).toBeLessThan(1000);
    await inTime(leader.ended);
    await other.resign();
  });

  it("why the leader left, if it did so on purpose", async () => {
    const leader = await new Side("a", store).leader("a");
    const { logger, lines } = aLogger();
    const other = await new Side("c", inner, { logger }).standby("c");
    await leader.resign();
    await other.hears("leading");
    expect(linesOf(lines)).toEqual([
      expect.objectContaining({ level: "info", event: "leader_gone", leader: "a", because: "done" }),
      expect.objectContaining({ event: "leading", after: "a" }),
    ]);
    await other.resign();
  });
});

describe("a leadership that ends", () => {
  it.each([
    ["as planned", "info", (leader: Entrant) => leader.resign()],
    ["otherwise", "warn", async () => store.goAway()],
  ] as const)("%s is logged at the level %s", async (_, level, end) => {
    const { logger, lines } = aLogger();
    const leader = await new Side("a", store, { logger }).leader("a");
    await end(leader);
    await inTime(leader.ended);
    expect(lines.find(({ event }) => event === "campaign_ended")).toMatchObject({ level });
  });
});

describe("Resign", () => {
  it("leaves the place of the leader though the lease cannot be given up", async () => {
    const side = new Side("a", store);
    await side.leader("a");
    store.failLeases();
    const resigning = side.campaigns.resign("log");
    await passTime(100);
    expect((await inner.get(keys.leader)).pair).toBeUndefined();
    await inTime(resigning);
  });

  it("is refused while neither the place can be left nor the lease be given up", async () => {
    const side = new Side("a", store);
    await side.leader("a");
    store.failLeases();
    store.failNextTxns(1, ({ writes }) => writes.some(({ kind }) => kind === "delete"));
    // The lease runs on in the store.
    const keepAlive = async () => {
      const { pair } = await inner.get(keys.leader);
      if (pair !== undefined) await inner.keepLeaseAlive(pair.leaseId);
      testClock.setTimer(500, () => void keepAlive());
    };
    await keepAlive();
    expect(await refusalOf(side.campaigns.resign("log"))).toMatchObject({ reason: "STORE_UNREACHABLE" });
    expect((await inner.get(keys.leader)).pair).toBeDefined();
  });

  it("tells the last entry, also one whose answer was lost", async () => {
    const side = new Side("a", store);
    await side.leader("a");
    appendedOf(await side.append());
    store.loseNextReplies(1, isRecord);
    const item = await side.send();
    const resigned = await inTime(side.campaigns.resign("log"));
    expect(resigned.finalSequenceId).toBe(appendedOf(await inTime(item.outcome)).last);
    expect((await inner.get(keys.leader)).pair).toBeUndefined();
  });
});

describe("a sidecar that stops", () => {
  it("does not take a candidate that comes after its stream has ended", async () => {
    const side = new Side("a", store);
    const call = Object.assign(new EventEmitter(), { write: (_: unknown, done: () => void) => done() });
    const stream = call as unknown as ServerDuplexStream<Buffer, unknown>;
    await inTime(new CampaignStream(stream, side.campaigns, AbortSignal.abort()).run());
    const value = { log: "log", id: "late", noHandshake: true };
    const late = create(CampaignRequestSchema, { message: { case: "candidate", value } });
    call.emit("data", Buffer.from(toBinary(CampaignRequestSchema, late)));
    await passTime(TTL_MS);
    expect((await inner.get(keys.leader)).pair).toBeUndefined();
    expect(side.log.primary.writer).toBeUndefined();
  });

  it("ends the candidacies that it has, and takes no further ones", async () => {
    const side = new Side("a", store);
    const leader = await side.leader("a");
    await inTime(side.campaigns.drain());
    expect(leader.end).toMatchObject({ reason: "resigned" });
    expect(() => side.enter("b")).toThrow(expect.objectContaining({ reason: "SHUTTING_DOWN" }));
  });
});

it("does not call a master silent that was heard while the sidecar stood still", async () => {
  useRealTime();
  const entrant = new Side("a", store).enter("a", { aliveWithinMs: 200 });
  let heard = 0;
  const connected = new Promise<Socket>((resolve) => {
    const server = createServer((socket) => {
      server.close();
      socket.on("data", () => {
        heard++;
        entrant.campaign.alive();
      });
    }).listen(0, "127.0.0.1", () => {
      const address = server.address();
      if (address === null || typeof address === "string") throw new Error("no port");
      const master = connect(address.port, "127.0.0.1", () => resolve(master));
    });
  });
  const master = await connected;
  master.setNoDelay(true);
  master.write("alive");
  await waitFor(() => heard === 1, { what: "the master to be heard" });
  master.write("alive");
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
  await waitFor(() => heard > 1, { what: "what came meanwhile to be read" });
  // Had it been called silent, that would show by the next turn.
  await new Promise((resolve) => setImmediate(resolve));
  entrant.campaign.resign("done");
  expect(await entrant.ended).toMatchObject({ reason: "resigned" });
  master.destroy();
});
