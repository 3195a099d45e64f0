import { create, toBinary } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { BarriersSchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import { BARRIERS_BYTES_MAX, BARRIERS_MAX, Barriers, KEPT_MS_MIN } from "../../src/writing/barriers.js";
import { Dice } from "../log/support.js";

const NOW_MS = 1_790_000_000_000;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

const pairOf = (value: Uint8Array) => ({ key: "k", value: Buffer.from(value), modRevision: 1n, leaseId: 0n });
const again = (barriers: Barriers) => Barriers.decode(pairOf(barriers.encode()));

function full(askedMs = NOW_MS): Barriers {
  const barriers = new Barriers();
  for (let index = 0; index < BARRIERS_MAX; index++) barriers.add(`writer ${index}`, 1n, askedMs, askedMs);
  return barriers;
}

describe("barriers", () => {
  it("stay for a day of the log after each answer, or until their writer has passed them, whatever else is asked", () => {
    for (let seed = 1; seed <= 3; seed++) {
      const dice = new Dice(seed);
      const highest = new Map<string, bigint>();
      const told = new Map<string, { writerId: string; id: bigint; atMs: number }>();
      let barriers = new Barriers();
      let nowMs = NOW_MS;
      let headMs = NOW_MS;
      let refused = 0;
      for (let step = 0; step < 6000; step++) {
        const writerId = `${dice.chance(0.1) ? "x".repeat(100) : ""}${dice.below(2000)}`;
        const id = (highest.get(writerId) ?? 0n) + 1n + BigInt(dice.below(50));
        if (dice.chance(0.95)) {
          if (barriers.add(writerId, id, nowMs, headMs) === "refused") refused++;
          else told.set(`${writerId} ${id}`, { writerId, id, atMs: nowMs });
        } else if (!barriers.has(writerId, id)) {
          highest.set(writerId, id);
          headMs = nowMs;
        }
        if (dice.chance(0.05)) barriers.prune((each) => highest.get(each) ?? 0n);
        if (dice.chance(0.005)) barriers = again(barriers);
        nowMs += dice.below(HOUR_MS / 4) * (dice.chance(0.1) ? 1 : 0);
      }
      for (const { writerId, id, atMs } of told.values()) {
        const mayCommit = id > (highest.get(writerId) ?? 0n) && !barriers.has(writerId, id);
        if (mayCommit) expect(headMs - atMs, `${writerId} ${id} of seed ${seed}`).toBeGreaterThan(DAY_MS);
      }
      expect(barriers.encode().length).toBeLessThanOrEqual(BARRIERS_BYTES_MAX);
      expect(refused).toBeGreaterThan(10);
    }
  });

  it("of a version that noted no time are kept for a day from when they are in the way", () => {
    const writers = Array.from({ length: BARRIERS_MAX }, (_, index) => ({ writerId: `${index}`, operationId: [1n] }));
    const barriers = Barriers.decode(pairOf(toBinary(BarriersSchema, create(BarriersSchema, { writers }))));
    expect(barriers.add("w", 1n, NOW_MS, NOW_MS)).toBe("refused");
    const laterMs = NOW_MS + KEPT_MS_MIN + 1;
    expect(again(barriers).add("w", 1n, laterMs, laterMs)).toBe("changed");
  });

  it("that were put by a clock far ahead give way like others once a clock that is right has looked", () => {
    const barriers = full(NOW_MS + 1000 * DAY_MS);
    expect(barriers.add("w", 1n, NOW_MS, NOW_MS)).toBe("refused");
    const laterMs = NOW_MS + KEPT_MS_MIN + 1;
    expect(barriers.add("w", 1n, laterMs, laterMs)).toBe("changed");
  });

  it("do not give way by the clock alone: what the log has not passed may still be on its way", () => {
    expect(full().add("w", 1n, NOW_MS + 30 * DAY_MS, NOW_MS)).toBe("refused");
  });
});
