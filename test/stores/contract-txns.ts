import { expect, test } from "vitest";
import { type KvStore, LeaseNotFoundError, StoreRefusedError, type Write } from "../../src/oplog/kv-store.js";
import { endOf, keysOf, put, uniqueRoot, write } from "./contract-kit.js";

export function txnContract(store: () => KvStore): void {
  test("revisions rise, and every write of a transaction bears the same", async () => {
    const root = uniqueRoot();
    const first = await write(store(), put(`${root}a`), put(`${root}b`));
    const second = await write(store(), put(`${root}b`));
    expect(second).toBeGreaterThan(first);
    expect((await store().get(`${root}a`)).pair?.modRevision).toBe(first);
    expect((await store().get(`${root}b`)).pair?.modRevision).toBe(second);
  });

  test("a transaction is visible to reads that start after it resolved", async () => {
    const key = `${uniqueRoot()}a`;
    for (let round = 0; round < 50; round++) {
      const revision = await write(store(), put(key, String(round)));
      const result = await store().get(key);
      expect(result.pair?.value.toString()).toBe(String(round));
      expect(result.revision).toBeGreaterThanOrEqual(revision);
    }
  });

  test("a compare holds at exactly the mod revision of the key", async () => {
    const key = `${uniqueRoot()}a`;
    const revision = await write(store(), put(key, "1"));
    const attempt = async (modRevision: bigint) =>
      (await store().txn({ compares: [{ key, modRevision }], writes: [put(key, "2")] })).succeeded;
    expect(await attempt(0n)).toBe(false);
    expect(await attempt(revision - 1n)).toBe(false);
    expect(await attempt(revision + 1n)).toBe(false);
    expect((await store().get(key)).pair?.value.toString()).toBe("1");
    expect(await attempt(revision)).toBe(true);
    expect((await store().get(key)).pair?.value.toString()).toBe("2");
  });

  test("a compare with 0 holds when the key does not exist", async () => {
    const key = `${uniqueRoot()}a`;
    const create = async () =>
      (await store().txn({ compares: [{ key, modRevision: 0n }], writes: [put(key)] })).succeeded;
    expect(await create()).toBe(true);
    expect(await create()).toBe(false);
    await write(store(), { kind: "delete", key });
    expect(await create()).toBe(true);
  });

  test("one compare that fails stops all writes", async () => {
    const root = uniqueRoot();
    const revision = await write(store(), put(`${root}a`), put(`${root}b`));
    const result = await store().txn({
      compares: [
        { key: `${root}a`, modRevision: revision },
        { key: `${root}b`, modRevision: revision + 1n },
      ],
      writes: [put(`${root}a`, "changed"), put(`${root}c`), { kind: "delete", key: `${root}b` }],
    });
    expect(result.succeeded).toBe(false);
    expect(await keysOf(store(), root)).toEqual(["a", "b"]);
    expect((await store().get(`${root}a`)).pair?.modRevision).toBe(revision);
  });

  test("a failed transaction reads the keys it was asked to, in that order", async () => {
    const root = uniqueRoot();
    const revision = await write(store(), put(`${root}a`, "one"));
    const result = await store().txn({
      compares: [{ key: `${root}a`, modRevision: 0n }],
      writes: [put(`${root}a`, "two")],
      readOnFailure: [`${root}absent`, `${root}a`],
    });
    expect(result).toMatchObject({
      succeeded: false,
      reads: [undefined, { key: `${root}a`, value: Buffer.from("one"), modRevision: revision, leaseId: 0n }],
    });
    expect(result.revision).toBeGreaterThanOrEqual(revision);
  });

  test("a failed transaction that asks for nothing reads nothing", async () => {
    const key = `${uniqueRoot()}a`;
    const result = await store().txn({ compares: [{ key, modRevision: 7n }], writes: [put(key)] });
    expect(result).toMatchObject({ succeeded: false, reads: [] });
  });

  test("a transaction without writes only compares", async () => {
    const key = `${uniqueRoot()}a`;
    const revision = await write(store(), put(key));
    const compare = async (modRevision: bigint) =>
      (await store().txn({ compares: [{ key, modRevision }], writes: [] })).succeeded;
    expect(await compare(revision)).toBe(true);
    expect(await compare(0n)).toBe(false);
  });

  test("of 50 concurrent compare-and-swaps exactly one wins each round", async () => {
    const root = uniqueRoot();
    const contested = `${root}contested`;
    let revision = await write(store(), put(contested, "start"));
    for (let round = 0; round < 10; round++) {
      const results = await Promise.all(
        Array.from({ length: 50 }, (_, contender) =>
          store().txn({
            compares: [{ key: contested, modRevision: revision }],
            writes: [put(contested, String(contender)), put(`${root}${round}/${contender}`)],
            readOnFailure: [contested],
          }),
        ),
      );
      const winners = results.flatMap((result, contender) => (result.succeeded ? [contender] : []));
      expect(winners).toHaveLength(1);
      const winner = String(winners[0]);
      revision = results[winners[0]!]!.revision;
      for (const result of results) {
        if (!result.succeeded) {
          expect(result.reads[0]).toMatchObject({ value: Buffer.from(winner), modRevision: revision });
        }
      }
      expect(await keysOf(store(), `${root}${round}/`)).toEqual([winner]);
    }
  });

  test("concurrent transactions without a conflict all get revisions of their own", async () => {
    const root = uniqueRoot();
    const revisions = await Promise.all(Array.from({ length: 100 }, (_, index) => write(store(), put(root + index))));
    expect(new Set(revisions).size).toBe(100);
    for (const [index, revision] of revisions.entries()) {
      expect((await store().get(root + index)).pair?.modRevision).toBe(revision);
    }
  });

  test("delete removes a key, and the deletion of an absent one succeeds", async () => {
    const root = uniqueRoot();
    await write(store(), put(`${root}a`), put(`${root}b`));
    await write(store(), { kind: "delete", key: `${root}a` }, { kind: "delete", key: `${root}absent` });
    expect(await keysOf(store(), root)).toEqual(["b"]);
  });

  test("delete-range removes what is in [from, to) and nothing else", async () => {
    const root = uniqueRoot();
    await write(store(), ...["a", "b", "ba", "c", "d"].map((name) => put(root + name)));
    await write(store(), { kind: "delete-range", from: `${root}b`, to: `${root}d` }, put(`${root}e`));
    expect(await keysOf(store(), root)).toEqual(["a", "d", "e"]);
    await write(store(), { kind: "delete-range", from: `${root}x`, to: `${root}y` });
    expect(await keysOf(store(), root)).toEqual(["a", "d", "e"]);
  });

  test("a transaction that writes a key twice is refused, and nothing is applied", async () => {
    const root = uniqueRoot();
    await write(store(), put(`${root}kept`));
    const twice: Write[][] = [
      [put(`${root}a`, "1"), put(`${root}a`, "2")],
      [put(`${root}a`), { kind: "delete", key: `${root}a` }],
      [{ kind: "delete-range", from: root, to: endOf(root) }, put(`${root}a`)],
    ];
    for (const writes of twice) {
      await expect(store().txn({ compares: [], writes: [put(`${root}b`), ...writes] })).rejects.toThrow(
        StoreRefusedError,
      );
    }
    expect(await keysOf(store(), root)).toEqual(["kept"]);
  });

  test("a transaction above txnBytesMax is refused, and nothing is applied", async () => {
    const root = uniqueRoot();
    const { txnBytesMax } = store();
    expect(txnBytesMax).toBeGreaterThanOrEqual(1024 * 1024);
    const half = Buffer.alloc(Math.ceil(txnBytesMax / 2));
    const tooLarge: Write[][] = [
      [put(`${root}a`), put(`${root}b`, Buffer.alloc(txnBytesMax + 1))],
      [put(`${root}a`, half), put(`${root}b`, half)],
    ];
    for (const writes of tooLarge) {
      await expect(store().txn({ compares: [], writes })).rejects.toThrow(StoreRefusedError);
    }
    expect(await keysOf(store(), root)).toEqual([]);
  });

  test("a transaction of about txnBytesMax is applied", async () => {
    const root = uniqueRoot();
    const value = Buffer.alloc(store().txnBytesMax - 1024, 7);
    await write(store(), put(`${root}a`, value));
    expect((await store().get(`${root}a`)).pair?.value.equals(value)).toBe(true);
    await write(store(), { kind: "delete", key: `${root}a` });
  });

  test("a put under an unknown lease is refused, and nothing is applied", async () => {
    const root = uniqueRoot();
    const { leaseId } = await store().grantLease(60_000);
    await store().revokeLease(leaseId);
    const writes = [put(`${root}a`), put(`${root}b`, "", leaseId)];
    await expect(store().txn({ compares: [], writes })).rejects.toThrow(LeaseNotFoundError);
    expect(await keysOf(store(), root)).toEqual([]);
  });
}
