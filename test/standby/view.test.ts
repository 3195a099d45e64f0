import { beforeEach, describe, expect, it } from "vitest";
import type { Log } from "../../src/log/log.js";
import { batchFrame } from "../../src/oplog/batch-frame.js";
import { type OplogError, TooManyError } from "../../src/oplog/errors.js";
import { NoViewError, ViewFailedError } from "../../src/oplog/log-errors.js";
import { type Logger, silentLogger } from "../../src/oplog/logger.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { UNKNOWN_ORIGIN } from "../../src/oplog/record.js";
import { StoreUnavailableError } from "../../src/oplog/store-errors.js";
import { sleep } from "../../src/oplog/timing.js";
import { Views } from "../../src/standby/views.js";
import { trim } from "../../src/stored/trim.js";
import { aLog, appendTo } from "../following/followers.js";
import { anAppend, inTime, keysOf, passTime, testClock, until, useFakeTime } from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";
import { aLogger } from "../support/logged-lines.js";
import { batchOf, hex, Model, type Operation, put } from "./support.js";

useFakeTime();

const HEAD_POLL_MS = 1000;
let store: FaultyKvStore;
/** Where the view is. */
let log: Log;
/** Of another sidecar. */
let primary: Log;
let model: Model;

beforeEach(() => {
  store = new FaultyKvStore(new MemoryKvStore({ clock: testClock }));
  log = aLog(store, { headPollMs: HEAD_POLL_MS });
  primary = aLog(store);
  model = new Model();
});

async function append(...operations: Operation[]): Promise<void> {
  await appendTo(primary, anAppend().with({ entries: operations }));
  for (const operation of operations) model.apply(operation);
}

function aView(logger: Logger = silentLogger, howLong: "until it fails" | "for good" = "until it fails") {
  const told = { applied: 0, keys: 0, violations: 0 };
  const phases: string[] = [];
  const views = new Views(
    {
      openLog: () => log,
      clock: testClock,
      logger,
      observer: {
        applied: (_, sequenceId, keys) => Object.assign(told, { applied: sequenceId, keys }),
        keyOrderViolated: () => {
          told.violations++;
        },
        diverged: () => undefined,
        phase: (_, to) => phases.push(to),
      },
      headPollMs: HEAD_POLL_MS,
    },
    ["log"],
  );
  const gone = new AbortController();
  const ended = howLong === "for good" ? views.keepRunning(gone.signal) : views.run(gone.signal);
  const view = views.get("log");
  return { views, view, told, phases, leave: () => gone.abort(), ended };
}

const isFollowing = (view: { phase: string }) => () => view.phase === "following";

describe("a view", () => {
  it("applies what there is, and then what comes", async () => {
    await append(put("a", "1"), put("b", "2"));
    const { view, told, phases, leave, ended } = aView();
    expect(view.phase).toBe("connecting");
    await until(isFollowing(view), "the view to follow");
    expect(phases).toEqual(["connecting", "bootstrapping", "following"]);
    expect(view.state.applied).toBe(2);
    await append(put("a", "3", 7n), put("b", "4"));
    await append(put("a", "5", 7n));
    await until(() => view.state.applied === 5, "the view to apply what came");
    expect(hex(view.state.stateHash)).toBe(model.hash);
    expect(told).toEqual({ applied: 5, keys: 1, violations: 1 });
    leave();
    await inTime(ended);
  });

  it("waits for a log that does not exist yet", async () => {
    const { view, leave, ended } = aView();
    await until(isFollowing(view), "the view of nothing");
    await append(put("a", "1"));
    await until(() => view.state.applied === 1, "the view to apply what came");
    leave();
    await inTime(ended);
  });

  it("is not said to follow while the head is not confirmed, and loses nothing by it", async () => {
    await append(put("a", "1"));
    const { view, phases, leave, ended } = aView();
    await until(isFollowing(view), "the view to follow");
    await passTime(10 * HEAD_POLL_MS + 300);
    expect(view.history).toHaveLength(2);
    store.goAway();
    await passTime(HEAD_POLL_MS + 300);
    // It has been noticed although nobody has asked.
    expect(phases.at(-1)).toBe("reconnecting");
    expect(view).toMatchObject({ phase: "reconnecting", head: 1n });
    store.comeBack();
    await append(put("a", "2"));
    await until(isFollowing(view), "the view to follow again");
    expect(hex(view.state.stateHash)).toBe(model.hash);
    const changes = view.history.map(({ to }) => to);
    expect(changes).toEqual(["bootstrapping", "following", "reconnecting", "catching up", "following"]);
    leave();
    await inTime(ended);
  });

  it("starts while the store is away", async () => {
    await append(put("a", "1"));
    store.goAway();
    const { view, leave, ended } = aView();
    await passTime(20_000);
    expect(view).toMatchObject({ phase: "connecting", state: { applied: 0 } });
    store.comeBack();
    await until(isFollowing(view), "the view to follow");
    expect(hex(view.state.stateHash)).toBe(model.hash);
    leave();
    await inTime(ended);
  });

  it("that cannot follow says so once for each reason, and again after it has followed", async () => {
    await append(put("a", "1"));
    const honest = log.subscribe.bind(log);
    let refusal: OplogError | undefined = new StoreUnavailableError(1, "try again");
    let attempts = 0;
    log.subscribe = async (options, start, logId, sink, signal) => {
      attempts++;
      if (refusal !== undefined) throw refusal;
      const passing = new AbortController();
      passed = passing;
      signal.addEventListener("abort", () => passing.abort());
      await honest(options, start, logId, sink, passing.signal);
      if (refusal !== undefined) throw refusal;
    };
    let passed: AbortController | undefined;
    const { logger, lines } = aLogger();
    const interruptions = () =>
      lines.filter(({ event }) => event === "view_interrupted").map(({ level, facts }) => ({ level, ...facts }));
    const { view, leave, ended } = aView(logger);
    await until(() => attempts === 5, "five attempts");
    const away = { level: "warn", log: "log", reason: "STORE_UNREACHABLE", error: expect.stringMatching(/1 ms/) };
    expect(interruptions()).toEqual([away]);
    refusal = new TooManyError("subscriptions", 1, 1000);
    await until(() => attempts === 8, "three more");
    const many = { level: "warn", log: "log", reason: refusal.reason, error: refusal.message };
    expect(interruptions()).toEqual([away, many]);
    refusal = undefined;
    await until(isFollowing(view), "the view to follow");
    refusal = new TooManyError("subscriptions", 1, 1000);
    passed?.abort();
    await until(() => attempts >= 11, "further attempts");
    expect(interruptions()).toEqual([away, many, many]);
    leave();
    await inTime(ended);
  });

  it("is tried again after a refusal that passes, from where it stands", async () => {
    await append(put("a", "1"));
    const honest = log.subscribe.bind(log);
    const froms: unknown[] = [];
    const passing = new AbortController();
    log.subscribe = async (options, start, ...rest) => {
      froms.push(start);
      if (froms.length === 1) throw new StoreUnavailableError(1, "try again");
      if (froms.length === 2) {
        await honest(options, start, rest[0], rest[1], passing.signal);
        throw new StoreUnavailableError(1, "try again");
      }
      await honest(options, start, ...rest);
    };
    const { view, leave, ended } = aView();
    await until(() => view.state.applied === 1, "the second attempt");
    passing.abort();
    await until(() => froms.length === 3, "the third attempt");
    expect(froms).toEqual([
      { kind: "sequence", from: 1n, previous: UNKNOWN_ORIGIN },
      { kind: "sequence", from: 1n, previous: UNKNOWN_ORIGIN },
      { kind: "sequence", from: 2n, previous: { term: 1n, chain: expect.stringMatching(/^[0-9a-f]{32}$/) } },
    ]);
    await append(put("a", "2"));
    await until(() => view.state.applied === 2, "the view to go on");
    leave();
    await inTime(ended);
  });

  it("of a log whose beginning is gone stops, and says why", async () => {
    await append(put("a", "1"));
    await append(put("a", "2"));
    await inTime(trim(store, keysOf(), 2n));
    const { views, ended } = aView();
    await inTime(ended);
    expect(() => views.get("log")).toThrow(ViewFailedError);
    expect(() => views.get("log")).toThrow(/stopped at 0: entry 1 is no longer kept/);
    expect(views.find("log")).toMatchObject({ phase: "failed" });
    expect(views.find("log")?.history.at(-1)).toMatchObject({
      to: "failed",
      reason: expect.stringContaining("no longer"),
    });
  });

  it("that meets what nobody expected stops, and keeps the inside to itself", async () => {
    log.subscribe = () => Promise.reject(new TypeError("undefined of secret"));
    const { views, ended } = aView();
    await inTime(ended);
    expect(() => views.get("log")).toThrow(/stopped at 0: an internal error/);
  });

  it("stops at a hole, with its numbers", async () => {
    log.subscribe = (_options, _start, _logId, sink) => {
      const coverage = { first: 2n, last: 2n, term: 1n, chain: "" };
      return sink.batch(batchFrame([batchOf([put("a")], 2)], coverage), coverage);
    };
    const { views, ended } = aView();
    await inTime(ended);
    expect(() => views.get("log")).toThrow(/stopped at 0: entry 1 comes next, and 2 came/);
  });

  it("that was never asked for is refused", async () => {
    const { views, leave, ended } = aView();
    expect(() => views.get("other")).toThrow(NoViewError);
    leave();
    await inTime(ended);
  });

  it("ends when the sidecar drains, after it has applied everything", async () => {
    await append(put("a", "1"));
    const { view, ended } = aView();
    await until(isFollowing(view), "the view to follow");
    await inTime(log.drain());
    await inTime(ended);
    expect(() => view.requireWorking()).not.toThrow();
  });
});

describe("a view that is to be promoted", () => {
  const forever = new AbortController().signal;

  /** Behind by one entry, which no watch will tell it of. */
  async function aViewBehind() {
    await append(put("a", "1"));
    const shape = aView();
    await until(isFollowing(shape.view), "the view to follow");
    store.dropWatchEvents();
    await append(put("a", "2"));
    await passTime(10);
    expect(shape.view.state.applied).toBe(1);
    return shape;
  }

  it("looks at the store afresh, and is ready once the final entry has been applied", async () => {
    const { view, leave, ended } = await aViewBehind();
    const startedMs = testClock.monotonicMs();
    await inTime(view.promote(2n, forever));
    expect(testClock.monotonicMs() - startedMs).toBeLessThan(HEAD_POLL_MS / 10);
    expect(view).toMatchObject({ phase: "promoting", state: { applied: 2 } });
    view.promoted();
    expect(view.phase).toBe("promoted");
    store.goAway();
    await passTime(2 * HEAD_POLL_MS);
    expect(view.phase).toBe("promoted");
    view.demoted();
    expect(view.phase).toBe("reconnecting");
    store.comeBack();
    await until(isFollowing(view), "the view to follow again");
    expect(view.history.map(({ to }) => to)).toEqual([
      ...["bootstrapping", "following", "promoting", "promoted", "catching up", "reconnecting", "following"],
    ]);
    leave();
    await inTime(ended);
  });

  it("does not wait until it would have tried the store again by itself", async () => {
    await append(put("a", "1"));
    store.goAway();
    const { view, leave, ended } = aView();
    await passTime(60_000);
    store.comeBack();
    const startedMs = testClock.monotonicMs();
    await inTime(view.promote(1n, forever));
    expect(testClock.monotonicMs() - startedMs).toBeLessThan(HEAD_POLL_MS / 10);
    leave();
    await inTime(ended);
  });

  it("of nothing is ready at once", async () => {
    const { view, leave, ended } = aView();
    await inTime(view.promote(0n, forever));
    leave();
    await inTime(ended);
  });

  it("is given up with the reason of whoever asked, and follows on", async () => {
    const { view, leave, ended } = aView();
    await until(isFollowing(view), "the view to follow");
    const asking = new AbortController();
    const promotion = view.promote(7n, asking.signal);
    await passTime(100);
    expect(view.phase).toBe("promoting");
    asking.abort(new Error("handed back"));
    await expect(inTime(promotion)).rejects.toThrow("handed back");
    view.demoted();
    await until(isFollowing(view), "the view to follow again");
    await expect(view.promote(7n, asking.signal)).rejects.toThrow("handed back");
    expect(view.phase).toBe("following");
    leave();
    await inTime(ended);
  });

  it("is refused when it holds more than it may", async () => {
    await append(put("a", "1"), put("a", "2"));
    const { view, leave, ended } = aView();
    await until(isFollowing(view), "the view to follow");
    await expect(view.promote(1n, forever)).rejects.toThrow(ViewFailedError);
    leave();
    await inTime(ended);
  });

  it("is refused when the view fails meanwhile, and ever after", async () => {
    await append(put("a", "1"));
    const { view, ended } = aView();
    await until(isFollowing(view), "the view to follow");
    const promotion = view.promote(2n, forever);
    await store.txn({ compares: [], writes: [{ kind: "delete", key: keysOf().head }] });
    await expect(inTime(promotion)).rejects.toThrow(ViewFailedError);
    await inTime(ended);
    await expect(view.promote(1n, forever)).rejects.toThrow(ViewFailedError);
    expect(view.phase).toBe("failed");
  });
});

describe("the view of a log that is deleted", () => {
  /** Deletes the log, and what is left of it when the view learns of that. */
  async function aDeletedLog(isReplacedUnseen: boolean): Promise<void> {
    const state = await inTime(primary.observe());
    if (typeof state === "string") throw new Error(state);
    if (isReplacedUnseen) store.dropWatchEvents();
    await inTime(primary.delete(state.logId));
    model = new Model();
    if (isReplacedUnseen) await append(put("c", "3"));
    store.dropWatchEvents(false);
  }

  it.each([false, true])(
    "begins anew with the log that comes next; unseen until then: %s",
    async (isReplacedUnseen) => {
      await append(put("a", "1"), put("b", "2"));
      const { logger, lines } = aLogger();
      const { views, view, ended, leave } = aView(logger, "for good");
      await until(isFollowing(view), "the view to follow");
      await aDeletedLog(isReplacedUnseen);
      await until(() => view.phase === "failed", "the view to notice", 5000);
      await passTime(3000);
      await append(put("d", "4"));
      const next = () => views.find("log")!;
      await until(() => next() !== view && next().state.applied === model.applied, "the view of the next log", 5000);
      expect(hex(next().state.stateHash)).toBe(model.hash);
      expect(lines.filter(({ event }) => event === "view_failed")).toHaveLength(1);
      leave();
      await inTime(ended);
    },
  );

  it("waits for the next log without a word while the deletion lasts", async () => {
    await append(put("a", "1"));
    const state = await inTime(primary.observe());
    const { logId } = state as Exclude<typeof state, string>;
    store.passNextTxns(2);
    store.failNextTxns(1);
    await inTime(primary.delete(logId)).catch(() => undefined);
    const { logger, lines } = aLogger();
    const { view, ended, leave } = aView(logger, "for good");
    await passTime(10_000);
    expect(view.phase).not.toBe("failed");
    expect(lines.filter(({ event }) => event === "view_interrupted")).toHaveLength(1);
    await inTime(primary.delete(logId));
    model = new Model();
    await append(put("b", "2"));
    await until(() => view.state.applied === 1, "the view of the next log", 5000);
    leave();
    await inTime(ended);
  });
});

describe("waiting for an entry to be applied", () => {
  it("ends when it has been, when time is up, and on abort", async () => {
    const { view, leave, ended } = aView();
    await until(isFollowing(view), "the view to follow");
    const asking = new AbortController();
    const soon = view.awaitApplied(1, asking.signal, 60_000);
    const never = view.awaitApplied(2, asking.signal, 60_000);
    await append(put("a", "1"));
    expect(await inTime(soon)).toBe(true);
    expect(await inTime(view.awaitApplied(1, asking.signal, 0))).toBe(true);
    expect(await inTime(view.awaitApplied(2, asking.signal, 500))).toBe(false);
    asking.abort();
    expect(await inTime(never)).toBe(false);
    leave();
    await inTime(ended);
  });

  it("ends when the view fails", async () => {
    log.subscribe = async () => {
      await sleep(testClock, 100, new AbortController().signal);
      throw new TypeError("a defect");
    };
    const { view, ended } = aView();
    const waiting = view.awaitApplied(1, new AbortController().signal, 3_600_000);
    expect(await inTime(waiting)).toBe(false);
    await inTime(ended);
  });
});
