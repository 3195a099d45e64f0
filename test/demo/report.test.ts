import { describe, expect, it } from "vitest";
import type { OperationBatch } from "../../demo/block-cache.js";
import type { Acknowledged } from "../../demo/master.js";
import { wholeLogOf } from "../../demo/operations.js";
import { formatReport, isFlawless, type Run, reportOf } from "../../demo/report.js";
import { ExpectedState } from "../../demo/state-hash.js";
import { aState, hex, put, remove, revoke } from "../standby/support.js";

const acknowledged = (firstSequenceId: number, lastSequenceId: number, isDuplicate = false): Acknowledged => ({
  firstSequenceId,
  lastSequenceId,
  sentNs: 0n,
  acknowledgedNs: 1n,
  isDuplicate,
});

const STATE_HASH = "a".repeat(64);
const STANDBY = { received: 10, duplicated: 0, skipped: 0, reconnects: 1, hash: "log", arrivals: [] };
const RUN: Run = {
  fault: "kill",
  store: "embedded",
  trace: "made up",
  requests: 1,
  whole: { operations: 10, bytes: 10, hash: "log", stateHash: STATE_HASH },
  acknowledged: [acknowledged(1, 4), acknowledged(7, 10)],
  acknowledgedTooLate: 0,
  standbys: [STANDBY, STANDBY],
  terms: [],
  failover: undefined,
  stateHashes: [STATE_HASH],
  startedNs: 0n,
  endedNs: 1_000_000_000n,
};

describe("a run of the demo", () => {
  it.each<[string, Partial<Run>]>([
    ["all of which a standby received, though not all was acknowledged", {}],
    ["of two sidecars with the same state", { stateHashes: [STATE_HASH, STATE_HASH] }],
    [
      "in which something was sent again, and told to have been written before",
      { acknowledged: [acknowledged(1, 10), acknowledged(4, 6, true)] },
    ],
  ])("%s is flawless", (_, change) => {
    const report = reportOf({ ...RUN, ...change });
    expect(isFlawless(report)).toBe(true);
    expect(formatReport(report)).not.toContain("NO");
  });

  it("explains why a standby has received more than was acknowledged", () => {
    const report = reportOf({
      ...RUN,
      acknowledged: [acknowledged(1, 4), acknowledged(7, 10), acknowledged(7, 8, true)],
    });
    expect(report.unanswered).toBe(2);
    const text = formatReport(report);
    expect(text).toMatch(/^ +2 more are in the log; the fault came before their answer$/m);
    expect(text).toMatch(/^standby 1 +10 received, the whole log, 0 skipped/m);
    expect(text).toMatch(/^lost +0 that were acknowledged and a standby did not receive$/m);
    expect(formatReport(reportOf({ ...RUN, acknowledged: [acknowledged(1, 10)] }))).not.toContain(
      "more are in the log",
    );
  });

  it.each<[string, Partial<Run>]>([
    ["of no operations", { whole: { ...RUN.whole, operations: 0 }, acknowledged: [] }],
    ["of which only half was acknowledged", { acknowledged: [acknowledged(1, 5)] }],
    ["that was acknowledged beyond its end", { acknowledged: [acknowledged(1, 11)] }],
    ["acknowledged twice as new", { acknowledged: [acknowledged(1, 10), acknowledged(1, 10)] }],
    ["acknowledged to two masters", { acknowledged: [acknowledged(1, 6), acknowledged(6, 10)] }],
    ["acknowledged to a master whose term had ended", { acknowledgedTooLate: 1 }],
    ["without a standby", { standbys: [] }],
    ["with one standby", { standbys: [STANDBY] }],
    ["with a standby that lacks the end", { standbys: [STANDBY, { ...STANDBY, received: 9 }] }],
    ["with a standby that received twice", { standbys: [STANDBY, { ...STANDBY, duplicated: 1 }] }],
    ["with a standby that passed over entries", { standbys: [{ ...STANDBY, skipped: 3 }, STANDBY] }],
    ["with a standby that failed", { standbys: [STANDBY, { ...STANDBY, failure: "it broke" }] }],
    ["with a standby that received something else", { standbys: [STANDBY, { ...STANDBY, hash: "other" }] }],
    ["without a state", { stateHashes: [] }],
    ["with one wrong state", { stateHashes: [STATE_HASH, "b".repeat(64)] }],
    ["with the same wrong state everywhere", { stateHashes: ["b".repeat(64), "b".repeat(64)] }],
  ])("%s is not flawless", (_, change) => {
    expect(isFlawless(reportOf({ ...RUN, ...change }))).toBe(false);
  });
});

describe("the state that a trace leads to", () => {
  it("has the hash that a view has", () => {
    const { state, apply } = aState();
    const expected = new ExpectedState();
    const operations = [
      put("a", "1"),
      put("ü", "2"),
      revoke("c"),
      put("a", "3"),
      put("d", ""),
      remove("ü"),
      remove("x"),
    ];
    const whole = operations.map((each) => ({ payload: Buffer.alloc(0), ...each })) as unknown as OperationBatch;
    apply(...operations);
    expected.apply(1n, whole.slice(0, 3));
    expected.apply(4n, whole.slice(3));
    expect(expected.hash()).toBe(hex(state.stateHash));
    expect(state.keys).toBe(2);
  });

  it("follows from its requests", () => {
    const { operations, stateHash } = wholeLogOf([{ hash_ids: [1, 2] }, { hash_ids: [2, 3] }]);
    expect(operations).toBe(3);
    expect(stateHash).toMatch(/^[0-9a-f]{64}$/);
    expect(stateHash).not.toBe(wholeLogOf([{ hash_ids: [1, 3, 2] }]).stateHash);
    expect(new ExpectedState().hash()).toBe("0".repeat(64));
  });
});
