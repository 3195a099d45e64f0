import { describe, expect, it } from "vitest";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { aState, batchOf, hex, Model, type Operation, put, remove } from "./support.js";

const MiB = 1024 * 1024;
const KEYS = 20_000;
const VALUE = "v".repeat(1000);

/** The same numbers on every run. */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

describe("memory", () => {
  it("is reclaimed while keys are overwritten and removed, and nothing is lost by it", () => {
    const { state, apply } = aState();
    const model = new Model();
    const random = numbers(7);
    let highest = 0;
    for (let round = 0; round < 120; round++) {
      const operations = Array.from({ length: 700 }, (): Operation => {
        const key = `key ${Math.floor(random() * KEYS)}`;
        return random() < 0.2 ? remove(key) : put(key, VALUE.slice(0, Math.floor(random() * 1000)));
      });
      apply(...operations);
      for (const operation of operations) model.apply(operation);
      highest = Math.max(highest, state.bytes);
    }
    const liveBytes = [...model.entries].reduce((sum, [key, { payload }]) => sum + key.length + payload.length / 2, 0);
    expect(hex(state.stateHash)).toBe(model.hash);
    expect(state.keys).toBe(model.entries.size);
    expect(new Set([...state.scan()].map(({ key }) => key.toString()))).toEqual(new Set(model.entries.keys()));
    // 84,000 operations of half a kilobyte have been written into it.
    expect(highest).toBeLessThan(liveBytes * 1.7 + 12 * MiB);
  });

  it("is given back when the keys are gone", () => {
    const { state, apply } = aState();
    const keys = Array.from({ length: 20_000 }, (_, index) => `key ${index}`);
    for (let at = 0; at < keys.length; at += 500) apply(...keys.slice(at, at + 500).map((key) => put(key, VALUE)));
    expect(state.bytes).toBeGreaterThanOrEqual(20 * MiB);
    for (let at = 0; at < keys.length; at += 500) apply(...keys.slice(at, at + 500).map((key) => remove(key)));
    expect(state).toMatchObject({ keys: 0 });
    expect(state.bytes).toBeLessThanOrEqual(12 * MiB);
    expect(hex(state.stateHash)).toBe("00".repeat(32));
  });

  it("holds the largest values there are", () => {
    const { state } = aState();
    const model = new Model();
    for (let round = 0; round < 40; round++) {
      const operation = put(`key ${round % 7}`, String.fromCharCode(97 + (round % 26)).repeat(1_000_000 + round));
      state.apply(batchOf([operation], state.applied + 1));
      model.apply(operation);
    }
    expect(hex(state.stateHash)).toBe(model.hash);
    expect(state.bytes).toBeLessThan(24 * MiB);
  });
});

describe("a scan while entries are applied", () => {
  it("brings every key that stays exactly once, and no key twice", () => {
    const { state, apply } = aState();
    const staying = Array.from({ length: 5000 }, (_, index) => `stays ${index}`);
    for (let at = 0; at < staying.length; at += 500)
      apply(...staying.slice(at, at + 500).map((key) => put(key, VALUE)));
    const random = numbers(11);
    const seen: string[] = [];
    for (const { key } of state.scan()) {
      seen.push(key.toString());
      const index = Math.floor(random() * 5000);
      apply(put(staying[index]!, VALUE), put(`comes ${index}`, VALUE), remove(`comes ${Math.floor(random() * 5000)}`));
    }
    expect(new Set(seen).size).toBe(seen.length);
    expect(staying.filter((key) => !seen.includes(key))).toEqual([]);
  });

  it("and what was applied since it began are the state at its end", () => {
    const { state, apply } = aState();
    const random = numbers(13);
    const anyOperation = (): Operation => {
      const key = `key ${Math.floor(random() * 3000)}`;
      return random() < 0.4 ? remove(key) : put(key, String(random()));
    };
    for (let round = 0; round < 20; round++) apply(...Array.from({ length: 200 }, anyOperation));
    const received = new Map<string, string>();
    const since: Operation[] = [];
    for (const { key, payload } of state.scan()) {
      received.set(key.toString(), payload.toString());
      const operations = [anyOperation(), anyOperation()];
      apply(...operations);
      since.push(...operations);
    }
    for (const { opType, key, payload } of since) {
      if (opType === OpType.REMOVE) received.delete(key);
      else received.set(key, Buffer.from(payload!).toString());
    }
    const atEnd = [...state.scan()].map(({ key, payload }) => [key.toString(), payload.toString()] as const);
    expect(received).toEqual(new Map(atEnd));
  });
});
