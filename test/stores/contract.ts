import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { pagesOf } from "../../src/oplog/kv-pages.js";
import { type KvStore, StoreRefusedError, StoreUnreachableError, WatchLostError } from "../../src/oplog/kv-store.js";
import { within } from "../support/wait.js";
import { endOf, keysOf, type MakeStore, put, type StoreUnderTest, uniqueRoot, write } from "./contract-kit.js";
import { leaseContract } from "./contract-leases.js";
import { txnContract } from "./contract-txns.js";
import { watchContract } from "./contract-watches.js";
import { WatchRecorder } from "./watch-recorder.js";

export { endOf, keysOf, type MakeStore, put, type StoreUnderTest, uniqueRoot, write } from "./contract-kit.js";

export interface StoreTraits {
  /** What is written is there when the store is opened again. */
  readonly outlivesProcess?: boolean;
}

/** What every adapter must hold. Others may write to the same store meanwhile, and its revision may start anywhere. */
export function kvStoreContract(name: string, make: MakeStore, { outlivesProcess = true }: StoreTraits = {}): void {
  describe(`${name} keeps the KvStore contract`, () => {
    let subject: StoreUnderTest;
    beforeAll(async () => {
      subject = await make();
    });
    afterAll(() => subject.cleanup());

    describe("reads", () => readContract(() => subject.store));
    describe("transactions", () => txnContract(() => subject.store));
    describe("watches", () => watchContract(() => subject));
    describe("leases", () => leaseContract(() => subject.store));
    describe("life cycle", () => closeContract(make));
    if (outlivesProcess) describe("durability", () => reopenContract(make));
  });
}

function readContract(store: () => KvStore): void {
  test("get of an absent key yields no pair, but a revision", async () => {
    const { pair, revision } = await store().get(`${uniqueRoot()}absent`);
    expect(pair).toBeUndefined();
    expect(revision).toBeTypeOf("bigint");
  });

  test("get yields value, mod revision and no lease", async () => {
    const key = `${uniqueRoot()}a`;
    const revision = await write(store(), put(key, "one"));
    const result = await store().get(key);
    expect(result.pair).toEqual({ key, value: Buffer.from("one"), modRevision: revision, leaseId: 0n });
    expect(result.revision).toBeGreaterThanOrEqual(revision);
  });

  test("an empty value is a value", async () => {
    const key = `${uniqueRoot()}empty`;
    await write(store(), put(key));
    expect((await store().get(key)).pair?.value.length).toBe(0);
  });

  test("a value of 1 MiB comes back unchanged", async () => {
    const key = `${uniqueRoot()}large`;
    const value = randomBytes(1024 * 1024);
    await write(store(), put(key, value));
    expect((await store().get(key)).pair?.value.equals(value)).toBe(true);
  });

  test("a value that was read belongs to the reader", async () => {
    const key = `${uniqueRoot()}owned`;
    await write(store(), put(key, "before"));
    const { pair } = await store().get(key);
    await write(store(), put(key, "after!"));
    expect(pair?.value.toString()).toBe("before");
    pair?.value.fill(0);
    expect((await store().get(key)).pair?.value.toString()).toBe("after!");
  });

  test("the store does not keep the writer's buffer", async () => {
    const key = `${uniqueRoot()}copied`;
    const value = Buffer.from("before");
    await write(store(), put(key, value));
    value.fill(0);
    expect((await store().get(key)).pair?.value.toString()).toBe("before");
  });

  test("a range is half-open and in byte order", async () => {
    const root = uniqueRoot();
    const sorted = ["!", "-", "/", "0", "00", "1", "10", "2", "A", "Z", "_", "a", "a/b", "aa", "b", "~"];
    await write(store(), ...sorted.toReversed().map((name) => put(root + name)));
    const keys = async (from: string, to: string) =>
      (await store().page({ from, to, limit: 100, bytesMax: 1024 * 1024 })).pairs.map((pair) =>
        pair.key.slice(root.length),
      );
    expect(await keys(root, endOf(root))).toEqual(sorted);
    expect(await keys(`${root}00`, `${root}a`)).toEqual(["00", "1", "10", "2", "A", "Z", "_"]);
    expect(await keys(`${root}B`, `${root}C`)).toEqual([]);
    expect(await keys(`${root}b`, `${root}a`)).toEqual([]);
  });

  test("a range stops at its limit and tells whether there is more", async () => {
    const root = uniqueRoot();
    await write(store(), put(`${root}1`), put(`${root}2`), put(`${root}3`));
    const read = async (limit: number) => {
      const { pairs, more } = await store().page({ from: root, to: endOf(root), limit, bytesMax: 1024 * 1024 });
      return { count: pairs.length, more };
    };
    expect(await read(1)).toEqual({ count: 1, more: true });
    expect(await read(2)).toEqual({ count: 2, more: true });
    expect(await read(3)).toEqual({ count: 3, more: false });
    expect(await read(10_000)).toEqual({ count: 3, more: false });
  });

  test("a range of nothing has no more", async () => {
    const root = uniqueRoot();
    const { pairs, more, revision } = await store().page({
      from: root,
      to: endOf(root),
      limit: 1,
      bytesMax: 1024 * 1024,
    });
    expect({ pairs, more }).toEqual({ pairs: [], more: false });
    expect(revision).toBeTypeOf("bigint");
  });

  test("a range of keys only has empty values and all else", async () => {
    const root = uniqueRoot();
    const revision = await write(store(), put(`${root}a`, "value"));
    const { pairs } = await store().page({
      from: root,
      to: endOf(root),
      limit: 10,
      bytesMax: 1024 * 1024,
      keysOnly: true,
    });
    expect(pairs).toEqual([{ key: `${root}a`, value: Buffer.alloc(0), modRevision: revision, leaseId: 0n }]);
  });

  test("pages of large values come with at least one pair each, and in the end with all", async () => {
    const root = uniqueRoot();
    const value = randomBytes(512 * 1024);
    const names = Array.from({ length: 12 }, (_, index) => String(index).padStart(2, "0"));
    for (const name of names) await write(store(), put(root + name, value));
    const seen: string[] = [];
    for (let from = root; ; ) {
      const { pairs, more } = await store().page({ from, to: endOf(root), limit: 10_000, bytesMax: 1024 * 1024 });
      for (const pair of pairs) {
        seen.push(pair.key.slice(root.length));
        expect(pair.value.equals(value)).toBe(true);
      }
      if (!more) break;
      expect(pairs.length).toBeGreaterThan(0);
      from = `${pairs.at(-1)?.key}\0`;
    }
    expect(seen).toEqual(names);
  });

  test("no page holds more bytes than were asked for, whatever sizes came before", async () => {
    const root = uniqueRoot();
    const bytesMax = 300_000;
    const sizes = [
      ...Array.from({ length: 300 }, () => 20),
      ...Array.from({ length: 24 }, () => 140_000),
      20,
      20,
      500_000,
      20,
    ];
    const names = sizes.map((_, index) => String(index).padStart(4, "0"));
    await write(store(), ...names.slice(0, 100).map((name) => put(root + name, Buffer.alloc(20))));
    await write(store(), ...names.slice(100, 200).map((name) => put(root + name, Buffer.alloc(20))));
    await write(store(), ...names.slice(200, 300).map((name) => put(root + name, Buffer.alloc(20))));
    for (const [index, name] of names.entries()) {
      if (index >= 300) await write(store(), put(root + name, Buffer.alloc(sizes[index]!)));
    }
    const seen: string[] = [];
    for await (const { pairs } of pagesOf(store(), { from: root, to: endOf(root), bytesMax })) {
      const bytes = pairs.reduce((sum, { key, value }) => sum + key.length + value.length, 0);
      if (pairs.length > 1) expect(bytes).toBeLessThanOrEqual(bytesMax);
      seen.push(...pairs.map(({ key }) => key.slice(root.length)));
    }
    expect(seen).toEqual(names);
  });

  test("keys that are read without their values count alone", async () => {
    const root = uniqueRoot();
    for (const name of ["a", "b", "c"]) await write(store(), put(root + name, Buffer.alloc(1000)));
    const bytesMax = 2 * (root.length + 1);
    const { pairs, more } = await store().page({ from: root, to: endOf(root), limit: 10, bytesMax, keysOnly: true });
    expect([pairs.length, more]).toEqual([2, true]);
  });

  test("a range is of one revision while writes go on", async () => {
    const root = uniqueRoot();
    const names = Array.from({ length: 20 }, (_, index) => `${root}${index}`);
    await write(store(), ...names.map((name) => put(name, "0")));
    const writing = (async () => {
      for (let round = 1; round <= 20; round++) {
        await write(store(), ...names.map((name) => put(name, String(round))));
      }
    })();
    for (let round = 0; round < 20; round++) {
      const { pairs, revision } = await store().page({
        from: root,
        to: endOf(root),
        limit: 100,
        bytesMax: 1024 * 1024,
      });
      expect(new Set(pairs.map((pair) => pair.value.toString())).size).toBe(1);
      expect(new Set(pairs.map((pair) => pair.modRevision)).size).toBe(1);
      expect(revision).toBeGreaterThanOrEqual(pairs[0]!.modRevision);
    }
    await writing;
  });

  test("a limit outside 1 to 10,000 is refused, and one of no bytes", async () => {
    const root = uniqueRoot();
    await expect(store().page({ from: root, to: endOf(root), limit: 1, bytesMax: 0 })).rejects.toThrow(
      StoreRefusedError,
    );
    for (const limit of [0, -1, 10_001]) {
      await expect(store().page({ from: root, to: endOf(root), limit, bytesMax: 1024 * 1024 })).rejects.toThrow(
        StoreRefusedError,
      );
    }
  });

  test("status tells a version and the bytes on disk", async () => {
    const { version, sizeBytes } = await store().status();
    expect(version).toMatch(/\d/);
    expect(sizeBytes).toBeGreaterThanOrEqual(0);
  });
}

function closeContract(make: MakeStore): void {
  test("after close, watches have ended and every call rejects", async () => {
    const subject = await make();
    const { store } = subject;
    const root = uniqueRoot();
    const lease = await store.grantLease(60_000);
    const watch = await WatchRecorder.start(store, {
      from: root,
      to: endOf(root),
      startRevision: (await write(store, put(`${root}a`))) + 1n,
    });
    await store.close();
    const end = await within(watch.ended, { what: "the watch to end" });
    if (end !== undefined) expect(end).toBeInstanceOf(WatchLostError);
    const calls = [
      () => store.get(`${root}a`),
      () => store.page({ from: root, to: endOf(root), limit: 1, bytesMax: 1024 * 1024 }),
      () => store.txn({ compares: [], writes: [put(`${root}a`)] }),
      () => store.grantLease(10_000),
      () => store.keepLeaseAlive(lease.leaseId),
      () => store.leaseTimeLeft(lease.leaseId),
      () => store.revokeLease(lease.leaseId),
      () => store.status(),
    ];
    for (const call of calls) await expect(call()).rejects.toThrow(StoreUnreachableError);
    const late = WatchRecorder.open(store, { from: root, to: endOf(root), startRevision: 1n });
    expect(await within(late.ended, { what: "a watch on a closed store to end" })).toBeInstanceOf(WatchLostError);
    await store.close();
    await subject.cleanup();
  });
}

function reopenContract(make: MakeStore): void {
  test("what was written is there after reopening, and the revision does not fall", async () => {
    const subject = await make();
    const root = uniqueRoot();
    const revision = await write(subject.store, put(`${root}a`, "kept"), put(`${root}b`, "gone"));
    const last = await write(subject.store, { kind: "delete", key: `${root}b` });
    const store = await subject.reopen!();
    const { pair, revision: now } = await store.get(`${root}a`);
    expect(pair).toEqual({ key: `${root}a`, value: Buffer.from("kept"), modRevision: revision, leaseId: 0n });
    expect(now).toBeGreaterThanOrEqual(last);
    expect(await keysOf(store, root)).toEqual(["a"]);
    expect(await write(store, put(`${root}c`))).toBeGreaterThan(last);
    await subject.cleanup();
  });
}
