import type { IResponseHeader, IStatusResponse } from "etcd3";
import { beforeEach, expect, it } from "vitest";
import { StoreReplacedError } from "../../../src/oplog/kv-store.js";
import { Continuity } from "../../../src/stores/etcd/continuity.js";

const later = () => performance.now() + 10;
const LASTING_MS = 1_100;
let continuity: Continuity;
beforeEach(() => {
  continuity = new Continuity(undefined);
});

const header = (revision: number, member = "1", cluster = "7"): IResponseHeader =>
  ({ cluster_id: cluster, member_id: member, revision: String(revision), raft_term: "2" }) as IResponseHeader;
const status = (revision: number, raftIndex: number, leader = "1") =>
  ({ header: header(revision), raftIndex: String(raftIndex), leader }) as IStatusResponse;

it("holds on to the cluster that answered first", () => {
  continuity.note(header(5), "a");
  expect(continuity.identity).toBe("7");
  expect(() => continuity.note(header(9, "1", "8"), "b")).toThrow(/belongs to cluster 8/);
});

it("takes a lower revision of a member for older data only if the call was sent after the higher one had come", () => {
  const before = performance.now() - 10;
  continuity.note(header(5), "a", before);
  continuity.note(header(4), "a", before);
  expect(() => continuity.note(header(4), "a", later())).toThrow(StoreReplacedError);
});

it("knows the revision that a watch has brought, which proves nothing itself when it is lower", () => {
  continuity.noteWatch(header(5), "a");
  continuity.noteWatch(header(4), "a");
  expect(() => continuity.note(header(4), "a", later())).toThrow(/its revision went back from 5 to 4/);
});

it("takes raised revisions for those of a restored backup, whoever brings them", () => {
  continuity.note(header(5), "a", 0);
  continuity.note(header(100_000_005), "a", later());
  const raised = /its revisions were raised from 100000005 to 1100000005/;
  expect(() => continuity.note(header(1_100_000_005), "a", later())).toThrow(raised);
  expect(() => continuity.noteWatch(header(1_100_000_005), "a")).toThrow(raised);
});

it("takes nothing that the watch of another cluster brings", () => {
  continuity.note(header(5), "a");
  expect(() => continuity.noteWatch(header(9, "1", "8"), "a")).toThrow(/belongs to cluster 8/);
});

it("does not compare members with one another", () => {
  continuity.note(header(5, "1"), "a", 0);
  continuity.note(header(4, "2"), "b", later());
});

it("judges no status by what was written while it was on its way, however often", async () => {
  for (let round = 1; round <= 3; round++) {
    const sentMs = performance.now();
    await passTime(round === 1 ? 1 : LASTING_MS / 2);
    continuity.note(header(10 * round), "a", sentMs);
    continuity.noteStatus(status(10 * round - 1, 10 * round), "a", sentMs);
  }
});

it("takes a lower index of the raft log for older data only if it lasts", async () => {
  continuity.noteStatus(status(5, 100), "a", 0);
  continuity.noteStatus(status(5, 99), "a", later());
  continuity.noteStatus(status(5, 100), "a", later());
  continuity.noteStatus(status(1_000_000, 50), "a", later());
  await passTime(LASTING_MS);
  expect(() => continuity.noteStatus(status(1_000_000, 51), "a", later())).toThrow(/raft log went back from 100 to 51/);
});

it("waits with a verdict while the member has no leader", async () => {
  continuity.noteStatus(status(5, 100), "a", 0);
  continuity.noteStatus(status(5, 99, "0"), "a", later());
  await passTime(LASTING_MS);
  continuity.noteStatus(status(5, 99, "0"), "a", later());
});

/** The class counts by the clock of the process. */
const passTime = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
