import { expect, test } from "vitest";
import { CompactedError, type KvStore, StoreRefusedError } from "../../src/oplog/kv-store.js";
import { waitFor, within } from "../support/wait.js";
import { endOf, put, type StoreUnderTest, uniqueRoot, write } from "./contract-kit.js";
import { describeEvent, WatchRecorder } from "./watch-recorder.js";

export function watchContract(subject: () => StoreUnderTest): void {
  const store = (): KvStore => subject().store;
  const watchFrom = (root: string, startRevision: bigint) =>
    WatchRecorder.start(store(), { from: root, to: endOf(root), startRevision });

  test("first comes an empty batch, then what is written from now on", async () => {
    const root = uniqueRoot();
    const before = await write(store(), put(`${root}old`));
    const watch = await watchFrom(root, before + 1n);
    expect(watch.batches[0]?.events).toEqual([]);
    const revision = await write(store(), put(`${root}a`, "1"));
    await watch.waitForEvents(1);
    expect(watch.changes).toEqual([
      {
        revision,
        events: [
          { kind: "put", pair: { key: `${root}a`, value: Buffer.from("1"), modRevision: revision, leaseId: 0n } },
        ],
      },
    ]);
    expect(await watch.stop()).toBeUndefined();
  });

  test("a watch from an old revision starts with what happened since, the first included", async () => {
    const root = uniqueRoot();
    await write(store(), put(`${root}before`));
    const first = await write(store(), put(`${root}a`, "1"));
    await write(store(), put(`${root}a`, "2"));
    await write(store(), { kind: "delete", key: `${root}a` });
    const watch = await watchFrom(root, first);
    await watch.waitForEvents(3);
    await write(store(), put(`${root}b`, "3"));
    const events = await watch.waitForEvents(4);
    expect(events.map((event) => describeEvent(event, root))).toEqual(["put a=1", "put a=2", "delete a", "put b=3"]);
    expect(watch.changes[0]?.revision).toBe(first);
    await watch.stop();
  });

  test("a watch from a revision that is yet to come stays silent until then", async () => {
    const root = uniqueRoot();
    const now = await write(store(), put(`${root}a`));
    const start = now + 50n;
    const watch = await watchFrom(root, start);
    let last = now;
    while (last < start + 3n) last = await write(store(), put(`${root}a`, "late"));
    await waitFor(() => watch.changes.at(-1)?.revision === last, { what: "the last change" });
    expect(watch.changes[0]!.revision).toBeGreaterThanOrEqual(start);
    await watch.stop();
  });

  test("changes of one transaction come together", async () => {
    const root = uniqueRoot();
    const now = await write(store(), put(`${root}x`), put(`${root}y`));
    const watch = await watchFrom(root, now + 1n);
    const revision = await write(
      store(),
      put(`${root}a`, "1"),
      put(`${root}b`, "2"),
      { kind: "delete", key: `${root}x` },
      { kind: "delete-range", from: `${root}y`, to: `${root}z` },
    );
    await watch.waitForEvents(4);
    expect(watch.changes).toHaveLength(1);
    expect(watch.changes[0]?.revision).toBe(revision);
    const described = watch.events.map((event) => describeEvent(event, root)).toSorted();
    expect(described).toEqual(["delete x", "delete y", "put a=1", "put b=2"]);
    await watch.stop();
  });

  test("a deletion comes with its revision", async () => {
    const root = uniqueRoot();
    const now = await write(store(), put(`${root}a`));
    const watch = await watchFrom(root, now + 1n);
    const revision = await write(store(), { kind: "delete", key: `${root}a` });
    expect(await watch.waitForEvents(1)).toEqual([{ kind: "delete", key: `${root}a`, modRevision: revision }]);
    await watch.stop();
  });

  test("a watch sees its range only", async () => {
    const root = uniqueRoot();
    const now = await write(store(), put(`${root}b/1`));
    const watch = await WatchRecorder.start(store(), { from: `${root}b/`, to: `${root}b0`, startRevision: now + 1n });
    await write(store(), put(`${root}a`), put(`${root}b`), put(`${root}b/2`), put(`${root}b0`), put(`${root}c`));
    await write(store(), put(`${root}a`));
    await write(store(), { kind: "delete-range", from: root, to: endOf(root) });
    await watch.waitForEvents(3);
    expect(watch.changes).toHaveLength(2);
    const described = watch.events.map((event) => describeEvent(event, root));
    expect(described[0]).toBe("put b/2=");
    expect(described.slice(1).toSorted()).toEqual(["delete b/1", "delete b/2"]);
    await watch.stop();
  });

  test("transactions that fail or are refused are not seen", async () => {
    const root = uniqueRoot();
    const now = await write(store(), put(`${root}a`));
    const watch = await watchFrom(root, now + 1n);
    await store().txn({ compares: [{ key: `${root}a`, modRevision: 0n }], writes: [put(`${root}a`, "failed")] });
    const refused = store().txn({ compares: [], writes: [put(`${root}a`, "refused"), put(`${root}a`, "refused")] });
    await expect(refused).rejects.toThrow(StoreRefusedError);
    await write(store(), put(`${root}a`, "applied"));
    const events = await watch.waitForEvents(1);
    expect(events.map((event) => describeEvent(event, root))).toEqual(["put a=applied"]);
    await watch.stop();
  });

  test("3,000 revisions of history arrive without gap or duplicate while writes go on", {
    timeout: 120_000,
  }, async () => {
    const root = uniqueRoot();
    const keyOf = new Map<bigint, string>();
    const first = await write(store(), put(`${root}first`));
    keyOf.set(first, `${root}first`);
    await writeMany(store(), `${root}history/`, 3_000, keyOf);
    const writing = writeMany(store(), `${root}live/`, 1_000, keyOf);
    const watch = await watchFrom(root, first);
    await writing;
    const total = keyOf.size;
    expect(total).toBe(4_001);
    await waitFor(() => watch.changes.length >= total, { deadlineMs: 60_000, what: `${total} revisions` });
    const expected = [...keyOf.keys()].toSorted((a, b) => (a < b ? -1 : 1));
    expect(watch.changes.map((batch) => batch.revision)).toEqual(expected);
    for (const { revision, events } of watch.changes) {
      expect(events.map((event) => (event.kind === "put" ? event.pair.key : event.key))).toEqual([keyOf.get(revision)]);
    }
    await watch.stop();
  });

  test("several watches of one range see the same", async () => {
    const root = uniqueRoot();
    const now = await write(store(), put(`${root}a`));
    const watches = await Promise.all(Array.from({ length: 5 }, () => watchFrom(root, now)));
    for (let index = 0; index < 20; index++) await write(store(), put(`${root}a`, String(index)));
    for (const watch of watches) await watch.waitForEvents(21);
    for (const watch of watches) expect(watch.changes).toEqual(watches[0]!.changes);
    for (const watch of watches) expect(await watch.stop()).toBeUndefined();
  });

  test("a signal that is aborted already ends the watch quietly", async () => {
    const root = uniqueRoot();
    const request = { from: root, to: endOf(root), startRevision: await write(store(), put(`${root}a`)) };
    const reading = (async () => {
      for await (const batch of store().watch(request, AbortSignal.abort())) if (batch.events.length > 0) return batch;
      return undefined;
    })();
    expect(await within(reading, { what: "the watch to end" })).toBeUndefined();
  });

  test("breaking out ends the watch quietly, and the store serves the next one", async () => {
    const root = uniqueRoot();
    const first = await write(store(), put(`${root}a`, "1"));
    for (let round = 0; round < 3; round++) {
      const abort = new AbortController();
      const seen: string[] = [];
      const reading = (async () => {
        for await (const { events } of store().watch(
          { from: root, to: endOf(root), startRevision: first },
          abort.signal,
        )) {
          seen.push(...events.map((event) => describeEvent(event, root)));
          if (seen.length > 0) break;
        }
      })();
      await within(reading, { what: "the consumer to break out" });
      expect(seen).toEqual(["put a=1"]);
    }
  });

  test("a watch from revision 0 is refused", async () => {
    const root = uniqueRoot();
    const watch = WatchRecorder.open(store(), { from: root, to: endOf(root), startRevision: 0n });
    expect(await within(watch.ended, { what: "the watch to end" })).toBeInstanceOf(StoreRefusedError);
  });

  test("a watch from before a compaction rejects, one from after it does not", async () => {
    const root = uniqueRoot();
    const first = await write(store(), put(`${root}a`, "1"));
    await write(store(), put(`${root}a`, "2"));
    const last = await write(store(), put(`${root}a`, "3"));
    await subject().compact(last);
    const early = WatchRecorder.open(store(), { from: root, to: endOf(root), startRevision: first });
    expect(await within(early.ended, { what: "the watch to end" })).toBeInstanceOf(CompactedError);
    expect(early.events).toEqual([]);
    const now = (await store().get(`${root}a`)).revision;
    const late = await watchFrom(root, now + 1n);
    await write(store(), put(`${root}a`, "4"));
    await late.waitForEvents(1);
    expect(late.events.map((event) => describeEvent(event, root))).toEqual(["put a=4"]);
    await late.stop();
  });
}

/** Writes `count` keys, 64 at a time, and notes the revision of each. */
async function writeMany(store: KvStore, root: string, count: number, keyOf: Map<bigint, string>): Promise<void> {
  let next = 0;
  const writer = async () => {
    while (next < count) {
      const key = `${root}${next++}`;
      keyOf.set(await write(store, put(key, "x")), key);
    }
  };
  await Promise.all(Array.from({ length: 64 }, writer));
}
