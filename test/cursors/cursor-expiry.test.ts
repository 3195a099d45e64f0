import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Log } from "../../src/log/log.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { readCursors } from "../../src/stored/cursors.js";
import { aLog, appendTo } from "../following/followers.js";
import { anAppend, anIdentity, keysOf, passTime, testClock, useFakeTime } from "../log/support.js";

useFakeTime();

const EXPIRY_MS = 10 * 60_000;
let store: MemoryKvStore;
let leader: Log;

beforeEach(async () => {
  store = new MemoryKvStore({ clock: testClock });
  leader = aLog(store, { cursorExpiryMs: EXPIRY_MS });
  await appendTo(leader, anAppend().of(10));
});
afterEach(() => leader.close());

const report = (consumer: string, applied: number, at = leader) =>
  at.updateCursor({
    consumer,
    received: BigInt(applied),
    flushed: BigInt(applied),
    applied: BigInt(applied),
    stateHash: Buffer.alloc(0),
    appliedChain: "",
    isRewindAllowed: true,
  });
const consumers = async () => (await readCursors(store, keysOf())).cursors.map(({ consumer }) => consumer);

describe("the leader of a log", () => {
  it("removes cursors that have been silent for the time, and leaves those that report", async () => {
    for (const consumer of ["dead", "alive"]) await report(consumer, 5);
    for (let minute = 0; minute < 9; minute++) {
      await passTime(60_000);
      await report("alive", 5 + (minute % 2));
    }
    expect(await consumers()).toEqual(["alive", "dead"]);
    await report("alive", 8);
    await passTime(3 * 60_000);
    expect(await consumers()).toEqual(["alive"]);
  });

  it("leaves a consumer that has everything, however long nothing comes, and counts from when something does", async () => {
    await report("idle", 10);
    await passTime(10 * EXPIRY_MS);
    expect(await consumers()).toEqual(["idle"]);
    await appendTo(leader, anAppend());
    await passTime(EXPIRY_MS / 2);
    expect(await consumers()).toEqual(["idle"]);
    await passTime(EXPIRY_MS);
    expect(await consumers()).toEqual([]);
  });

  it("goes by what it has seen itself: the wall clocks of other machines count for nothing", async () => {
    await report("behind", 5);
    await passTime(EXPIRY_MS / 2);
    const next = aLog(store, { cursorExpiryMs: EXPIRY_MS, identity: anIdentity("b") });
    await appendTo(next, anAppend());
    await leader.close();
    await passTime(EXPIRY_MS * 0.9);
    expect(await consumers()).toEqual(["behind"]);
    await passTime(EXPIRY_MS / 4);
    expect(await consumers()).toEqual([]);
    await next.close();
  });

  it("stops when it leads no more, and removes nothing where no time is set", async () => {
    await report("behind", 5);
    await leader.close();
    const patient = aLog(store, { cursorExpiryMs: 0, identity: anIdentity("b") });
    await appendTo(patient, anAppend());
    await passTime(10 * EXPIRY_MS);
    expect(await consumers()).toEqual(["behind"]);
    await patient.close();
  });
});
