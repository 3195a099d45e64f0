import { expect, test } from "vitest";
import { type KvStore, LeaseNotFoundError } from "../../src/oplog/kv-store.js";
import { waitFor } from "../support/wait.js";
import { endOf, keysOf, put, uniqueRoot, write } from "./contract-kit.js";
import { describeEvent, WatchRecorder } from "./watch-recorder.js";

/** Short enough for a test; a store may grant more. */
const SHORT_TTL_MS = 1_000;
/** Beyond the TTL: what a store may take to notice. */
const EXPIRY_SLACK_MS = 15_000;

export function leaseContract(store: () => KvStore): void {
  const vanished = (key: string, ttlMs: number) =>
    waitFor(async () => (await store().get(key)).pair === undefined, {
      deadlineMs: ttlMs + EXPIRY_SLACK_MS,
      what: "the leased key to vanish",
    });

  test("a lease has an id of its own and at least the TTL asked for", async () => {
    const [a, b] = await Promise.all([store().grantLease(60_000), store().grantLease(60_000)]);
    expect(a.leaseId).not.toBe(0n);
    expect(a.leaseId).not.toBe(b.leaseId);
    expect(a.ttlMs).toBeGreaterThanOrEqual(60_000);
    await store().revokeLease(a.leaseId);
    await store().revokeLease(b.leaseId);
  });

  test("a key tells the lease it was put under", async () => {
    const key = `${uniqueRoot()}a`;
    const { leaseId } = await store().grantLease(60_000);
    await write(store(), put(key, "leased", leaseId));
    expect((await store().get(key)).pair?.leaseId).toBe(leaseId);
    await store().revokeLease(leaseId);
  });

  test("the keys of a lease vanish when it expires, and a watch sees it", { timeout: 60_000 }, async () => {
    const root = uniqueRoot();
    const { leaseId, ttlMs } = await store().grantLease(SHORT_TTL_MS);
    const now = await write(store(), put(`${root}a`, "", leaseId), put(`${root}b`, "", leaseId), put(`${root}c`));
    const watch = await WatchRecorder.start(store(), { from: root, to: endOf(root), startRevision: now + 1n });
    await vanished(`${root}a`, ttlMs);
    expect(await keysOf(store(), root)).toEqual(["c"]);
    const events = await watch.waitForEvents(2);
    expect(events.map((event) => describeEvent(event, root)).toSorted()).toEqual(["delete a", "delete b"]);
    expect(watch.changes[0]!.revision).toBeGreaterThan(now);
    await expect(store().keepLeaseAlive(leaseId)).rejects.toThrow(LeaseNotFoundError);
    await watch.stop();
  });

  test("a lease that is kept alive outlives one that is not", { timeout: 60_000 }, async () => {
    const root = uniqueRoot();
    const kept = await store().grantLease(SHORT_TTL_MS);
    await write(store(), put(`${root}kept`, "", kept.leaseId));
    const left = await store().grantLease(SHORT_TTL_MS);
    await write(store(), put(`${root}left`, "", left.leaseId));
    await waitFor(
      async () => {
        const renewed = await store().keepLeaseAlive(kept.leaseId);
        expect(renewed.leaseId).toBe(kept.leaseId);
        expect(renewed.ttlMs).toBeGreaterThanOrEqual(SHORT_TTL_MS);
        return (await store().get(`${root}left`)).pair === undefined;
      },
      { deadlineMs: left.ttlMs + EXPIRY_SLACK_MS, what: "the lease that was left alone to expire" },
    );
    expect(await keysOf(store(), root)).toEqual(["kept"]);
    await vanished(`${root}kept`, kept.ttlMs);
  });

  test("keeping an unknown lease alive rejects", async () => {
    const { leaseId } = await store().grantLease(60_000);
    await store().revokeLease(leaseId);
    await expect(store().keepLeaseAlive(leaseId)).rejects.toThrow(LeaseNotFoundError);
  });

  test("a lease tells the time it has left, and a renewal starts it again", { timeout: 60_000 }, async () => {
    const { leaseId, ttlMs } = await store().grantLease(5_000);
    const atFirstMs = (await store().leaseTimeLeft(leaseId))!;
    expect(atFirstMs).toBeLessThanOrEqual(ttlMs);
    expect(atFirstMs).toBeGreaterThan(ttlMs - 2_500);
    const laterMs = await waitFor(
      async () => {
        const leftMs = await store().leaseTimeLeft(leaseId);
        return leftMs !== undefined && leftMs < atFirstMs ? leftMs : undefined;
      },
      { what: "the time left to fall" },
    );
    await waitFor(
      async () => {
        await store().keepLeaseAlive(leaseId);
        return (await store().leaseTimeLeft(leaseId))! > laterMs!;
      },
      { what: "the time left to rise with a renewal" },
    );
    await store().revokeLease(leaseId);
  });

  test("a lease that has expired, was revoked or never was has no time left", { timeout: 60_000 }, async () => {
    const { leaseId, ttlMs } = await store().grantLease(SHORT_TTL_MS);
    await waitFor(async () => (await store().leaseTimeLeft(leaseId)) === undefined, {
      deadlineMs: ttlMs + EXPIRY_SLACK_MS,
      what: "the lease to be gone",
    });
    const revoked = await store().grantLease(60_000);
    await store().revokeLease(revoked.leaseId);
    expect(await store().leaseTimeLeft(revoked.leaseId)).toBeUndefined();
    expect(await store().leaseTimeLeft(987_654_321n)).toBeUndefined();
  });

  test("revoking deletes the keys of the lease with one revision", async () => {
    const root = uniqueRoot();
    const { leaseId } = await store().grantLease(60_000);
    const now = await write(store(), put(`${root}a`, "", leaseId), put(`${root}b`, "", leaseId), put(`${root}c`));
    const watch = await WatchRecorder.start(store(), { from: root, to: endOf(root), startRevision: now + 1n });
    await store().revokeLease(leaseId);
    expect(await keysOf(store(), root)).toEqual(["c"]);
    await watch.waitForEvents(2);
    expect(watch.changes).toHaveLength(1);
    await watch.stop();
  });

  test("revoking an unknown lease is no error", async () => {
    const { leaseId } = await store().grantLease(60_000);
    await store().revokeLease(leaseId);
    await store().revokeLease(leaseId);
  });

  test("a key that is put again without the lease no longer belongs to it", async () => {
    const root = uniqueRoot();
    const lease = await store().grantLease(60_000);
    const other = await store().grantLease(60_000);
    await write(store(), ...["a", "b", "c"].map((name) => put(root + name, "", lease.leaseId)));
    await write(store(), put(`${root}a`), put(`${root}b`, "", other.leaseId));
    await store().revokeLease(lease.leaseId);
    expect(await keysOf(store(), root)).toEqual(["a", "b"]);
    await store().revokeLease(other.leaseId);
    expect(await keysOf(store(), root)).toEqual(["a"]);
  });

  test("a lease whose keys were deleted can be kept, used again and revoked", async () => {
    const root = uniqueRoot();
    const { leaseId } = await store().grantLease(60_000);
    await write(store(), put(`${root}a`, "", leaseId));
    await write(store(), { kind: "delete", key: `${root}a` });
    await write(store(), put(`${root}a`, "not leased"));
    await store().keepLeaseAlive(leaseId);
    await write(store(), put(`${root}b`, "", leaseId));
    await store().revokeLease(leaseId);
    expect(await keysOf(store(), root)).toEqual(["a"]);
  });
}
