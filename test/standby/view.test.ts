import { beforeEach, describe, expect, it } from "vitest";
import { batchFrame } from "../../src/oplog/batch-frame.js";
import { systemClock } from "../../src/oplog/clock.js";
import { NoViewError, StoreUnavailableError, ViewFailedError } from "../../src/oplog/errors.js";
import { FaultyKvStore } from "../../src/oplog/faulty-kv-store.js";
import { silentLogger } from "../../src/oplog/logger.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import type { Log } from "../../src/replication/log.js";
import { trim } from "../../src/replication/retention.js";
import { Views } from "../../src/standby/views.js";
import { aLog, appendTo } from "../replication/followers.js";
import { anAppend, inTime, keysOf, passTime, until, useFakeTime } from "../replication/support.js";
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
  store = new FaultyKvStore(new MemoryKvStore({ clock: systemClock }));
  log = aLog(store, { headPollMs: HEAD_POLL_MS });
  primary = aLog(store);
  model = new Model();
});

async function append(...operations: Operation[]): Promise<void> {
  await appendTo(primary, anAppend().with({ entries: operations }));
  for (const operation of operations) model.apply(operation);
}

function aView() {
  const told = { applied: 0, keys: 0, violations: 0 };
  const views = new Views(
    {
      openLog: () => log,
      clock: systemClock,
      logger: silentLogger,
      observer: {
        applied: (_, sequenceId, keys) => Object.assign(told, { applied: sequenceId, keys }),
        keyOrderViolated: () => {
          told.violations++;
        },
      },
      headPollMs: HEAD_POLL_MS,
    },
    ["log"],
  );
  const gone = new AbortController();
  const ended = views.run(gone.signal);
  const view = views.get("log");
  return { views, view, told, leave: () => gone.abort(), ended };
}

const isFollowing = (view: { phase: string }) => () => view.phase === "following";

describe("a view", () => {
  it("applies what there is, and then what comes", async () => {
    await append(put("a", "1"), put("b", "2"));
    const { view, told, leave, ended } = aView();
    expect(view.phase).toBe("catching up");
    await until(isFollowing(view), "the view to follow");
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
    const { view, leave, ended } = aView();
    await until(isFollowing(view), "the view to follow");
    store.goAway();
    await passTime(2 * HEAD_POLL_MS + 100);
    expect(view).toMatchObject({ phase: "catching up", head: 1n });
    store.comeBack();
    await append(put("a", "2"));
    await until(isFollowing(view), "the view to follow again");
    expect(hex(view.state.stateHash)).toBe(model.hash);
    leave();
    await inTime(ended);
  });

  it("starts while the store is away", async () => {
    await append(put("a", "1"));
    store.goAway();
    const { view, leave, ended } = aView();
    await passTime(20_000);
    expect(view).toMatchObject({ phase: "catching up", state: { applied: 0 } });
    store.comeBack();
    await until(isFollowing(view), "the view to follow");
    expect(hex(view.state.stateHash)).toBe(model.hash);
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
      { kind: "sequence", from: 1n, previousTerm: 0n },
      { kind: "sequence", from: 1n, previousTerm: 0n },
      { kind: "sequence", from: 2n, previousTerm: 1n },
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
  });

  it("that meets what nobody expected stops, and keeps the inside to itself", async () => {
    log.subscribe = () => Promise.reject(new TypeError("undefined of secret"));
    const { views, ended } = aView();
    await inTime(ended);
    expect(() => views.get("log")).toThrow(/stopped at 0: an internal error/);
  });

  it("stops at a hole, with its numbers", async () => {
    log.subscribe = (_options, _start, _logId, sink) => sink.batch(batchFrame([batchOf([put("a")], 2)], 2n, 2n));
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
