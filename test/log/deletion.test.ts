import { describe, expect, it } from "vitest";
import { OutcomeUnknownError } from "../../src/oplog/append-errors.js";
import { LogDeletedError, LogNotFoundError, LogReplacedError } from "../../src/oplog/log-errors.js";
import { StoreUnavailableError } from "../../src/oplog/store-errors.js";
import { decodeTerm } from "../../src/stored/decode.js";
import { trim } from "../../src/stored/trim.js";
import { deleteLog } from "../../src/writing/delete-log.js";
import { appendTo, aSubscriber } from "../following/followers.js";
import {
  aLogOf,
  at,
  aUsedLog,
  dieAfter,
  isPutOf,
  keys,
  logIdIn,
  never,
  sidecar,
  store,
  stored,
  useStore,
} from "./deletions.js";
import {
  anAppend,
  anIdentity,
  aWriter,
  errorOf,
  inTime,
  readAtRest,
  resolveFromStore,
  until,
  useFakeTime,
} from "./support.js";

useFakeTime();
useStore();

describe("a log that is deleted", () => {
  it("leaves nothing but the term that fences its writers, and that is no error a second time", async () => {
    const log = sidecar("a");
    const logId = await aUsedLog(log);
    await inTime(log.delete(logId));
    expect(await stored()).toEqual([keys.term]);
    expect(decodeTerm((await store.get(keys.term)).pair)).toMatchObject({ term: 2n, owner: "", deletedLogId: logId });
    expect(await inTime(log.observe())).toBe("missing");
    await inTime(sidecar("b").delete(logId));
    expect(await stored()).toEqual([keys.term]);
  });

  it("is the one that was meant, or nothing is done", async () => {
    const log = sidecar("a");
    await expect(inTime(log.delete(Buffer.alloc(16)))).rejects.toThrow(LogNotFoundError);
    const logId = await aUsedLog(log);
    const before = await stored();
    const refusal = inTime(log.delete(Buffer.alloc(16, 7)));
    await expect(refusal).rejects.toThrow(LogReplacedError);
    await expect(refusal).rejects.toMatchObject({ facts: { current: Buffer.from(logId).toString("hex") } });
    expect(await stored()).toEqual(before);
    expect(await appendTo(log, anAppend())).toBe(6n);
  });

  it("is dropped in steps of 1,000 keys", async () => {
    const log = sidecar("a");
    await appendTo(log, anAppend());
    const logId = await logIdIn(log);
    for (let id = 2; id <= 2500; id++) {
      await store.txn({
        compares: [],
        writes: [{ kind: "put", key: keys.record(BigInt(id)), value: Buffer.alloc(1) }],
      });
    }
    const before = store.calls.txns;
    await inTime(log.delete(logId));
    expect(store.calls.txns - before).toBe(2 + 3 + 1);
    expect(await stored()).toEqual([keys.term]);
  });

  it("is deleted also while it is written without a pause", async () => {
    const writing = sidecar("a");
    await appendTo(writing, anAppend());
    const logId = await logIdIn(writing);
    // The head has moved since it was read.
    const fencing = store.hangNextTxn(isPutOf(keys.term));
    const deleted = deleteLog(store, keys, logId, never);
    await fencing.arrived;
    await appendTo(writing, anAppend());
    await fencing.answer();
    await inTime(deleted);
    expect(await stored()).toEqual([keys.term]);
  });

  it("is deleted also while its term is claimed", async () => {
    const logId = await aUsedLog(sidecar("a"));
    const fencing = store.hangNextTxn(isPutOf(keys.term));
    const deleted = deleteLog(store, keys, logId, never);
    await fencing.arrived;
    await inTime(sidecar("b").primary.claimByToken(9n, { id: "m", endpoint: "" }));
    await fencing.answer();
    await inTime(deleted);
    expect(await stored()).toEqual([keys.term]);
  });

  it("leaves nothing where the keys are listed from the past", async () => {
    const logId = await aUsedLog(sidecar("a"));
    const page = store.page.bind(store);
    store.page = async (request) => ({ ...(await page(request)), pairs: [], more: false });
    await inTime(deleteLog(store, keys, logId, never));
    store.page = page;
    expect(await stored()).toEqual([keys.term]);
  });

  it("is another log when it is made anew, with higher terms, from 1, and without what was ruled out", async () => {
    const [a, b] = [sidecar("a"), sidecar("b")];
    const logId = await aUsedLog(a);
    await inTime(b.delete(logId));
    expect(await appendTo(b, anAppend().by("x", 7n), anAppend().by("w", 1n))).toBe(2n);
    expect(Buffer.compare(await logIdIn(b), logId)).not.toBe(0);
    expect((await readAtRest(store, keys)).map(({ term }) => term)).toEqual([3n]);
    await expect(inTime(b.delete(logId))).rejects.toThrow(LogReplacedError);
    expect(await inTime(b.updateCursor(at(2n)))).toEqual({ head: 2n, floor: 1n });
  });

  it("may be made anew by the sidecar that wrote it, also by one that was fenced", async () => {
    const [a, b] = [sidecar("a"), sidecar("b")];
    const logId = await aUsedLog(a);
    await inTime(b.delete(logId));
    const refused = anAppend().build();
    (await inTime(a.primary.lead())).append(refused);
    expect(errorOf(await inTime(refused.outcome))).toBeInstanceOf(LogDeletedError);
    expect(await appendTo(a, anAppend())).toBe(1n);
  });

  it("may be made anew by the sidecar that deleted it at once", async () => {
    const log = sidecar("a");
    await inTime(log.delete(await aUsedLog(log)));
    expect(await appendTo(log, anAppend())).toBe(1n);
  });
});

describe("a deletion that is interrupted", () => {
  it("before the term is raised has changed nothing", async () => {
    const log = sidecar("a");
    await dieAfter(0, await aUsedLog(log));
    expect(await appendTo(log, anAppend())).toBe(6n);
  });

  it("after the term is raised says so, and refuses whatever would change the log", async () => {
    const [a, b] = [sidecar("a"), sidecar("b")];
    const logId = await aUsedLog(a);
    await dieAfter(1, logId);
    expect(await inTime(b.observe())).toMatchObject({ logId, isDeleting: true, leader: { id: "" } });
    await expect(inTime(b.primary.lead())).rejects.toThrow(LogDeletedError);
    const refused = anAppend().build();
    (await inTime(a.primary.lead())).append(refused);
    expect(errorOf(await inTime(refused.outcome))).toBeInstanceOf(LogDeletedError);
    await expect(inTime(a.primary.lead())).rejects.toThrow(LogDeletedError);
    await expect(inTime(b.updateCursor(at(1n, "new")))).rejects.toThrow(LogDeletedError);
    await expect(inTime(b.resolveAppend("w", 100n))).rejects.toThrow(LogDeletedError);
    await inTime(b.delete(logId));
    expect(await stored()).toEqual([keys.term]);
  });

  it.each([2, 3, 4])("after %d steps says so, refuses everything, and is completed at any sidecar", async (txns) => {
    const [a, b] = [sidecar("a"), sidecar("b")];
    const logId = await aUsedLog(a);
    const old = aSubscriber(b);
    await until(() => old.sink.covered === 5n, "the subscriber to be live");
    await dieAfter(txns, logId);
    expect(await inTime(b.observe())).toMatchObject({ logId, isDeleting: true, leader: { id: "" } });
    await expect(inTime(b.primary.lead())).rejects.toThrow(LogDeletedError);
    await expect(inTime(b.primary.claimByToken(1n, { id: "m", endpoint: "" }))).rejects.toThrow(LogDeletedError);
    await expect(inTime(b.updateCursor(at(1n, "new")))).rejects.toThrow(LogDeletedError);
    await expect(inTime(b.resolveAppend("w", 100n))).rejects.toThrow(LogDeletedError);
    await expect(inTime(b.read(0n, 10, 1000))).rejects.toThrow(LogDeletedError);
    await expect(inTime(old.ended)).rejects.toThrow(LogDeletedError);
    await expect(inTime(aSubscriber(b).ended)).rejects.toThrow(LogDeletedError);
    expect((await stored()).includes(keys.head)).toBe(true);
    await inTime(b.delete(logId));
    expect(await stored()).toEqual([keys.term]);
    expect(await appendTo(b, anAppend())).toBe(1n);
  });

  it.each([1, 2, 3, 4, 5])("whose reply %d was lost is completed by a repeat", async (lost) => {
    const log = sidecar("a");
    const logId = await aUsedLog(log);
    store.passNextTxns(lost - 1);
    store.loseNextReplies(1);
    await expect(inTime(log.delete(logId))).rejects.toThrow(StoreUnavailableError);
    await inTime(log.delete(logId));
    expect(await stored()).toEqual([keys.term]);
  });

  it("and begun twice is done once", async () => {
    const [a, b] = [sidecar("a"), sidecar("b")];
    const logId = await aUsedLog(a);
    await inTime(Promise.all([a.delete(logId), b.delete(logId), a.delete(logId)]));
    expect(await stored()).toEqual([keys.term]);
  });

  it.each([0, 1, 2, 3, 4])(
    "and comes late after %d steps deletes nothing of a log that was made since",
    async (txns) => {
      const [a, b] = [sidecar("a"), sidecar("b")];
      const logId = await aUsedLog(a);
      store.passNextTxns(txns);
      const late = store.hangNextTxn();
      const slow = deleteLog(store, keys, logId, never);
      await late.arrived;
      await inTime(b.delete(logId));
      await appendTo(b, anAppend());
      await late.answer();
      if (txns === 0) await expect(inTime(slow)).rejects.toThrow(LogReplacedError);
      else await inTime(slow);
      expect((await readAtRest(store, keys)).map(({ last }) => last)).toEqual([1n]);
    },
  );
});

describe("what is on its way to a log that is deleted", () => {
  it("an append is refused, and never comes into the log that is made anew", async () => {
    const writer = await aWriter(store, { identity: anIdentity("a") });
    const log = sidecar("b");
    const late = store.holdNextTxn();
    const append = writer.append(anAppend());
    await late.arrived;
    const logId = await logIdIn(log);
    await inTime(log.delete(logId));
    await appendTo(log, anAppend().saying("new"));
    expect(await late.applyNow()).toMatchObject({ succeeded: false });
    expect(errorOf(await inTime(append.outcome))).not.toBeUndefined();
    expect((await readAtRest(store, keys)).map(({ term }) => term)).toEqual([3n]);
  });

  it.each([false, true])("an append whose reply was lost is told as unknown; the log made anew: %s", async (isAnew) => {
    const writer = await aWriter(store, { identity: anIdentity("a") });
    const log = sidecar("b");
    const lost = store.hangNextTxn();
    const append = writer.append(anAppend());
    await lost.applyNow();
    await inTime(log.delete(await logIdIn(log)));
    if (isAnew) await appendTo(log, anAppend());
    lost.timeOut();
    expect(errorOf(await inTime(append.outcome))).toBeInstanceOf(OutcomeUnknownError);
  });

  it("a new cursor is not left behind", async () => {
    const log = sidecar("a");
    const logId = await aLogOf(5, log);
    const late = store.hangNextTxn(isPutOf(keys.cursor("late")));
    const report = log.updateCursor(at(5n, "late"));
    report.catch(() => undefined);
    await late.arrived;
    await inTime(sidecar("b").delete(logId));
    await late.answer();
    await expect(inTime(report)).rejects.toThrow(LogNotFoundError);
    expect(await stored()).toEqual([keys.term]);
  });

  it("a barrier is not left behind", async () => {
    const log = sidecar("a");
    const logId = await aLogOf(5, log);
    const late = store.hangNextTxn(isPutOf(keys.barriers));
    const question = resolveFromStore(store, keys, "late", 9n);
    question.catch(() => undefined);
    await until(() => store.calls.txns > 0, "the barrier");
    await late.arrived;
    await inTime(sidecar("b").delete(logId));
    await late.answer();
    await expect(inTime(question)).rejects.toThrow(LogDeletedError);
    expect(await stored()).toEqual([keys.term]);
  });

  it("a floor is not left behind", async () => {
    const log = sidecar("a");
    const logId = await aLogOf(5, log);
    const floorPut = store.hangNextTxn(isPutOf(keys.floor));
    const drop = trim(store, keys, 5n);
    drop.catch(() => undefined);
    await floorPut.arrived;
    await inTime(log.delete(logId));
    await appendTo(log, anAppend());
    await floorPut.answer();
    await expect(inTime(drop)).rejects.toThrow();
    expect(await store.get(keys.floor)).toMatchObject({ pair: undefined });
    expect((await readAtRest(store, keys)).map(({ last }) => last)).toEqual([1n]);
  });

  it("a trim drops nothing of the next log", async () => {
    const log = sidecar("a");
    const logId = await aLogOf(5, log);
    const late = store.hangNextTxn(({ writes }) =>
      writes.some((write) => write.kind === "delete-range" && write.from === keys.recordsFrom),
    );
    const drop = trim(store, keys, 5n);
    await late.arrived;
    await inTime(log.delete(logId));
    await appendTo(log, anAppend());
    await late.answer();
    await inTime(drop);
    expect((await readAtRest(store, keys)).map(({ last }) => last)).toEqual([1n]);
  });

  it("a term that was read before the mark is not claimed", async () => {
    const [a, b] = [sidecar("a"), sidecar("b")];
    const logId = await aUsedLog(a);
    const claim = store.hangNextTxn(isPutOf(keys.term));
    const leading = b.primary.claimByToken(5n, { id: "m", endpoint: "" });
    leading.catch(() => undefined);
    await claim.arrived;
    await dieAfter(2, logId);
    await claim.answer();
    await expect(inTime(leading)).rejects.toThrow(LogDeletedError);
    expect(decodeTerm((await store.get(keys.term)).pair)).toMatchObject({ deletedLogId: logId });
  });
});
