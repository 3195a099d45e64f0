import { describe, expect, it } from "vitest";
import { backOffMs } from "../../src/client/back-off.js";
import { OplogRpcError } from "../../src/client/errors.js";
import {
  ContiguityError,
  type FollowEvent,
  type FollowRequest,
  follow,
  type Subscribe,
} from "../../src/client/follow.js";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import type { SubscribeResponse } from "../../src/gen/oplog/v1/oplog_pb.js";
import { frame } from "./scripted-sidecar.js";

const CHAIN = new Uint8Array(16).fill(3);
const LOG_ID = new Uint8Array([7, 7]);

describe("follow", () => {
  it("resumes one after the last entry, with its term and the log id", async () => {
    const sidecar = script([heartbeat(0n), batch(1n, 3n, 5n), broken], [batch(4n, 4n, 6n)]);

    const events = await take(sidecar, { log: "l" }, 4);

    expect(events.map((event) => event.case)).toEqual(["heartbeat", "batch", "broken", "batch"]);
    expect(sidecar.requests[1]).toMatchObject({
      log: "l",
      start: { case: "fromSequenceId", value: 4n },
      previousTerm: 5n,
      logId: LOG_ID,
    });
  });

  it("keeps the start it was given until it knows a position", async () => {
    const sidecar = script([heartbeat(0n), broken], [batch(9n, 9n)]);

    await take(sidecar, { log: "l", start: { case: "fromHead", value: true } }, 3);

    expect(sidecar.requests[1]).toMatchObject({ start: { case: "fromHead", value: true } });
  });

  it.each([
    ["a heartbeat", () => heartbeat(41n)],
    ["CaughtUp", () => frame({ case: "caughtUp", value: { headSequenceId: 41n } })],
  ])("takes its position from %s when no batch has come", async (_, first) => {
    const sidecar = script([first(), broken], [batch(42n, 42n)]);

    await take(sidecar, { log: "l", start: { case: "fromHead", value: true } }, 3);

    expect(sidecar.requests[1]).toMatchObject({ start: { case: "fromSequenceId", value: 42n }, previousTerm: 0n });
  });

  it.each([
    [
      "a batch that the filter has emptied",
      "batch",
      { firstSequenceId: 1n, lastSequenceId: 9n, lastTerm: 5n, lastChain: CHAIN },
    ],
    ["a heartbeat", "heartbeat", { sentSequenceId: 9n, sentTerm: 5n, sentChain: CHAIN }],
  ] as const)("hands back the term and the chain that %s told", async (_, kind, value) => {
    const told = frame({ case: kind, value } as Parameters<typeof frame>[0]);
    const sidecar = script([told, broken], [batch(10n, 10n)]);

    await take(sidecar, { log: "l", start: { case: "fromHead", value: true } }, 3);

    expect(sidecar.requests[1]).toMatchObject({ start: { value: 10n }, previousTerm: 5n, previousChain: CHAIN });
  });

  it("does not claim the term of an entry that the filter left out", async () => {
    const filtered = frame({
      case: "batch",
      value: { firstSequenceId: 1n, lastSequenceId: 9n, entries: [entry(4n, 5n)] },
    });
    const sidecar = script([filtered, broken], [batch(10n, 10n)]);

    await take(sidecar, { log: "l" }, 3);

    expect(sidecar.requests[1]).toMatchObject({ start: { value: 10n }, previousTerm: 0n });
  });

  it("waits for a second at most, however often it has failed: a standby that does not follow cannot take over", () => {
    const waits = Array.from({ length: 200 }, (_, attempts) => backOffMs(attempts));
    expect(Math.max(...waits)).toBeLessThanOrEqual(1_000);
    expect(Math.min(...waits.slice(5))).toBeGreaterThanOrEqual(500);
  });

  it("throws when a batch leaves a hole", async () => {
    await expect(take(script([batch(1n, 3n), batch(5n, 5n)]), { log: "l" }, 2)).rejects.toThrow(ContiguityError);
  });

  it("throws when a resumed stream repeats an entry", async () => {
    const sidecar = script([batch(1n, 3n), broken], [batch(3n, 4n)]);

    await expect(take(sidecar, { log: "l" }, 3)).rejects.toMatchObject({ expected: 4n, received: 3n });
  });

  it("throws what another attempt cannot mend", async () => {
    const trimmed = new OplogRpcError({ code: "OUT_OF_RANGE", reason: "TRIMMED", message: "gone" });

    await expect(take(script([batch(1n, 1n), trimmed]), { log: "l" }, 2)).rejects.toBe(trimmed);
  });

  it("tells that the store is refused, and goes on once it is not; at the start it throws", async () => {
    const refused = new OplogRpcError({ code: "FAILED_PRECONDITION", reason: "STORE_REPLACED", message: "adopt it" });
    const sidecar = script([batch(1n, 3n), broken], [refused], [batch(4n, 4n)]);
    const events = await take(sidecar, { log: "l" }, 4);
    expect(events.map((event) => event.case)).toEqual(["batch", "broken", "broken", "batch"]);
    expect(events[2]).toMatchObject({ value: { error: { reason: "STORE_REPLACED" } } });
    await expect(take(script([refused]), { log: "l" }, 1)).rejects.toThrow("adopt it");
  });

  it("tells whether it was ever connected, and backs off further each time", async () => {
    const sidecar = script([broken], [broken], [batch(1n, 1n), broken], [batch(2n, 2n)]);

    const breaks = (await take(sidecar, { log: "l" }, 5)).flatMap((event) =>
      event.case === "broken" ? [event.value] : [],
    );

    expect(breaks.map((each) => each.hadConnected)).toEqual([false, false, true]);
    expect(breaks[0]!.retryInMs).toBeGreaterThanOrEqual(50);
    expect(breaks[0]!.retryInMs).toBeLessThanOrEqual(100);
    expect(breaks[1]!.retryInMs).toBeGreaterThanOrEqual(100);
    expect(breaks[2]!.retryInMs).toBeLessThanOrEqual(100);
  });

  it("resumes after a stream that the sidecar ended in good order", async () => {
    const sidecar = script([batch(1n, 1n)], [batch(2n, 2n)]);

    const events = await take(sidecar, { log: "l" }, 3);

    expect(events.map((event) => event.case)).toEqual(["batch", "broken", "batch"]);
  });

  it("ends when the signal aborts while it waits to retry", async () => {
    const abort = new AbortController();
    const events: string[] = [];
    for await (const event of follow(script([broken]).subscribe, { log: "l" }, abort.signal)) {
      events.push(event.case);
      abort.abort();
    }
    expect(events).toEqual(["broken"]);
  });
});

type Step = SubscribeResponse | OplogRpcError;

const broken = new OplogRpcError({ code: "UNAVAILABLE", message: "Connection dropped" });

/** Each call of subscribe() plays the next list: frames, and perhaps an error at its end. */
function script(...streams: Step[][]): { readonly subscribe: Subscribe; readonly requests: FollowRequest[] } {
  const requests: FollowRequest[] = [];
  return {
    requests,
    subscribe: async function* (request) {
      requests.push(request);
      const steps = streams[requests.length - 1];
      if (steps === undefined) throw new Error(`the script has no stream ${requests.length}`);
      for (const step of steps) {
        if (step instanceof Error) throw step;
        yield step;
      }
    },
  };
}

async function take(sidecar: ReturnType<typeof script>, request: FollowRequest, count: number): Promise<FollowEvent[]> {
  const events: FollowEvent[] = [];
  for await (const event of follow(sidecar.subscribe, request)) {
    events.push(event);
    if (events.length === count) break;
  }
  return events;
}

function batch(first: bigint, last: bigint, term = 1n): SubscribeResponse {
  const entries = [];
  for (let id = first; id <= last; id++) entries.push(entry(id, term));
  return frame({ case: "batch", value: { firstSequenceId: first, lastSequenceId: last, entries } });
}

function entry(sequenceId: bigint, term: bigint) {
  return { sequenceId, term, opType: OpType.PUT_END, key: `k${sequenceId}` };
}

function heartbeat(sentSequenceId: bigint): SubscribeResponse {
  return frame({ case: "heartbeat", value: { sentSequenceId, logId: LOG_ID } });
}
