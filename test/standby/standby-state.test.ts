import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { WireError } from "../../src/oplog/wire.js";
import { StateGapError } from "../../src/standby/standby-state.js";
import {
  anyOperation,
  aState,
  batchOf,
  event,
  hashOf,
  hex,
  Model,
  put,
  remove,
  revoke,
  TIMESTAMP_MS,
} from "./support.js";

const MAX_64 = 2n ** 64n - 1n;

const heldBy = ({ state }: ReturnType<typeof aState>) =>
  Object.fromEntries([...state.scan()].map(({ key, payload }) => [key.toString(), payload.toString()]));

describe("the state of a log", () => {
  it("is empty before the first entry", () => {
    const { state } = aState();
    expect([...state.scan()]).toEqual([]);
    expect(state.get(Buffer.from("a"))).toBeUndefined();
    expect(state).toMatchObject({ applied: 0, keys: 0, bytes: 0 });
    expect(hex(state.stateHash)).toBe("00".repeat(32));
  });

  it("holds the last value of each key, with where it is from", () => {
    const { state, apply } = aState();
    apply(put("a", "1"), put("b", "2", 7n), put("a", "3"));
    expect(state.get(Buffer.from("a"))).toEqual({
      key: Buffer.from("a"),
      payload: Buffer.from("3"),
      sequenceId: 3,
      keySequenceId: 2n,
      timestampMs: TIMESTAMP_MS,
      ownLeaseUntilMs: 0,
      isRenewed: false,
    });
    expect(state.get(Buffer.from("b"))).toMatchObject({ sequenceId: 2, keySequenceId: 7n });
    expect(state).toMatchObject({ applied: 3, appliedTerm: 1, keys: 2 });
  });

  it.each([
    ["PUT_END sets", [put("a", "1")], { a: "1" }],
    ["PUT_END replaces", [put("a", "1"), put("a", "2")], { a: "2" }],
    ["PUT_END sets an empty value", [put("a", "1"), put("a")], { a: "" }],
    ["REMOVE deletes", [put("a", "1"), put("b", "2"), remove("a")], { b: "2" }],
    ["REMOVE of nothing does nothing", [remove("a"), put("b", "2")], { b: "2" }],
    ["PUT_REVOKE leaves a finished value", [put("a", "1"), revoke("a")], { a: "1" }],
    ["PUT_REVOKE creates nothing", [revoke("a")], {}],
    ["EVENT passes by", [put("a", "1"), event("a")], { a: "1" }],
    ["PUT_END after REMOVE creates again", [put("a", "1"), remove("a"), put("a", "2")], { a: "2" }],
  ])("%s", (_, operations, expected) => {
    const log = aState();
    log.apply(...operations);
    expect(heldBy(log)).toEqual(expected);
    expect(log.violations).toEqual([]);
    expect(log.state.applied).toBe(operations.length);
  });

  it("reads ids beyond 32 bits", () => {
    const { state } = aState();
    state.applied = 2 ** 40;
    state.apply(batchOf([put("a", "1")], 2 ** 40 + 1, 2n ** 35n));
    expect(state.get(Buffer.from("a"))?.sequenceId).toBe(2 ** 40 + 1);
    expect(state.appliedTerm).toBe(2 ** 35);
    expect(hex(state.stateHash)).toBe(hashOf([{ key: "a", payload: hex(Buffer.from("1")), sequenceId: 2 ** 40 + 1 }]));
  });
});

describe("what does not follow", () => {
  it.each([
    ["a hole", 4, 3],
    ["a repeat", 2, 3],
  ])("%s stops the state, with its numbers", (_, received, expected) => {
    const { state, apply } = aState();
    apply(put("a", "1"), put("b", "2"));
    const before = hex(state.stateHash);
    expect(() => state.apply(batchOf([put("c", "3")], received))).toThrow(new StateGapError(expected, received));
    expect(hex(state.stateHash)).toBe(before);
    state.apply(batchOf([put("c", "3")], expected));
    expect(state.applied).toBe(3);
  });

  it("keeps what came before it in the same batch", () => {
    const { state } = aState();
    const batch = Buffer.concat([batchOf([put("a", "1")], 1), batchOf([put("b", "2")], 3)]);
    expect(() => state.apply(batch)).toThrow(StateGapError);
    expect(state).toMatchObject({ applied: 1, keys: 1 });
  });

  it("is refused where it is cut short", () => {
    const { state } = aState();
    const batch = batchOf([put("a", "1"), put("b", "2")]);
    expect(() => state.apply(batch.subarray(0, -1))).toThrow(WireError);
    expect(state.applied).toBe(1);
  });
});

describe("the order within a key", () => {
  it.each([
    ["equal", put("a", "2", 5n)],
    ["lower", put("a", "2", 4n)],
    ["of a REMOVE", remove("a", 5n)],
    ["of a PUT_REVOKE", revoke("a", 1n)],
  ])("violated, %s, drops the key, reports it, and goes on", (_, operation) => {
    const log = aState();
    log.apply(put("a", "1", 5n), put("b", "x"), operation, put("b", "y"));
    expect(heldBy(log)).toEqual({ b: "y" });
    expect(log.violations).toEqual([
      { key: "a", sequenceId: 3, lastKeySequenceId: 5n, keySequenceId: operation.keySequenceId },
    ]);
    expect(log.state.keyOrderViolations).toBe(1);
    log.apply(put("a", "again", 2n));
    expect(heldBy(log)).toEqual({ a: "again", b: "y" });
    expect(log.violations).toHaveLength(1);
  });

  it("holds without a number too, also after the highest one there is", () => {
    const log = aState();
    log.apply(put("a", "1", MAX_64), put("a", "2"), revoke("a"), put("a", "3"));
    expect(log.state.get(Buffer.from("a"))).toMatchObject({ keySequenceId: MAX_64, sequenceId: 4 });
    expect(heldBy(log)).toEqual({ a: "3" });
    expect(log.violations).toEqual([]);
    log.apply(put("a", "4", MAX_64));
    expect(heldBy(log)).toEqual({});
    expect(log.violations).toHaveLength(1);
  });

  it("is counted by PUT_REVOKE, not by EVENT", () => {
    const log = aState();
    log.apply(put("a", "1", 5n), revoke("a", 9n), event("a", 1n));
    expect(log.state.get(Buffer.from("a"))).toMatchObject({ sequenceId: 1, keySequenceId: 9n });
    log.apply(put("a", "2", 9n));
    expect(log.violations).toHaveLength(1);
  });

  it("starts over after REMOVE", () => {
    const log = aState();
    log.apply(put("a", "1", 5n), remove("a"), put("a", "2", 1n), put("a", "3"));
    expect(log.violations).toEqual([]);
    expect(log.state.get(Buffer.from("a"))?.keySequenceId).toBe(2n);
  });
});

describe("against a plain model", () => {
  it("holds the same after any operations, in batches of any size", () => {
    const batches = fc.array(fc.array(anyOperation, { minLength: 1, maxLength: 30 }), { maxLength: 12 });
    fc.assert(
      fc.property(batches, (all) => {
        const { state, apply } = aState();
        const model = new Model();
        for (const operations of all) {
          apply(...operations);
          for (const operation of operations) model.apply(operation);
          const held = [...state.scan()].map(({ key, payload, sequenceId, keySequenceId }) => [
            key.toString(),
            { payload: hex(payload), sequenceId, keySequenceId },
          ]);
          expect(Object.fromEntries(held)).toEqual(Object.fromEntries(model.entries));
          expect(held).toHaveLength(model.entries.size);
          expect(hex(state.stateHash)).toBe(model.hash);
          expect(state).toMatchObject({ applied: model.applied, keyOrderViolations: model.violations });
          for (const [key, { sequenceId }] of model.entries) {
            expect(state.get(Buffer.from(key))?.sequenceId).toBe(sequenceId);
          }
        }
      }),
    );
  });

  it("has the same hash after different histories that end alike", () => {
    const [long, short] = [aState(), aState()];
    long.apply(put("x", "gone"), put("b", "old"), remove("x"), put("a", "1"), put("b", "2"));
    short.apply(event("x"), event("x"), event("x"), put("a", "1"), put("b", "2"));
    expect(hex(long.state.stateHash)).toBe(hex(short.state.stateHash));
    long.apply(put("c", "3"));
    short.apply(put("c", "4"));
    expect(hex(long.state.stateHash)).not.toBe(hex(short.state.stateHash));
  });
});
