import { EventEmitter } from "node:events";
import { create, fromBinary } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { ServerWritableStream } from "@grpc/grpc-js";
import { beforeEach, describe, expect, it } from "vitest";
import {
  GetStatusRequestSchema,
  Role,
  WatchStatusRequestSchema,
  type WatchStatusResponse,
  WatchStatusResponseSchema,
} from "../../src/gen/oplog/v1/oplog_pb.js";
import { AnsweringCall } from "../../src/grpc/call.js";
import { OpLogService } from "../../src/grpc/oplog-service.js";
import { RequestBudget } from "../../src/grpc/request-budget.js";
import { silentLogger } from "../../src/oplog/logger.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { Views } from "../../src/standby/views.js";
import { QueueBudget } from "../../src/writing/append-item.js";
import { aSubscriber } from "../following/followers.js";
import { inTime, keysOf, passTime, testClock, until, useFakeTime } from "../log/support.js";
import { LIMITS } from "../oplog/entries-support.js";
import { Side, TTL_MS } from "../promotion/side.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";

useFakeTime();

let inner: MemoryKvStore;
let store: FaultyKvStore;
beforeEach(() => {
  inner = new MemoryKvStore({ clock: testClock });
  store = new FaultyKvStore(inner);
});

function serviceOf({ logs }: Side): OpLogService {
  const observer = { applied() {}, keyOrderViolated() {}, diverged() {}, phase() {} };
  const openLog = () => logs.get("log");
  const common = { clock: testClock, logger: silentLogger, objectLeaseDefaultMs: undefined };
  const health = { kind: "memory", isReachable: true, version: "", error: "", unreachableMs: 0 };
  return new OpLogService({
    logs,
    views: new Views({ ...common, openLog, observer, headPollMs: 1000 }, []),
    limits: LIMITS,
    clock: testClock,
    sidecar: () => ({ id: "s", version: "1", startedWallMs: 0, isShuttingDown: false, store: health }),
    budget: new QueueBudget(1000, 10),
    requests: new RequestBudget(1000, 10),
    subscriberBytesMax: 1000,
    draining: new AbortController().signal,
  });
}

async function statusAt(side: Side) {
  return inTime(serviceOf(side).getStatus(create(GetStatusRequestSchema, { log: "log" })));
}

describe("GetStatus", () => {
  it("tells the role of one that prepares, leads, waits and has been fenced", async () => {
    const [a, b] = [new Side("a", store), new Side("b", store)];
    const roleAt = async (side: Side) => (await statusAt(side)).log?.role;
    const first = a.enter("a", { needsHandshake: true });
    await first.hears("prepare");
    expect([await roleAt(a), await roleAt(b)]).toEqual([Role.PREPARING, Role.STANDBY]);
    first.ready(0n);
    await first.hears("leading");
    await expect(b.append()).rejects.toMatchObject({ reason: "NOT_PRIMARY" });
    expect([await roleAt(a), await roleAt(b)]).toEqual([Role.PRIMARY, Role.STANDBY]);
    await first.resign();
    await b.leader("b");
    expect([await roleAt(a), await roleAt(b)]).toEqual([Role.FENCED, Role.PRIMARY]);
  });

  it("does not say that a log does not exist while the store cannot be asked", async () => {
    const side = new Side("a", store);
    await expect(statusAt(side)).rejects.toMatchObject({ reason: "LOG_NOT_FOUND" });
    await new Side("b", inner).append();
    store.goAway();
    const { sidecar, log } = await statusAt(side);
    expect({ id: sidecar?.sidecarId, log }).toEqual({ id: "s", log: undefined });
  });

  it("of a log that was never read leaves out when it was", async () => {
    const side = new Side("a", store);
    await side.append();
    store.goAway();
    const { log } = await statusAt(side);
    expect(log).toMatchObject({ role: Role.PRIMARY, headSequenceId: 1n, leader: { id: "a", term: 1n } });
    expect([log?.observedAt, log?.leaseLeft]).toEqual([undefined, undefined]);
  });
});

/** What `read` does once somebody has called it, and is held there until `goOn`. */
function aPause() {
  let arrive = () => {};
  const arrived = new Promise<void>((resolve) => {
    arrive = resolve;
  });
  let goOn = () => {};
  const over = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  const pause = () => {
    arrive();
    return over;
  };
  return { pause, arrived, goOn };
}

describe("a status of a log that goes on while it is read", () => {
  it("tells a head that no subscriber is beyond, and the lag from there", async () => {
    const side = new Side("a", store);
    await side.append();
    const subscriber = aSubscriber(side.log);
    await until(() => subscriber.sink.covered === 1n, "1");
    const { pause, arrived, goOn } = aPause();
    const get = store.get.bind(store);
    store.get = async (key, options) => {
      const answer = await get(key, options);
      if (key === keysOf().head) await pause();
      return answer;
    };
    const status = statusAt(side);
    await arrived;
    store.get = get;
    for (let id = 2; id <= 30; id++) await side.append();
    await until(() => subscriber.sink.covered === 30n, "30");
    subscriber.sink.pause();
    for (let id = 31; id <= 60; id++) await side.append();
    await until(() => side.log.feedView.head === 60n, "the feed to be at 60");
    goOn();
    const { log } = await status;
    expect(log?.headSequenceId).toBe(60n);
    const [behind] = log?.subscribers ?? [];
    expect(behind?.sentSequenceId).toBeGreaterThanOrEqual(30n);
    expect(behind?.lagEntries).toBe(60n - behind!.sentSequenceId!);
    subscriber.leave();
  });

  it("tells of no cursor beyond the head", async () => {
    const [side, other] = [new Side("a", store), new Side("b", inner)];
    await other.append();
    const { pause, arrived, goOn } = aPause();
    const page = store.page.bind(store);
    store.page = async (range, options) => {
      if (range.from === keysOf().cursorsFrom) await pause();
      return page(range, options);
    };
    const status = statusAt(side);
    await arrived;
    await passTime(10);
    await other.append();
    await inTime(
      other.log.updateCursor({
        consumer: "c",
        received: 2n,
        flushed: 2n,
        applied: 2n,
        stateHash: new Uint8Array(),
        appliedChain: "",
        isRewindAllowed: false,
      }),
    );
    goOn();
    expect((await status).log).toMatchObject({
      headSequenceId: 2n,
      cursors: [{ appliedSequenceId: 2n, lagEntries: 0n }],
    });
  });
});

function aWatcher(service: OpLogService) {
  const told: WatchStatusResponse[] = [];
  const stream = Object.assign(new EventEmitter(), {
    write: (status: Uint8Array, done: () => void) => {
      told.push(fromBinary(WatchStatusResponseSchema, status));
      done();
    },
  });
  const request = create(WatchStatusRequestSchema, { log: "log", minInterval: durationFromMs(100) });
  const call = new AnsweringCall(stream as unknown as ServerWritableStream<Buffer, unknown>);
  const watching = service.watchStatus(request, call);
  return { told, watching, leave: () => stream.emit("cancelled") };
}

describe("WatchStatus", () => {
  it("is quiet while nothing but the lease of the leader runs down and is renewed", async () => {
    const side = new Side("a", store);
    await side.leader("a");
    const { told, watching, leave } = aWatcher(serviceOf(side));
    await passTime(5 * TTL_MS);
    expect(told).toHaveLength(1);
    expect(told[0]!.log?.leaseLeft).toBeDefined();
    await side.append();
    await until(() => told.at(-1)!.log?.headSequenceId === 1n, "the append to be told of");
    leave();
    await inTime(watching);
  });

  it("reads a log once for all who watch it, and tells each of them what is new", async () => {
    const side = new Side("a", store);
    await side.leader("a");
    const service = serviceOf(side);
    const watchers = Array.from({ length: 50 }, () => aWatcher(service));
    await passTime(50);
    const before = store.calls.reads;
    await passTime(1000);
    expect(store.calls.reads - before).toBeLessThan(10 * 2 * 10);
    await side.append();
    await until(() => watchers.every(({ told }) => told.at(-1)!.log?.headSequenceId === 1n), "all to be told");
    expect(watchers.map(({ told }) => told.length)).toEqual(watchers.map(() => 2));
    for (const { leave } of watchers) leave();
    await inTime(Promise.all(watchers.map(({ watching }) => watching)));
  });
});
