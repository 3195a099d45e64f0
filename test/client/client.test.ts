import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import type { UntypedServiceImplementation } from "@grpc/grpc-js";
import { afterEach, describe, expect, it, vi } from "vitest";
import { connect, type OplogClient } from "../../src/client/client.js";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { LeadershipService } from "../../src/gen/oplog/v1/leadership_pb.js";
import {
  AppendRequestSchema,
  AppendStreamResponseSchema,
  OpLogService,
  SubscribeResponseSchema,
} from "../../src/gen/oplog/v1/oplog_pb.js";
import { ScanStateResponseSchema, StandbyService } from "../../src/gen/oplog/v1/standby_pb.js";
import { freePort } from "../support/oplogd.js";
import {
  type AppendCall,
  answers,
  decodeItem,
  frame,
  rpcError,
  rpcStatus,
  ScriptedSidecar,
  type SubscribeCall,
} from "./scripted-sidecar.js";

const open: Array<{ stop(): void }> = [];
afterEach(() => {
  for (const each of open.splice(0).reverse()) each.stop();
});

async function clientOf(handlers: UntypedServiceImplementation, address?: string): Promise<OplogClient> {
  const sidecar = await ScriptedSidecar.start(handlers, address);
  const client = connect(sidecar.target);
  open.push(sidecar, { stop: () => client.close() });
  return client;
}

describe("unary calls", () => {
  const append = answers(OpLogService.method.append, (request) => ({
    firstSequenceId: 1n,
    lastSequenceId: BigInt(request.entries.length),
  }));

  it("take plain objects and encoded bytes alike", async () => {
    const client = await clientOf({ Append: append });
    const request = {
      log: "l",
      entries: [
        { opType: OpType.REMOVE, key: "a" },
        { opType: OpType.REMOVE, key: "b" },
      ],
    };
    const bytes = Buffer.from(toBinary(AppendRequestSchema, create(AppendRequestSchema, request)));

    expect((await client.append(request)).lastSequenceId).toBe(2n);
    expect((await client.append(bytes)).lastSequenceId).toBe(2n);
  });

  it("reach the other services as well", async () => {
    const client = await clientOf({
      Resign: answers(LeadershipService.method.resign, () => ({ term: 4n })),
      HandOver: answers(LeadershipService.method.handOver, ({ target }) => ({ term: BigInt(target) })),
      RenewObjectLeases: answers(StandbyService.method.renewObjectLeases, ({ keys }) => ({ missingKeys: keys })),
      GetPromotionReadiness: answers(StandbyService.method.getPromotionReadiness, () => ({ headSequenceId: 9n })),
      GetStateHash: answers(StandbyService.method.getStateHash, () => ({ keys: 2n })),
      GetEntry: answers(StandbyService.method.getEntry, ({ key }) => ({ entry: { key } })),
      ScanState: (call: SubscribeCall) => {
        call.write(create(ScanStateResponseSchema, { frame: { case: "entries", value: { entries: [{ key: "k" }] } } }));
        call.write(create(ScanStateResponseSchema, { frame: { case: "end", value: { endSequenceId: 9n } } }));
        call.end();
      },
    });

    expect((await client.resign({ log: "l" })).term).toBe(4n);
    expect((await client.handOver({ log: "l", target: "5" })).term).toBe(5n);
    expect((await client.renewObjectLeases({ log: "l", keys: ["a"] })).missingKeys).toEqual(["a"]);
    expect((await client.getPromotionReadiness({ log: "l" })).headSequenceId).toBe(9n);
    expect((await client.getStateHash({ log: "l" })).keys).toBe(2n);
    expect((await client.getEntry({ log: "l", key: "k" })).entry?.key).toBe("k");
    expect((await all(client.scanState({ log: "l" }))).map(({ frame }) => frame.case)).toEqual(["entries", "end"]);
  });

  it("go over a Unix socket", async () => {
    const dir = mkdtempSync(join(tmpdir(), "oplog-client-"));
    open.push({ stop: () => rmSync(dir, { recursive: true }) });
    const client = await clientOf({ Append: append }, `unix://${dir}/socket`);

    expect((await client.append({ log: "l", entries: [{}] })).lastSequenceId).toBe(1n);
  });

  it("fail with what the sidecar said", async () => {
    const refusal = { code: "NOT_FOUND", reason: "LOG_NOT_FOUND", message: "no", metadata: { log: "l" } } as const;
    const client = await clientOf({ Read: answers(OpLogService.method.read, () => rpcError(refusal)) });

    await expect(client.read({ log: "l" })).rejects.toMatchObject(refusal);
  });

  it("fail after their deadline", async () => {
    const client = await clientOf({ GetStatus: () => {} });

    await expect(client.getStatus({}, { deadlineMs: 50 })).rejects.toMatchObject({ code: "DEADLINE_EXCEEDED" });
  });

  it("are cancelled by their signal", async () => {
    const abort = new AbortController();
    const client = await clientOf({ GetStatus: () => abort.abort() });

    await expect(client.getStatus({}, { signal: abort.signal })).rejects.toMatchObject({ code: "CANCELLED" });
    await expect(client.getStatus({}, { signal: abort.signal })).rejects.toMatchObject({ code: "CANCELLED" });
  });

  it("tell a sidecar that is not there from one that went away", async () => {
    const sidecar = await ScriptedSidecar.start({});
    sidecar.stop();
    const client = connect(sidecar.target);
    open.push({ stop: () => client.close() });

    await expect(client.getStatus()).rejects.toMatchObject({ code: "UNAVAILABLE", isConnectFailure: true });
  });
});

describe("subscribe", () => {
  const heartbeat = frame({ case: "heartbeat", value: { headSequenceId: 5n } });

  it("yields decoded frames, or the bytes", async () => {
    const Subscribe = (call: SubscribeCall) => {
      call.write(heartbeat);
      call.end();
    };
    const client = await clientOf({ Subscribe });

    expect(await all(client.subscribe({ log: "l" }))).toMatchObject([heartbeat]);
    const bytes = Buffer.from(toBinary(SubscribeResponseSchema, heartbeat));
    expect(await all(client.subscribe({ log: "l" }, { raw: true }))).toEqual([bytes]);
  });

  it("delivers what came before an error, then throws it", async () => {
    const Subscribe = (call: SubscribeCall) => {
      call.write(heartbeat);
      call.emit("error", rpcError({ code: "OUT_OF_RANGE", reason: "TRIMMED", message: "gone" }));
    };
    const client = await clientOf({ Subscribe });
    const frames: unknown[] = [];

    const reading = (async () => {
      for await (const each of client.subscribe({ log: "l" })) frames.push(each);
    })();

    await expect(reading).rejects.toMatchObject({ code: "OUT_OF_RANGE", reason: "TRIMMED" });
    expect(frames).toHaveLength(1);
  });

  it("cancels the call when the consumer leaves", async () => {
    const onCancelled = vi.fn();
    const Subscribe = (call: SubscribeCall) => {
      call.on("cancelled", onCancelled);
      call.write(heartbeat);
    };
    const client = await clientOf({ Subscribe });

    for await (const _ of client.subscribe({ log: "l" })) break;

    await vi.waitFor(() => expect(onCancelled).toHaveBeenCalledOnce());
  });

  it("stops the sidecar while the consumer does not read", async () => {
    const chunk = frame({ case: "snapshotChunk", value: { data: new Uint8Array(256 * 1024) } });
    const count = 400;
    let written = 0;
    let stalls = 0;
    const Subscribe = (call: SubscribeCall) => {
      const write = () => {
        while (written < count) {
          written += 1;
          if (!call.write(chunk)) {
            stalls += 1;
            call.once("drain", write);
            return;
          }
        }
        call.end();
      };
      write();
    };
    const client = await clientOf({ Subscribe });
    const frames = client.subscribe({ log: "l" });

    await frames.next();
    // Settled: the sidecar has not written for as long as it takes to send many more frames.
    await vi.waitFor(
      async () => {
        const before = written;
        await new Promise((resolve) => setTimeout(resolve, 100));
        expect(written).toBe(before);
      },
      { timeout: 10_000 },
    );
    expect(written).toBeLessThan(count / 2);
    expect(stalls).toBeGreaterThan(0);

    expect((await all(frames)).length).toBe(count - 1);
  });
});

describe("appender", () => {
  const refusal = { code: "ABORTED", reason: "EXPECTED_SEQUENCE_MISMATCH", message: "no" } as const;

  /** Acknowledges every item with a rising id, refuses those with an expectation. */
  const AppendStream = (call: AppendCall) => {
    let id = 0n;
    call.on("data", (bytes: Buffer) => {
      const { correlationId, append } = decodeItem(bytes);
      const outcome =
        append?.expectedSequenceId === undefined
          ? { case: "appended" as const, value: { firstSequenceId: ++id, lastSequenceId: id } }
          : { case: "error" as const, value: rpcStatus(refusal) };
      call.write(create(AppendStreamResponseSchema, { correlationId, outcome }));
    });
    call.on("end", () => call.end());
  };

  it("gives each append its own outcome", async () => {
    const appender = (await clientOf({ AppendStream })).appender();

    const outcomes = await Promise.allSettled([
      appender.append({ log: "l", entries: [{}] }),
      appender.append({ log: "l", entries: [{}], expectedSequenceId: 9n }),
      appender.append(Buffer.from(toBinary(AppendRequestSchema, create(AppendRequestSchema, { log: "l" })))),
    ]);

    expect(outcomes).toMatchObject([
      { value: { firstSequenceId: 1n } },
      { reason: refusal },
      { value: { firstSequenceId: 2n } },
    ]);
    await appender.end();
  });

  it("keeps the order and the bound when the window is small", async () => {
    let inFlightMost = 0;
    const slow = (call: AppendCall) => {
      let inFlight = 0;
      let id = 0n;
      call.on("data", () => {
        inFlight += 1;
        inFlightMost = Math.max(inFlightMost, inFlight);
        setImmediate(() => {
          inFlight -= 1;
          id += 1n;
          const outcome = { case: "appended" as const, value: { firstSequenceId: id, lastSequenceId: id } };
          call.write(create(AppendStreamResponseSchema, { outcome }));
        });
      });
      call.on("end", () => setImmediate(() => call.end()));
    };
    const appender = (await clientOf({ AppendStream: slow })).appender({ inFlightMax: 4 });

    const answers = await Promise.all(Array.from({ length: 100 }, () => appender.append({ log: "l", entries: [{}] })));
    await appender.end();

    expect(answers.map((answer) => answer.firstSequenceId)).toEqual(answers.map((_, index) => BigInt(index + 1)));
    expect(inFlightMost).toBeLessThanOrEqual(4);
  });

  it("says ready() when there is room again", async () => {
    const appender = (await clientOf({ AppendStream })).appender({ inFlightMax: 1 });

    expect(appender.ready()).toBeUndefined();
    const outcome = appender.append({ log: "l", entries: [{}] });
    const ready = appender.ready();
    expect(ready).toBeInstanceOf(Promise);
    await ready;

    expect(appender.ready()).toBeUndefined();
    await outcome;
  });

  it("reports what was sent and not answered as unknown when the stream breaks", async () => {
    const breaking = (call: AppendCall) => {
      call.on("data", () => call.emit("error", rpcError({ code: "UNAVAILABLE", message: "gone" })));
    };
    const appender = (await clientOf({ AppendStream: breaking })).appender({ inFlightMax: 1 });

    const [sent, unsent] = await Promise.allSettled([
      appender.append({ log: "l", entries: [{}] }),
      appender.append({ log: "l", entries: [{}] }),
    ]);

    expect(sent).toMatchObject({ reason: { code: "UNKNOWN", reason: "OUTCOME_UNKNOWN", mayHaveCommitted: true } });
    const wasNotSent = { code: "UNAVAILABLE", reason: "NOT_SENT", mayHaveCommitted: false };
    expect(unsent).toMatchObject({ reason: wasNotSent });
    await expect(appender.append({ log: "l" })).rejects.toMatchObject(wasNotSent);
    await expect(appender.end()).rejects.toMatchObject({ code: "UNAVAILABLE" });
  });

  /** Answers some of what it has received, all of it but the last, and ends the stream with a word on the rest. */
  function endingAfter(received: number, answered: number, claimed?: number) {
    return (call: AppendCall) => {
      const ids: bigint[] = [];
      call.on("data", (bytes: Buffer) => {
        ids.push(decodeItem(bytes).correlationId);
        if (ids.length < received) return;
        for (const correlationId of ids.slice(0, answered)) {
          call.write(create(AppendStreamResponseSchema, { correlationId, outcome: { case: "appended", value: {} } }));
        }
        const metadata: Record<string, string> = claimed === undefined ? {} : { answered: String(claimed) };
        const error = { code: "UNAVAILABLE", reason: "SHUTTING_DOWN", message: "bye", metadata } as const;
        call.emit("error", rpcError(error));
      });
    };
  }

  const NOT_WRITTEN = { reason: "SHUTTING_DOWN", mayHaveCommitted: false };
  const OPEN = { reason: "OUTCOME_UNKNOWN", mayHaveCommitted: true };

  it.each([
    ["what the sidecar says it has not answered", 2, 2, ["appended", "appended", NOT_WRITTEN, NOT_WRITTEN]],
    ["everything where the sidecar answered nothing", 0, undefined, Array(4).fill(NOT_WRITTEN)],
    [
      "only what came after the answers, also if they were lost on the way",
      1,
      3,
      ["appended", OPEN, OPEN, NOT_WRITTEN],
    ],
  ])("tells as not written %s", async (_, answered, claimed, outcomes) => {
    const AppendStream = endingAfter(4, answered, claimed);
    const appender = (await clientOf({ AppendStream })).appender();

    const results = await Promise.allSettled(outcomes.map(() => appender.append({ log: "l", entries: [{}] })));

    expect(results.map((result) => (result.status === "rejected" ? result.reason : "appended"))).toMatchObject(
      outcomes,
    );
  });

  it("tells what never left the process as not sent, also after end() and where nobody listens", async () => {
    const target = `127.0.0.1:${await freePort()}`;
    const client = connect(target);
    open.push({ stop: () => client.close() });
    const appender = client.appender();
    await expect(appender.append({ log: "l", entries: [{}] })).rejects.toMatchObject({
      isConnectFailure: true,
      mayHaveCommitted: false,
    });

    const ended = (await clientOf({ AppendStream })).appender();
    await ended.end();
    await expect(ended.append({ log: "l", entries: [{}] })).rejects.toMatchObject({
      reason: "NOT_SENT",
      mayHaveCommitted: false,
    });
  });
});

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const collected: T[] = [];
  for await (const item of items) collected.push(item);
  return collected;
}
