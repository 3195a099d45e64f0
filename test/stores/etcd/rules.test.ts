import { type ServiceError, status } from "@grpc/grpc-js";
import type { IWatchResponse } from "etcd3";
import { describe, expect, test } from "vitest";
import { LeaseNotFoundError, StoreRefusedError, StoreUnreachableError } from "../../../src/oplog/kv-store.js";
import { EtcdKvStore } from "../../../src/stores/etcd/etcd-kv-store.js";
import { neverReachedTheStore, toStoreError } from "../../../src/stores/etcd/failures.js";
import { PageSize } from "../../../src/stores/etcd/page-size.js";
import { refuseEtcdVersion } from "../../../src/stores/etcd/versions.js";
import { RevisionBatches } from "../../../src/stores/etcd/watch.js";
import { encodeKey, encodeRange, encodeTxn } from "../../../src/stores/etcd/wire.js";

const MIB = 1024 * 1024;

describe("versions of etcd", () => {
  test.each([
    ["2.3.8", /older than 3\.4/],
    ["3.3.27", /older than 3\.4/],
    ["3.4.0", /before they are durable/],
    ["3.4.20", /before they are durable/],
    ["3.5.0", /different data/],
    ["3.5.0-rc.1", /different data/],
    ["3.5.2", /different data/],
    ["3.5.3", /before they are durable/],
    ["3.5.4", /before they are durable/],
    ["", /cannot be judged/],
    ["unknown", /cannot be judged/],
  ])("%j is refused, and the refusal says why", (version, why) => {
    expect(refuseEtcdVersion(version)).toMatch(why);
    expect(refuseEtcdVersion(version)).toContain(version);
  });

  test.each(["3.4.21", "3.4.23", "3.5.5", "3.5.33", "3.6.0", "3.6.16", "3.7.1", "4.0.0", "v3.6.1"])(
    "%s is accepted",
    (version) => {
      expect(refuseEtcdVersion(version)).toBeUndefined();
    },
  );
});

describe("what a failed call means", () => {
  test.each([
    [status.INVALID_ARGUMENT, "etcdserver: request is too large"],
    [status.INVALID_ARGUMENT, "etcdserver: too many operations in txn request"],
    [status.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"],
    [status.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password"],
    [status.PERMISSION_DENIED, "etcdserver: permission denied"],
    [status.UNAUTHENTICATED, "etcdserver: invalid auth token"],
    [status.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"],
    [status.RESOURCE_EXHAUSTED, "etcdserver: too many requests"],
    [status.RESOURCE_EXHAUSTED, "grpc: received message larger than max (3000000 vs. 2097152)"],
    [status.RESOURCE_EXHAUSTED, "Attempted to send message with a size larger than 2097152"],
    [status.UNIMPLEMENTED, "unknown service etcdserverpb.KV"],
  ])("%i %s is a refusal", (code, details) => {
    expect(toStoreError(failure(code, details), "here")).toBeInstanceOf(StoreRefusedError);
  });

  test.each([
    [status.UNAVAILABLE, "etcdserver: request timed out"],
    [status.UNAVAILABLE, "etcdserver: leader changed"],
    [status.UNAVAILABLE, "etcdserver: no leader"],
    [status.UNAVAILABLE, "Connection dropped"],
    [status.DEADLINE_EXCEEDED, "Deadline exceeded"],
    [status.CANCELLED, "Cancelled on client"],
    [status.UNKNOWN, "context canceled"],
    [status.INTERNAL, "Received RST_STREAM with code 2"],
    [status.DATA_LOSS, "etcdserver: corrupt cluster"],
    [status.RESOURCE_EXHAUSTED, "Received message larger than max (70000000 vs 67108864)"],
    [status.RESOURCE_EXHAUSTED, "Bandwidth exhausted or memory limit exceeded"],
  ])("%i %s leaves it open", (code, details) => {
    expect(toStoreError(failure(code, details), "here")).toBeInstanceOf(StoreUnreachableError);
  });

  test("a lease that is gone has an error of its own", () => {
    const gone = failure(status.NOT_FOUND, "etcdserver: requested lease not found");
    expect(toStoreError(gone, "here")).toBeInstanceOf(LeaseNotFoundError);
  });

  test.each([
    ["etcdserver: no leader", true],
    ["etcdserver: rpc not supported for learner", true],
    ["No connection established. Last error: connect ECONNREFUSED", true],
    ["etcdserver: request timed out", false],
    ["Connection dropped", false],
  ])("%s: never reached the store is %s", (details, never) => {
    expect(neverReachedTheStore(failure(status.UNAVAILABLE, details))).toBe(never);
  });
});

describe("a watch stream", () => {
  test("is cut at revisions, whatever the fragments", () => {
    const revisions = new RevisionBatches(5n);
    expect(take(revisions, [5, 5, 6], true)).toEqual([[5n, 2]]);
    expect(take(revisions, [6], true)).toEqual([]);
    expect(take(revisions, [6, 7], true)).toEqual([[6n, 3]]);
    expect(take(revisions, [7], false)).toEqual([[7n, 2]]);
    expect(take(revisions, [8, 9], false)).toEqual([
      [8n, 1],
      [9n, 1],
    ]);
  });

  test("drops what was asked for too early or comes a second time", () => {
    const revisions = new RevisionBatches(5n);
    expect(take(revisions, [3, 4, 5], false)).toEqual([[5n, 1]]);
    expect(take(revisions, [4, 5, 6, 5], false)).toEqual([[6n, 1]]);
  });

  test("refuses a revision that is no number", () => {
    expect(() => take(new RevisionBatches(1n), ["x"], false)).toThrow(/where a number belongs/);
  });
});

test.each(["localhost", "http://here:2379/", "ftp://here:2379", ""])("endpoint %j is refused", (endpoint) => {
  expect(() => new EtcdKvStore({ endpoints: [endpoint] })).toThrow(/is not like/);
});

describe("requests", () => {
  test.each(["", "ä", "/a/\u{1f600}"])("key %j is refused", (key) => {
    expect(() => encodeKey(key)).toThrow(StoreRefusedError);
  });

  test("a range without an end is refused: to etcd it would be another range", () => {
    for (const to of ["", "\0"]) expect(() => encodeRange("/a", to)).toThrow(StoreRefusedError);
  });

  test("more than 128 operations are refused here", () => {
    const compares = Array.from({ length: 129 }, (_, index) => ({ key: `/${index}`, modRevision: 0n }));
    expect(() => encodeTxn({ compares, writes: [] })).toThrow(StoreRefusedError);
    expect(encodeTxn({ compares: compares.slice(1), writes: [] }).compare).toHaveLength(128);
  });
});

describe("pages", () => {
  test("shrink to one pair and grow again with small values", () => {
    const size = new PageSize(16, 256);
    let pairs = size.pairsFor("/a", 10_000);
    expect(pairs).toBe(16);
    while (size.shrinkFrom("/a", pairs)) pairs = size.pairsFor("/a", 10_000);
    expect(pairs).toBe(1);
    for (let page = 0; page < 20; page++) size.came("/a", size.pairsFor("/a", 10_000), 1_000, MIB);
    expect(size.pairsFor("/a", 10_000)).toBe(256);
    size.came("/a", 256, 32 * MIB, MIB);
    expect(size.pairsFor("/a", 10_000)).toBe(7);
    expect(size.pairsFor("/a", 3)).toBe(3);
  });

  test("of one range say nothing of another, and the end of a range does not make its next page small", () => {
    const size = new PageSize(16, 256);
    size.came("/a", 4, 4 * MIB, MIB);
    expect([size.pairsFor("/a", 100), size.pairsFor("/b", 100)]).toEqual([1, 16]);
    size.came("/b", 16, 1_000, MIB);
    size.came("/b", 1, 60, MIB);
    expect(size.pairsFor("/b", 100)).toBe(64);
  });
});

function failure(code: status, details: string): ServiceError {
  return Object.assign(new Error(details), { code, details, metadata: undefined as never });
}

function take(revisions: RevisionBatches, modRevisions: (number | string)[], fragment: boolean): [bigint, number][] {
  const events = modRevisions.map((mod_revision) => ({
    type: "Put",
    kv: { key: Buffer.from("/a"), value: Buffer.alloc(0), mod_revision: String(mod_revision), lease: "0" },
  })) as IWatchResponse["events"];
  return [...revisions.add({ events, fragment })].map((batch) => [batch.revision, batch.events.length]);
}
