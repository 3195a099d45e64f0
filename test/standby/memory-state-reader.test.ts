import { beforeEach, describe, expect, it } from "vitest";
import type { Log } from "../../src/log/log.js";

import { silentLogger } from "../../src/oplog/logger.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { ImageAbandonedError, type ViewEntry } from "../../src/standby/log-view.js";
import { View } from "../../src/standby/view.js";
import { aLog, appendTo } from "../following/followers.js";
import { anAppend, inTime, passTime, testClock, until, useFakeTime } from "../log/support.js";
import { hashOf, hex, type Operation, put, remove } from "./support.js";

useFakeTime();

const NEVER = new AbortController().signal;
let log: Log;
let view: View;

beforeEach(async () => {
  log = aLog(new MemoryKvStore({ clock: testClock }));
  const observer = { applied() {}, keyOrderViolated() {}, diverged() {}, phase() {} };
  view = new View({ openLog: () => log, clock: testClock, logger: silentLogger, observer, headPollMs: 1000 }, "log");
  void view.run(NEVER);
  await append(...Array.from({ length: 40 }, (_, index) => put(`key-${index}`, "x".repeat(100))));
  await untilApplied(40);
});

const append = (...operations: Operation[]) => appendTo(log, anAppend().with({ entries: operations }));
const untilApplied = (id: number) => until(() => view.applied === id, `${id} to be applied`);
const hashOfEntries = (entries: readonly ViewEntry[]) =>
  hashOf(entries.map(({ key, payload, sequenceId }) => ({ key: key.toString(), payload: hex(payload), sequenceId })));

describe("the image of a state", () => {
  it("is of exactly one entry, whatever is appended while it is taken", async () => {
    const parts = view.reader.image(1_000, NEVER);
    const entries = [...((await inTime(parts.next())).value as ViewEntry[])];
    await append(put("late", "1"), remove("key-39"), put("key-38", "changed"));
    await passTime(500);
    for (;;) {
      const { done, value } = await inTime(parts.next());
      if (!done) {
        entries.push(...value);
        continue;
      }
      expect(value).toMatchObject({ applied: 40, keys: 40 });
      expect(hex(value!.stateHash)).toBe(hashOfEntries(entries));
      break;
    }
    await untilApplied(43);
    expect(view.keys).toBe(40);
  });

  it("lets the view go on when it is given up half-way", async () => {
    const parts = view.reader.image(1_000, NEVER);
    await inTime(parts.next());
    await parts.return(undefined);
    await append(put("late", "1"));
    await untilApplied(41);
  });

  it("does not hold up a promotion", async () => {
    const parts = view.reader.image(1_000, NEVER);
    await inTime(parts.next());
    await append(put("late", "1"));
    await passTime(100);
    expect(view.applied).toBe(40);
    await inTime(view.promote(41n, NEVER));
    await expect(inTime(parts.next())).rejects.toThrow(ImageAbandonedError);
  });
});

describe("a scan of a state", () => {
  it("goes on while entries are applied, and tells from where to where", async () => {
    const parts = view.reader.scan(1_000, NEVER);
    await inTime(parts.next());
    await append(put("late", "1"));
    await untilApplied(41);
    for (;;) {
      const { done, value } = await inTime(parts.next());
      if (!done) continue;
      expect(value).toMatchObject({ start: 40, end: { applied: 41 } });
      return;
    }
  });

  it("ends without an end when its reader leaves", async () => {
    const left = new AbortController();
    const parts = view.reader.scan(1_000, left.signal);
    await inTime(parts.next());
    left.abort();
    expect(await inTime(parts.next())).toEqual({ done: true, value: undefined });
  });
});
