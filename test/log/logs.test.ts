import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Logs } from "../../src/log/logs.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { appendTo, aSubscriber, logParts } from "../following/followers.js";
import { anAppend, anIdentity, inTime, passTime, testClock, until, useFakeTime } from "../log/support.js";

useFakeTime();

const IDLE_MS = 60_000;
let store: MemoryKvStore;
let gone: Set<string>;
let logs: Logs;
let stop: AbortController;

function someLogs(openMax: number, id = "a", cursorExpiryMs = 0): Logs {
  const made = new Logs(
    logParts(store, {
      identity: anIdentity(id),
      cursorExpiryMs,
      onGone: (names) => {
        for (const name of names) gone.add(name);
      },
    }),
    openMax,
    IDLE_MS,
  );
  void made.run(stop.signal);
  return made;
}

beforeEach(() => {
  store = new MemoryKvStore({ clock: testClock });
  gone = new Set();
  stop = new AbortController();
  logs = someLogs(4);
});
afterEach(async () => {
  stop.abort();
  await logs.close();
});

const append = (name: string, of = logs) => appendTo(of.get(name), anAppend());

describe("the logs of a sidecar", () => {
  it("are closed when nobody has used them for long, and go on under the same term when they are used again", async () => {
    await append("a");
    const before = logs.get("a");
    const { term } = before.primary;
    await passTime(2 * IDLE_MS);
    expect([...gone]).toEqual(["a"]);
    const after = logs.get("a");
    expect(after).not.toBe(before);
    expect(await append("a")).toBe(2n);
    expect(after.primary.term).toBe(term);
  });

  it("take any number of logs one after the other, read or written, within their number", async () => {
    for (let index = 0; index < 40; index++) {
      await append(`written-${index}`);
      await logs
        .get(`missing-${index}`)
        .read(0n, 1, 1000)
        .catch(() => undefined);
      await passTime(5000);
    }
    for (let index = 0; index < 40; index += 7) {
      expect(await append(`written-${index}`)).toBe(2n);
      await passTime(5000);
    }
    expect(gone.size).toBeGreaterThan(70);
  });

  it("do not close what is in use: a log with a subscriber, and one that has just been asked for", async () => {
    await append("followed");
    const subscriber = aSubscriber(logs.get("followed"));
    for (const name of ["b", "c", "d"]) await append(name);
    expect(() => logs.get("e")).toThrow("too many logs in use");
    await passTime(5000);
    await append("e");
    await passTime(3 * IDLE_MS);
    expect(gone.has("followed")).toBe(false);
    await append("followed");
    await until(() => subscriber.sink.batches.at(-1)?.last === 2n, "the subscriber to get what comes");
    subscriber.leave();
    await inTime(subscriber.ended);
    await passTime(3 * IDLE_MS);
    expect(gone.has("followed")).toBe(true);
  });

  it("stay open while cursors of a log that is led here count towards their expiry, unless the place is needed", async () => {
    const led = someLogs(2, "c", 100 * IDLE_MS);
    await appendTo(led.get("a"), anAppend().of(5));
    const position = {
      consumer: "dead",
      received: 1n,
      flushed: 1n,
      applied: 1n,
      stateHash: Buffer.alloc(0),
      appliedChain: "",
    };
    await led.get("a").updateCursor({ ...position, isRewindAllowed: false });
    await passTime(20 * IDLE_MS);
    expect(gone.has("a")).toBe(false);
    for (const name of ["b", "c"]) {
      await append(name, led);
      await passTime(5000);
    }
    expect(gone.has("a")).toBe(true);
    await led.close();
  });

  it("do not forget that a log was lost to another sidecar", async () => {
    await append("a");
    await passTime(2 * IDLE_MS);
    const other = someLogs(4, "b");
    await append("a", other);
    await expect(append("a")).rejects.toMatchObject({ reason: "NOT_PRIMARY" });
    await passTime(2 * IDLE_MS);
    await expect(append("a")).rejects.toMatchObject({ reason: "NOT_PRIMARY" });
    expect(await append("a", other)).toBe(3n);
    await other.close();
  });
});
