import { beforeEach, describe, expect, it } from "vitest";
import type { Log } from "../../src/log/log.js";
import { silentLogger } from "../../src/oplog/logger.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { View } from "../../src/standby/view.js";
import { aLog, appendTo } from "../following/followers.js";
import { anAppend, testClock, until, useFakeTime } from "../log/support.js";
import { Model, type Operation, put } from "./support.js";

useFakeTime();

const NEVER = new AbortController().signal;
const WRONG = Buffer.alloc(32, 7);
let log: Log;
let view: View;
let model: Model;
let told: number[];

beforeEach(async () => {
  log = aLog(new MemoryKvStore({ clock: testClock }));
  model = new Model();
  told = [];
  const observer = {
    applied() {},
    keyOrderViolated() {},
    diverged: (_: string, consumers: number) => told.push(consumers),
    phase() {},
  };
  view = new View({ openLog: () => log, clock: testClock, logger: silentLogger, observer, headPollMs: 1000 }, "log");
  void view.run(NEVER);
  await append(put("a", "1"), put("b", "2"));
});

async function append(...operations: Operation[]): Promise<void> {
  await appendTo(log, anAppend().with({ entries: operations }));
  for (const operation of operations) model.apply(operation);
  await until(() => view.applied === model.applied, "the view to apply");
}
/** Of the state at the entry that was appended last. */
const right = () => Buffer.from(model.hash, "hex");
const diverged = () => view.divergences.map(({ consumer, sequenceId }) => [consumer, sequenceId]);

describe("the state that a consumer reports", () => {
  it("is compared with that of the view at the same entry, and told while it is another", () => {
    view.compareHash("good", 2n, right());
    view.compareHash("bad", 2n, WRONG);
    expect(diverged()).toEqual([["bad", 2]]);
    expect(view.divergences[0]).toMatchObject({ theirs: WRONG.toString("hex"), ours: right().toString("hex") });
    view.compareHash("bad", 2n, right());
    expect(diverged()).toEqual([]);
    expect(told).toEqual([1, 0]);
  });

  it("is compared at an entry in the midst of a batch that is yet to come", async () => {
    const ahead = new Model();
    for (const operation of [put("a", "1"), put("b", "2"), put("c", "3")]) ahead.apply(operation);
    view.compareHash("good", 3n, Buffer.from(ahead.hash, "hex"));
    view.compareHash("bad", 3n, WRONG);
    expect(diverged()).toEqual([]);
    await append(put("c", "3"), put("d", "4"), put("e", "5"));
    expect(diverged()).toEqual([["bad", 3]]);
  });

  it("is compared at the end of a batch that is past, and nowhere else in the past", async () => {
    view.compareHash("other", 2n, right());
    const before = right();
    await append(put("c", "3"), put("d", "4"));
    view.compareHash("good", 2n, before);
    view.compareHash("bad", 2n, WRONG);
    view.compareHash("unknown", 3n, WRONG);
    expect(diverged()).toEqual([["bad", 2]]);
  });

  it("of another length, or of nothing, is the consumer's own affair", () => {
    view.compareHash("own", 2n, Buffer.alloc(16));
    view.compareHash("none", 2n, Buffer.alloc(0));
    view.compareHash("empty", 0n, WRONG);
    expect(diverged()).toEqual([]);
  });
});
