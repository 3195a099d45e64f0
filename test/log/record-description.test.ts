import { beforeEach, describe, expect, it } from "vitest";
import type { Log } from "../../src/log/log.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { trim } from "../../src/stored/trim.js";
import { aLog, appendTo } from "../following/followers.js";
import { anAppend, inTime, keysOf, testClock, useFakeTime } from "./support.js";

useFakeTime();

const keys = keysOf();
let store: MemoryKvStore;
let log: Log;
beforeEach(() => {
  store = new MemoryKvStore({ clock: testClock });
  log = aLog(store);
});

const refusal = (id: bigint) => inTime(log.describeRecord(id).catch((error: unknown) => error));

describe("the description of a record", () => {
  it("is the same for each of its entries, and continues that of the record before", async () => {
    await appendTo(log, anAppend().of(2));
    await appendTo(log, anAppend().of(3));
    const [one, two] = [await log.describeRecord(1n), await log.describeRecord(4n)];
    expect(one).toMatchObject({ first: 1n, last: 2n, term: 1n, previousChain: "", head: 5n, floor: 1n });
    expect(two).toMatchObject({ first: 3n, last: 5n, previousChain: one.chain });
    expect(two.logId).toHaveLength(16);
    expect(await log.describeRecord(3n)).toEqual(two);
    expect(await log.describeRecord(0n)).toEqual(two);
  });

  it("of a trimmed entry is refused, and that of the head is known from the head", async () => {
    await appendTo(log, anAppend().of(2));
    await appendTo(log, anAppend().of(2));
    const { chain, timestampMs } = await log.describeRecord(0n);
    await trim(store, keys, 3n);
    expect(await refusal(1n)).toMatchObject({ reason: "TRIMMED", facts: { from: 1n, floor: 3n } });
    expect(await log.describeRecord(3n)).toMatchObject({ first: 3n, floor: 3n });
    await trim(store, keys, 5n);
    expect(await log.describeRecord(0n)).toMatchObject({
      first: 4n,
      last: 4n,
      term: 1n,
      chain,
      timestampMs,
      floor: 5n,
    });
  });

  it("of what is not there is refused: no such log, beyond the head, a hole", async () => {
    expect(await refusal(1n)).toMatchObject({ reason: "LOG_NOT_FOUND" });
    await appendTo(log, anAppend());
    await appendTo(log, anAppend());
    expect(await refusal(3n)).toMatchObject({ reason: "BEYOND_HEAD", facts: { head: 2n } });
    await store.txn({ compares: [], writes: [{ kind: "delete", key: keys.record(1n) }] });
    expect(await refusal(1n)).toMatchObject({ reason: "DATA_LOSS" });
    await store.txn({ compares: [], writes: [{ kind: "delete", key: keys.record(2n) }] });
    expect(await refusal(0n)).toMatchObject({ reason: "DATA_LOSS" });
  });

  it("of an empty log has no entries", async () => {
    await inTime(log.primary.claimByToken(1n, { id: "t", endpoint: "" }));
    expect(await log.describeRecord(0n)).toMatchObject({ first: 0n, last: 0n, chain: "", head: 0n, floor: 1n });
  });
});
