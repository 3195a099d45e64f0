import { beforeEach, describe, expect, it } from "vitest";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import type { Log } from "../../src/log/log.js";
import { silentLogger } from "../../src/oplog/logger.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { ObjectEviction } from "../../src/standby/eviction.js";
import type { EvictedView, EvictionWriter } from "../../src/standby/sweep.js";
import type { View } from "../../src/standby/view.js";
import { Views } from "../../src/standby/views.js";
import { QueueBudget } from "../../src/writing/append-item.js";
import type { LogWriter } from "../../src/writing/log-writer.js";
import { aLog, appendTo } from "../following/followers.js";
import {
  anAppend,
  appendedOf,
  inTime,
  keysOf,
  passTime,
  readAtRest,
  testClock,
  theFakeTime,
  until,
  useFakeTime,
} from "../log/support.js";
import { LIMITS } from "../oplog/entries-support.js";
import { hex, leased, type Operation, put, remove } from "./support.js";

useFakeTime();

const DEFAULT_MS = 60_000;
const HOUR_MS = 3_600_000;
/** From the end of a lease until the object is gone, when nothing else is to be done. */
const LATE_MS_MAX = 1200;
let store: MemoryKvStore;
/** Of the sidecar that leads. */
let log: Log;
let budget: QueueBudget;

beforeEach(() => {
  store = new MemoryKvStore({ clock: testClock });
  budget = new QueueBudget(64 * 1024 * 1024, 1000);
  log = aLog(store, { budget });
});

const append = (...operations: Operation[]) => appendTo(log, anAppend().with({ entries: operations }));
const keysIn = ({ state }: { state: View["state"] }) => [...state.scan()].map(({ key }) => key.toString()).sort();

async function aView(of: Log, objectLeaseDefaultMs: number | undefined): Promise<View> {
  const observer = {
    applied: () => undefined,
    keyOrderViolated: () => undefined,
    diverged: () => undefined,
    phase: () => undefined,
  };
  const parts = { openLog: () => of, clock: testClock, logger: silentLogger, observer, headPollMs: 1000 };
  const views = new Views({ ...parts, objectLeaseDefaultMs }, ["log"]);
  void views.run(new AbortController().signal);
  const view = views.get("log");
  await until(() => view.phase === "following" && BigInt(view.state.applied) === view.head, "the view to follow");
  return view;
}

/** Whatever is not overridden is the view's, or the writer's, own. */
function over<T extends object>(whole: T, overrides: Partial<T>): T {
  return new Proxy(whole, {
    get: (target, name) => {
      const own = overrides[name as keyof T] ?? target[name as keyof T];
      return typeof own === "function" ? own.bind(target) : own;
    },
  });
}

interface Shape {
  readonly defaultMs?: number | undefined;
  readonly limits?: typeof LIMITS;
  readonly view?: (view: View) => Partial<EvictedView>;
  readonly writer?: (writer: LogWriter) => Partial<EvictionWriter>;
}

/** The log is led here, its view has been promoted, and objects that run out are removed. */
async function leading(shape: Shape = {}) {
  const view = await aView(log, "defaultMs" in shape ? shape.defaultMs : DEFAULT_MS);
  const writer = await inTime(log.primary.lead());
  await until(() => BigInt(view.state.applied) === writer.lastSequenceId, "the view to have applied everything");
  const told = { evicted: 0, lines: [] as string[] };
  const note = ({ event }: { event: string }) => void told.lines.push(event);
  const again = () => new ObjectEviction(parts);
  const parts = {
    view: over<EvictedView>(view, shape.view?.(view) ?? {}),
    clock: testClock,
    logger: { ...silentLogger, info: note as never, warn: note as never },
    observer: {
      evicted: (_: string, objects: number) => {
        told.evicted += objects;
      },
    },
    limits: shape.limits ?? LIMITS,
  };
  const eviction = again();
  const setUp = eviction.setUp();
  const stop = new AbortController();
  const ended = eviction.run(stop.signal, over<EvictionWriter>(writer, shape.writer?.(writer) ?? {}));
  return { view, writer, eviction, again, setUp, told, ended, stop: () => stop.abort() };
}

async function recordsAtRest() {
  return (await inTime(readAtRest(store, keysOf()))).map(({ entries }) =>
    entries.map(({ opType, key }) => `${OpType[opType]} ${key}`),
  );
}

describe("objects whose lease has run out", () => {
  it("are removed by entries, which every standby sees, and others stay", async () => {
    await append(put("a"), leased("b", 5000), leased("c", 2 * HOUR_MS));
    const elsewhere = await aView(aLog(store), DEFAULT_MS);
    const { view, setUp, told } = await leading();
    expect(setUp.objects).toBe(3);
    await passTime(4500);
    expect(keysIn(view)).toEqual(["a", "b", "c"]);
    await passTime(500 + LATE_MS_MAX);
    expect(keysIn(view)).toEqual(["a", "c"]);
    await passTime(DEFAULT_MS - 10_000);
    expect(keysIn(view)).toEqual(["a", "c"]);
    await passTime(10_000);
    await until(() => elsewhere.state.applied === view.state.applied, "the standby to apply the same");
    expect(keysIn(elsewhere)).toEqual(["c"]);
    expect(hex(elsewhere.state.stateHash)).toBe(hex(view.state.stateHash));
    expect((await recordsAtRest()).slice(1)).toEqual([["REMOVE b"], ["REMOVE a"]]);
    expect(told).toEqual({ evicted: 2, lines: ["object_leases_set_up", "objects_evicted", "objects_evicted"] });
  });

  it("are found in time though they were put after the last look, with a short lease", async () => {
    const { view } = await leading();
    await passTime(10_000);
    await append(leased("a", 3000));
    await passTime(2900);
    expect(keysIn(view)).toEqual(["a"]);
    await passTime(100 + LATE_MS_MAX);
    expect(keysIn(view)).toEqual([]);
    await append(put("b"));
    await passTime(DEFAULT_MS - 1000);
    expect(keysIn(view)).toEqual(["b"]);
    await passTime(1000 + LATE_MS_MAX);
    expect(keysIn(view)).toEqual([]);
  });

  it("stay without a default lease", async () => {
    await append(put("a"), leased("b", 10));
    const { view, setUp, told } = await leading({ defaultMs: undefined });
    await passTime(HOUR_MS);
    expect(keysIn(view)).toEqual(["a", "b"]);
    expect(setUp.objects).toBe(0);
    expect(told).toEqual({ evicted: 0, lines: [] });
  });

  it("stay once this sidecar leads no more", async () => {
    await append(put("a"));
    const { view, stop, ended } = await leading();
    stop();
    await inTime(ended);
    await passTime(HOUR_MS);
    expect(keysIn(view)).toEqual(["a"]);
  });

  it("stay once the writer has ended", async () => {
    await append(put("a"));
    const { view, writer, ended } = await leading();
    writer.drain();
    await inTime(ended);
    await passTime(HOUR_MS);
    expect(keysIn(view)).toEqual(["a"]);
  });

  it("get the default lease anew at a promotion, though they ran out long ago", async () => {
    await append(put("a"), leased("b", 10));
    await passTime(HOUR_MS);
    const { view } = await leading();
    await passTime(DEFAULT_MS - 1000);
    expect(keysIn(view)).toEqual(["a", "b"]);
    await passTime(1000 + LATE_MS_MAX);
    expect(keysIn(view)).toEqual([]);
  });

  it("stay when they are renewed", async () => {
    await append(put("a"), put("b"));
    const { view } = await leading();
    await passTime(30_000);
    expect(view.leases.renew(["a"], DEFAULT_MS)).toEqual([]);
    await passTime(DEFAULT_MS - 2000);
    expect(keysIn(view)).toEqual(["a"]);
    await passTime(2000 + LATE_MS_MAX);
    expect(keysIn(view)).toEqual([]);
  });
});

describe("a newer value", () => {
  const second = () => anAppend().with({ entries: [put("a", "second")] });

  it("survives that was appended before the line was held", async () => {
    await append(put("a", "first"), put("b"));
    let isLate = false;
    const { view } = await leading({
      writer: (writer) => ({
        async hold() {
          if (!isLate) {
            isLate = true;
            const item = second().build();
            writer.append(item);
            await item.outcome;
          }
          return writer.hold();
        },
      }),
    });
    await passTime(DEFAULT_MS + LATE_MS_MAX);
    expect(view.state.get(Buffer.from("a"))?.payload.toString()).toBe("second");
    expect((await recordsAtRest()).slice(1)).toEqual([["PUT_END a"], ["REMOVE b"]]);
  });

  it("survives that was appended while the line was held, since it comes after the removal", async () => {
    await append(put("a", "first"), put("b"));
    const items = [
      second().build(),
      anAppend()
        .with({ entries: [remove("b")] })
        .build(),
    ];
    const { view } = await leading({
      writer: (writer) => ({
        async hold() {
          const release = await writer.hold();
          for (const item of items.splice(0)) writer.append(item);
          return release;
        },
      }),
    });
    await passTime(DEFAULT_MS + LATE_MS_MAX);
    expect(view.state.get(Buffer.from("a"))?.payload.toString()).toBe("second");
    expect(keysIn(view)).toEqual(["a"]);
    const [, together] = await recordsAtRest();
    expect([together?.slice(0, 2).sort(), together?.slice(2)]).toEqual([
      ["REMOVE a", "REMOVE b"],
      ["PUT_END a", "REMOVE b"],
    ]);
  });

  it("survives among many, under load, whatever the moment", async () => {
    const keys = Array.from({ length: 300 }, (_, index) => `key ${index}`);
    await append(...keys.map((key) => leased(key, 5000)));
    const { view, told } = await leading({ limits: { ...LIMITS, entriesMax: 7 } });
    const newer = new Map<string, bigint>();
    await passTime(4900);
    for (let round = 0; told.evicted < 200; round++) {
      const key = keys[(round * 37) % keys.length]!;
      const item = anAppend()
        .with({ entries: [leased(key, HOUR_MS)] })
        .build();
      (await inTime(log.primary.lead())).append(item);
      await passTime(round % 10 === 0 ? 40 : 0);
      if (item.settled !== undefined) newer.set(key, appendedOf(item.settled).last);
    }
    await passTime(5000);
    expect(newer.size).toBeGreaterThan(10);
    for (const [key, sequenceId] of newer) {
      expect(view.state.leaseOf(Buffer.from(key))?.sequenceId, key).toBeGreaterThanOrEqual(Number(sequenceId));
    }
  });
});

describe("the line of the writer", () => {
  it("is held for bounded batches, and appends come between them", async () => {
    const keys = Array.from({ length: 95 }, (_, index) => `key ${index}`);
    await append(...keys.map((key) => put(key)));
    const { view, told } = await leading({ limits: { ...LIMITS, entriesMax: 10 } });
    await passTime(DEFAULT_MS + LATE_MS_MAX);
    expect(keysIn(view)).toEqual([]);
    const [, ...removals] = await recordsAtRest();
    expect(removals.map((entries) => entries.length)).toEqual([10, 10, 10, 10, 10, 10, 10, 10, 10, 5]);
    expect(told).toMatchObject({ evicted: 95, lines: ["object_leases_set_up", "objects_evicted"] });
  });

  it("is held for batches bounded in bytes, of one entry at least", async () => {
    const long = (index: number) => `${index}${"k".repeat(2000)}`;
    await append(...Array.from({ length: 5 }, (_, index) => put(long(index))));
    await leading({ limits: { ...LIMITS, bytesMax: 4096 } });
    await passTime(DEFAULT_MS + LATE_MS_MAX);
    expect((await recordsAtRest()).slice(1).map((entries) => entries.length)).toEqual([2, 2, 1]);
  });

  it("is given back soon when the view does not keep up, and removal is tried again", async () => {
    await append(put("a"));
    let isStuck = true;
    const { view, told } = await leading({
      view: (real) => ({
        awaitApplied: async (id, signal, timeoutMs) => {
          if (!isStuck || timeoutMs > 1000) return real.awaitApplied(id, signal, timeoutMs);
          await real.awaitApplied(id + 1, signal, timeoutMs);
          return false;
        },
      }),
    });
    await passTime(DEFAULT_MS + 1000);
    const item = anAppend()
      .with({ entries: [put("b")] })
      .build();
    (await inTime(log.primary.lead())).append(item);
    await passTime(260);
    expect(appendedOf(item.settled).first).toBe(2n);
    expect(told.lines).toContain("eviction_postponed");
    isStuck = false;
    await passTime(2 * LATE_MS_MAX);
    expect(keysIn(view)).toEqual(["b"]);
  });

  it("is not held for a view that is far behind", async () => {
    await append(put("a"));
    let holds = 0;
    await leading({
      view: () => ({ awaitApplied: async () => false }),
      writer: (writer) => ({
        hold: () => {
          holds++;
          return writer.hold();
        },
      }),
    });
    await passTime(2 * DEFAULT_MS);
    expect(holds).toBe(0);
  });

  it("that is always full shuts no removal out", async () => {
    await append(put("a"), put("b"), put("c"));
    const { view, told } = await leading({ limits: { ...LIMITS, entriesMax: 1 } });
    while (budget.appends < budget.appendsMax) budget.take(1);
    await passTime(DEFAULT_MS + LATE_MS_MAX);
    expect(keysIn(view)).toEqual([]);
    expect(told).toEqual({ evicted: 3, lines: ["object_leases_set_up", "objects_evicted"] });
    expect(budget.appends).toBe(budget.appendsMax);
  });
});

describe("a look at all objects", () => {
  /** Counts the looks, each of which takes so long. */
  const aScan = (lookMs = 0) => {
    const scan = { looks: 0 };
    const view = (real: View): Partial<EvictedView> => ({
      state: over(real.state, {
        keysWhere: (shard, isWanted) => {
          if (shard === 0) {
            scan.looks++;
            theFakeTime().passBusy(lookMs);
          }
          return real.state.keysWhere(shard, isWanted);
        },
      }),
    });
    return { scan, view };
  };

  it("is not taken before a lease can have run out", async () => {
    await append(put("a"));
    const { scan, view } = aScan();
    await leading({ view });
    await passTime(DEFAULT_MS - 1000);
    expect(scan.looks).toBe(0);
    await passTime(1000 + LATE_MS_MAX);
    expect(scan.looks).toBe(1);
  });

  it("remembers for the next promotion which leases it has seen", async () => {
    await append(put("a"));
    const first = await leading();
    await append(leased("own", 2 * HOUR_MS));
    await passTime(2 * HOUR_MS - DEFAULT_MS / 2);
    expect(keysIn(first.view)).toEqual(["own"]);
    first.stop();
    await inTime(first.ended);
    first.eviction.tearDown();
    const next = first.again();
    next.setUp();
    void next.run(new AbortController().signal, first.writer);
    await passTime(DEFAULT_MS / 2 + LATE_MS_MAX);
    expect(keysIn(first.view)).toEqual([]);
  });

  it("that has removed something is followed by the next one without a rest", async () => {
    await append(leased("a", 1000));
    const { view: real } = await leading({ view: aScan(500).view });
    await append(leased("b", 1));
    await until(() => keysIn(real).join() === "", "both to be removed");
    await append(leased("c", 1));
    await passTime(500 + LATE_MS_MAX);
    expect(keysIn(real)).toEqual([]);
  });

  it("is followed by a rest of 2 seconds at most, however long it took", async () => {
    await append(leased("a", 1000));
    const { scan, view } = aScan(10_000);
    const { view: real } = await leading({ view });
    await append(leased("b", HOUR_MS));
    await passTime(2000);
    expect(keysIn(real)).toEqual(["b"]);
    await append(leased("c", 1));
    await passTime(20_000);
    expect(keysIn(real)).toEqual(["b"]);
    real.state.leasesEndFrom(0);
    await passTime(2000);
    const { looks } = scan;
    // Nothing was to be done in that look.
    await append(leased("d", 1));
    await passTime(3500);
    expect(scan.looks).toBeGreaterThan(looks);
    expect(keysIn(real)).toEqual(["b"]);
  });
});

describe("a clock that steps ahead an hour", () => {
  it("ends no lease early, and each put since then in its time", async () => {
    await append(put("inherited"));
    const { view } = await leading();
    await append(put("before"), leased("short", 5000));
    await passTime(2000);
    theFakeTime().setWall(testClock.wallMs() + HOUR_MS);
    await append(put("since"));
    await passTime(2500);
    expect(keysIn(view)).toEqual(["before", "inherited", "short", "since"]);
    await passTime(500 + LATE_MS_MAX);
    expect(keysIn(view)).toEqual(["before", "inherited", "since"]);
    await passTime(DEFAULT_MS - 5500 - LATE_MS_MAX);
    expect(keysIn(view)).toEqual(["before", "inherited", "since"]);
    await passTime(3000 + LATE_MS_MAX);
    expect(keysIn(view)).toEqual([]);
  });
});

describe("a clock that goes back an hour", () => {
  it("ends no lease early, and each put since then in its time", async () => {
    await append(put("before"));
    const { view } = await leading();
    await passTime(2000);
    theFakeTime().setWall(testClock.wallMs() - HOUR_MS);
    await append(leased("own", 10_000), put("default"));
    await passTime(9500);
    expect(keysIn(view)).toEqual(["before", "default", "own"]);
    // The newest entry keeps time from going back further than to when "before" was put.
    await passTime(HOUR_MS);
    expect(keysIn(view)).toEqual(["before", "default"]);
    await passTime(DEFAULT_MS);
    expect(keysIn(view)).toEqual([]);
  });

  it.each([
    ["a lease of its own", leased("new", 10_000), 10_000],
    ["the default lease", put("new"), DEFAULT_MS],
  ])("after hours without entries ends %s, of what is put since then, in its time", async (_, operation, lastsMs) => {
    await append(leased("before", 10 * HOUR_MS));
    const { view } = await leading();
    await passTime(2 * HOUR_MS);
    theFakeTime().setWall(testClock.wallMs() - HOUR_MS);
    await append(operation);
    await passTime(lastsMs - 500);
    expect(keysIn(view)).toEqual(["before", "new"]);
    await passTime(500 + LATE_MS_MAX);
    expect(keysIn(view)).toEqual(["before"]);
  });
});
