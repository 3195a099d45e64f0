import { describe, expect, it } from "vitest";
import { LogDeletedError, LogReplacedError } from "../../src/oplog/log-errors.js";
import { StoreUnavailableError } from "../../src/oplog/store-errors.js";
import { appendTo, aSubscriber, RecordingSink } from "../following/followers.js";
import { aLogOf, at, aUsedLog, dieAfter, keys, sidecar, store, stored, thePresent, useStore } from "./deletions.js";
import { anAppend, inTime, passTime, resolveFromStore, until, useFakeTime } from "./support.js";

useFakeTime();
useStore();

describe("an answer from the past", () => {
  it("leaves no new cursor behind when the log is gone", async () => {
    const log = sidecar("a");
    const logId = await aUsedLog(log);
    const toldAgain = await thePresent(keys.head);
    await inTime(sidecar("b").delete(logId));
    toldAgain(2);
    await expect(inTime(log.updateCursor(at(5n, "late")))).rejects.toThrow(LogDeletedError);
    expect(await stored()).toEqual([keys.term]);
  });

  it("brings no cursor into the log that is made anew", async () => {
    const [a, b] = [sidecar("a"), sidecar("b")];
    const logId = await aUsedLog(a);
    const toldAgain = await thePresent(keys.head);
    await inTime(b.delete(logId));
    await appendTo(b, anAppend());
    await inTime(b.updateCursor(at(1n, "there")));
    const before = await stored();
    toldAgain(2);
    await expect(inTime(a.updateCursor(at(5n, "late")))).rejects.toThrow(StoreUnavailableError);
    toldAgain(1);
    await expect(inTime(a.updateCursor(at(5n, "there")))).rejects.toMatchObject({ code: "OUT_OF_RANGE" });
    expect(store.pastAnswersLeft(keys.head)).toBe(0);
    expect(await stored()).toEqual(before);
  });

  it("rules out nothing in the log that is made anew", async () => {
    const [a, b] = [sidecar("a"), sidecar("b")];
    const logId = await aUsedLog(a);
    const toldAgain = await thePresent(keys.barriers);
    await inTime(b.delete(logId));
    await appendTo(b, anAppend());
    toldAgain(1);
    const answer = await inTime(resolveFromStore(store, keys, "x", 7n)).catch(() => undefined);
    expect(store.pastAnswersLeft(keys.barriers)).toBe(0);
    const late = anAppend().by("x", 7n).build();
    (await inTime(b.primary.lead())).append(late);
    const isCommitted = !("error" in (await inTime(late.outcome)));
    expect(isCommitted).toBe(answer?.outcome !== "not committed");
  });

  it("is not read as entries of the deleted log", async () => {
    const [a, b] = [sidecar("a"), sidecar("b")];
    const logId = await aLogOf(5, a);
    const toldAgain = await thePresent(keys.head);
    await inTime(b.delete(logId));
    await appendTo(b, anAppend());
    toldAgain(1);
    await expect(inTime(a.read(1n, 10, 1000))).rejects.toThrow(LogReplacedError);
  });

  it.each(["marked", "whole"])("of a head that was %s keeps nobody from the log that is made anew", async (how) => {
    const [a, b] = [sidecar("a"), sidecar("b")];
    const logId = await aUsedLog(a);
    if (how === "marked") await dieAfter(2, logId);
    const toldAgain = await thePresent(keys.head);
    await inTime(b.delete(logId));
    await appendTo(b, anAppend());
    toldAgain(1);
    const { head } = await inTime(a.primary.claimByToken(1n, { id: "m", endpoint: "" }));
    expect(store.pastAnswersLeft(keys.head)).toBe(0);
    expect(head.lastSequenceId).toBe(1n);
  });

  it("of a head of long ago costs no term", async () => {
    const [a, b] = [sidecar("a"), sidecar("b")];
    const logId = await aLogOf(1, a);
    const toldAgain = await thePresent(keys.head);
    await inTime(b.delete(logId));
    await inTime(b.delete(await aLogOf(1, b)));
    toldAgain(1);
    const { term, head } = await inTime(sidecar("c").primary.claimByToken(1n, { id: "m", endpoint: "" }));
    expect(store.pastAnswersLeft(keys.head)).toBe(0);
    expect({ term, last: head.lastSequenceId }).toEqual({ term: 5n, last: 0n });
  });

  it.each(["marked", "whole"])("of a head that was %s ends nobody who follows the next log", async (how) => {
    const [a, b] = [sidecar("a"), sidecar("b")];
    const logId = await aUsedLog(a);
    if (how === "marked") await dieAfter(2, logId);
    const toldAgain = await thePresent(keys.head);
    await inTime(b.delete(logId));
    await appendTo(b, anAppend());
    const subscriber = aSubscriber(a);
    await until(() => subscriber.sink.covered === 1n, "the subscriber to be live");
    toldAgain(1);
    await until(() => store.pastAnswersLeft(keys.head) === 0, "the head to be read", 3000);
    await appendTo(b, anAppend());
    await until(() => subscriber.sink.covered === 2n, "the next entry", 3000);
    expect(subscriber.outcome()).toBeUndefined();
    subscriber.leave();
  });
});

describe("what a sidecar has written to a log that was deleted", () => {
  it.each(["empty", "shorter", "longer"])("is not taken for entries of the next one, which is %s", async (how) => {
    const [a, b] = [sidecar("a"), sidecar("b")];
    await inTime(b.delete(await aLogOf(5, a)));
    const length = how === "empty" ? 0 : how === "shorter" ? 1 : 6;
    await inTime(b.primary.lead());
    if (length > 0) await aLogOf(length, b);
    const subscriber = aSubscriber(a);
    await until(() => subscriber.sink.noticed.includes("caught up"), "the subscriber to be live");
    expect(subscriber.sink.covered).toBe(BigInt(length));
    await passTime(6000);
    await appendTo(b, anAppend());
    await until(() => subscriber.sink.covered === BigInt(length + 1), "the next entry");
    expect(subscriber.outcome()).toBeUndefined();
    subscriber.leave();
  });
});

describe("a standby of a log that is deleted", () => {
  it("counts for no append to the next log", async () => {
    const [a, b] = [sidecar("a"), sidecar("b")];
    const logId = await aUsedLog(a);
    await inTime(b.updateCursor(at(5n)));
    const isPassed = (id: bigint) => {
      const told = { reached: undefined as number | undefined };
      a.standbys.wait(id, { position: "applied", count: 1, timeoutMs: 1000 }, (reached) => {
        told.reached = reached;
      });
      return told;
    };
    const old = isPassed(5n);
    await until(() => old.reached === 1, "the standby to be known");
    store.dropWatchEvents();
    await inTime(b.delete(logId));
    await inTime(a.primary.lead()).then((writer) => writer.append(anAppend().build()));
    await until(() => a.primary.writer === undefined, "the writer to end");
    await appendTo(a, anAppend());
    const next = isPassed(1n);
    await passTime(1000);
    expect(next.reached).toBe(0);
  });
});

describe("who follows a log that is deleted", () => {
  it.each(["live", "deaf", "behind"])("and is %s is told so", async (how) => {
    const [a, b] = [sidecar("a"), sidecar("b", { cacheBytesMax: how === "behind" ? 1 : 1024 * 1024 })];
    const logId = await aUsedLog(a);
    const subscriber = aSubscriber(b);
    await until(() => subscriber.sink.covered > 0n, "the first batch");
    if (how === "deaf") store.dropWatchEvents();
    await inTime(a.delete(logId));
    await expect(inTime(subscriber.ended)).rejects.toThrow(LogDeletedError);
  });

  it("at the sidecar that leads it, too", async () => {
    const log = sidecar("a");
    const logId = await aUsedLog(log);
    const subscriber = aSubscriber(log);
    await until(() => subscriber.sink.covered === 5n, "the subscriber to be live");
    await inTime(sidecar("b").delete(logId));
    await expect(inTime(subscriber.ended)).rejects.toThrow(LogDeletedError);
  });

  it("and comes back with its id is told so, as long as there is no other one, and then that", async () => {
    const log = sidecar("a");
    const logId = await aUsedLog(log);
    await inTime(log.delete(logId));
    const again = () =>
      inTime(
        aSubscriber(log, { logId, start: { kind: "sequence", from: 1n, previous: { term: 0n, chain: "" } } }).ended,
      );
    await expect(again()).rejects.toThrow(LogDeletedError);
    await appendTo(log, anAppend());
    await passTime(6000);
    await expect(again()).rejects.toThrow(LogReplacedError);
  });

  it("and takes nothing keeps nobody from the next log", async () => {
    const [a, b] = [sidecar("a"), sidecar("b")];
    const logId = await aUsedLog(a);
    const sink = new RecordingSink();
    sink.pause();
    const slow = aSubscriber(b, { sink });
    await until(() => sink.held > 0, "the subscriber to be behind");
    await inTime(a.delete(logId));
    await passTime(2000);
    await appendTo(a, anAppend());
    const other = aSubscriber(b);
    await until(() => other.sink.covered === 1n, "the first entry of the next log");
    expect(slow.outcome()).toBeUndefined();
    sink.resume();
    await expect(inTime(slow.ended)).rejects.toThrow(LogReplacedError);
    other.leave();
    await inTime(other.ended);
  });

  it("a new subscriber waits for the log that comes next", async () => {
    const [a, b] = [sidecar("a"), sidecar("b")];
    await inTime(a.delete(await aUsedLog(a)));
    const subscriber = aSubscriber(b);
    await until(() => subscriber.sink.noticed.includes("caught up"), "the subscriber to wait");
    await appendTo(a, anAppend());
    await until(() => subscriber.sink.covered === 1n, "the first entry of the next log");
    subscriber.leave();
    await inTime(subscriber.ended);
  });
});
