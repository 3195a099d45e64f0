import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect as connectHttp2, type IncomingHttpHeaders } from "node:http2";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { crc32c } from "@node-rs/crc32";
import { beforeAll, describe, expect, it } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import { connect } from "../../src/client/client.js";
import { OplogRpcError } from "../../src/client/errors.js";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import { AppendRequestSchema, AppendStreamRequestSchema } from "../../src/gen/oplog/v1/oplog_pb.js";
import { LogKeys } from "../../src/oplog/keys.js";
import { trim } from "../../src/stored/trim.js";
import { EtcdKvStore } from "../../src/stores/etcd/etcd-kv-store.js";
import { type EtcdServer, etcdBinaries, startEtcd } from "../support/etcd.js";
import { startOplogd } from "../support/oplogd.js";
import { within } from "../support/wait.js";
import { invalid, type Refusal } from "./refusals.js";
import { failureOf, put } from "./stage.js";

const LOG = "strict";
const KIBIBYTE = 1024;
const RESOURCE_EXHAUSTED = "8";
/** Of the log that every case finds, and leaves as it was. */
const HEAD = 10n;
const FLOOR = 4n;
const WRITER = "writer";
/** Its operations are 2 (entry 1, trimmed with the floor), 4 and 6. */
const OPERATIONS = [2n, 4n, 6n];

let etcd: EtcdServer;
let client: OplogClient;

beforeAll(async () => {
  etcd = await startEtcd({ binary: (await etcdBinaries()).at(-1)! });
  const oplogd = await startOplogd({ store: { etcd: etcd.endpoint } });
  client = connect(oplogd.target);
  for (const operationId of OPERATIONS) await client.append(operation(operationId, `operation ${operationId}`));
  for (let id = OPERATIONS.length + 1; id <= HEAD; id++)
    await client.append({ log: LOG, entries: [put(`entry ${id}`)] });
  const store = new EtcdKvStore({ endpoints: [etcd.endpoint] });
  expect(await trim(store, new LogKeys("/oplog", LOG), FLOOR)).toBe(FLOOR);
  await store.close();
  return async () => {
    client.close();
    await oplogd.stop();
    await etcd.stop();
  };
});

const entry = { opType: OpType.PUT_END, key: "key", payload: Buffer.from("payload") };
const inEntry = (field: string, metadata: Record<string, string> = {}): Refusal =>
  invalid(`entries[0].${field}`, { entry_index: "0", ...metadata });

/** Appends that are refused, as the bytes of an AppendRequest; all are sent as a call and on a stream. */
const APPENDS: readonly (readonly [string, () => Buffer, Refusal])[] = [
  ["an empty batch", () => request({ entries: [] }), invalid("entries")],
  [
    "a key of 5 KiB",
    () => request({ entries: [{ ...entry, key: "k".repeat(5 * KIBIBYTE) }] }),
    inEntry("key", { received: "5120", limit: "4096" }),
  ],
  ["no key", () => request({ entries: [{ ...entry, key: "" }] }), inEntry("key")],
  ["a key that is not UTF-8", () => rawEntry([0x20, 1, 0x2a, 2, 0xc3, 0x28]), inEntry("key")],
  [
    "an operation type that is not known",
    () => request({ entries: [{ ...entry, opType: 9 as OpType }] }),
    inEntry("op_type", { received: "9" }),
  ],
  ["no operation type", () => rawEntry([0x2a, 1, 0x6b]), inEntry("op_type", { received: "0" })],
  ["a sequence id", () => request({ entries: [{ ...entry, sequenceId: 11n }] }), inEntry("sequence_id")],
  ["a term", () => request({ entries: [{ ...entry, term: 1n }] }), inEntry("term")],
  ["a timestamp", () => request({ entries: [{ ...entry, timestampMs: 1n }] }), inEntry("timestamp_ms")],
  [
    "a checksum that does not fit",
    () => request({ entries: [{ ...entry, checksum: 1 }] }),
    inEntry("checksum", { received: "1", computed: String(crc32c(entry.payload)) }),
  ],
  ["a field that is set twice", () => rawEntry([0x20, 1, 0x2a, 1, 0x6b, 0x2a, 1, 0x6c]), inEntry("key")],
  ["a field that is not known", () => rawEntry([0x20, 1, 0x2a, 1, 0x6b, 0x78, 1]), inEntry("15", { received: "15" })],
  ["a field of another wire type", () => rawEntry([0x20, 1, 0x28, 1]), inEntry("key")],
  ["17 headers", () => request({ entries: [{ ...entry, headers: headers(17) }] }), inEntry("headers", { limit: "16" })],
  ["an entry that is cut off", () => rawEntry([0x20, 1, 0x2a, 9, 0x6b]), invalid("entries[0]")],
  ["bytes that are no message", () => Buffer.from([0xff, 0xff, 0xff]), invalid("request")],
  ["a length beyond the end", () => Buffer.from([0x12, 0x7f, 0x01]), invalid("request")],
  [
    "an entry of 2 MiB",
    () => request({ entries: [{ ...entry, payload: Buffer.alloc(2 << 20) }] }),
    { code: "RESOURCE_EXHAUSTED", reason: "TOO_LARGE", metadata: { field: "entries[0]", entry_index: "0" } },
  ],
  [
    "10,001 entries",
    () => request({ entries: Array.from({ length: 10_001 }, () => entry) }),
    invalid("entries", { received: "10001", limit: "10000" }),
  ],
  [
    "another head than expected",
    () => request({ entries: [entry], expectedSequenceId: 9n }),
    { code: "ABORTED", reason: "EXPECTED_SEQUENCE_MISMATCH", metadata: { expected: "9", head: "10" } },
  ],
  [
    "a term that is over",
    () => request({ entries: [entry], term: 7n }),
    { code: "FAILED_PRECONDITION", reason: "STALE_TERM", metadata: { yours: "7", current: "1" } },
  ],
  [
    "a used operation id with other content",
    () => request(operation(6n, "something else")),
    {
      code: "ALREADY_EXISTS",
      reason: "OPERATION_CONTENT_MISMATCH",
      metadata: { writer_id: WRITER, operation_id: "6", first_sequence_id: "3", last_sequence_id: "3" },
    },
  ],
  [
    "an operation id below the highest",
    () => request(operation(5n, "late")),
    {
      code: "ALREADY_EXISTS",
      reason: "OPERATION_ID_USED",
      metadata: { writer_id: WRITER, operation_id: "5", highest_operation_id: "6" },
    },
  ],
  ["an operation id without a writer", () => request({ entries: [entry], operationId: 1n }), invalid("writer_id")],
  ["a writer without an operation id", () => request({ entries: [entry], writerId: "w" }), invalid("operation_id")],
  [
    "a writer id of 129 bytes",
    () => request({ entries: [entry], writerId: "w".repeat(129), operationId: 1n }),
    invalid("writer_id", { received: "129", limit: "128" }),
  ],
  [
    "a writer id that is not UTF-8",
    () => Buffer.concat([request({ entries: [entry] }), Buffer.from([0x22, 1, 0xff])]),
    invalid("request"),
  ],
  [
    "an operation id of 2^63",
    () => request({ entries: [entry], writerId: "w", operationId: 2n ** 63n }),
    invalid("operation_id", { received: String(2n ** 63n) }),
  ],
  [
    "a durability of standbys and none counted",
    () => request({ entries: [entry], durability: 3 }),
    invalid("standby_count", { received: "0", limit: "16" }),
  ],
];

const NAMES = ["../x", "a/b", "", ".hidden", "a b", "käse", "a".repeat(200), "a\0b"];

describe("an append", () => {
  it.each(APPENDS)("with %s is refused, and nothing is written", async (_what, bytes, refusal) => {
    const before = await revision();
    expectRefusal(await failureOf(client.append(bytes())), refusal);
    expect(await revision()).toBe(before);
  });

  it.each(NAMES)("to the log %j is refused", async (log) => {
    const before = await revision();
    const failure = await failureOf(client.append({ log, entries: [entry] }));
    expectRefusal(failure, invalid("log", { received: log }));
    expect(await revision()).toBe(before);
  });

  it("of 64 MiB is refused by the transport", async () => {
    const before = await revision();
    // Larger than this client sends either, so the bytes are put on the wire by hand.
    expect(await statusOfMessage("/oplog.v1.OpLogService/Append", 64 << 20)).toBe(RESOURCE_EXHAUSTED);
    expect(await revision()).toBe(before);
    await expectHeadToBe(HEAD);
  });
});

describe("on an AppendStream", () => {
  it("each bad item is refused in its turn, and the good ones around it are appended", {
    timeout: 60_000,
  }, async () => {
    const log = "stream";
    const items = APPENDS.filter(([what]) => !what.includes("used") && !what.includes("below"));
    const stream = client.appendStream();
    const answers = stream.answers;
    let correlationId = 0n;
    const send = (append: Buffer) => stream.send(streamItem(++correlationId, append));
    await send(request({ log, entries: [entry] }));
    for (const [, bytes] of items) {
      await send(toLog(log, bytes()));
      // The name may be left out once it has been given.
      await send(request({ log: "", entries: [entry] }));
    }
    stream.end();

    let expectedId = 0n;
    let appendedId = 0n;
    for await (const answer of answers) {
      expectedId++;
      expect(answer.correlationId).toBe(expectedId);
      const [what, , refusal] = items[Number(expectedId) / 2 - 1] ?? [];
      if (refusal === undefined) {
        expect(answer.outcome, `after item ${expectedId}`).toMatchObject({
          case: "appended",
          value: { firstSequenceId: ++appendedId, lastSequenceId: appendedId },
        });
      } else if (answer.outcome.case === "error") {
        const { metadata } = refusal;
        const failure = OplogRpcError.fromStreamStatus(answer.outcome.value);
        // The head is that of this log, and moves.
        const numbers =
          metadata?.head === undefined ? refusal : { ...refusal, metadata: { expected: metadata.expected! } };
        expectRefusal(failure, numbers, what);
      } else {
        throw new Error(`${what} was answered with ${answer.outcome.case}`);
      }
    }
    expect(expectedId).toBe(correlationId);
    expect((await client.getStatus({ log })).log?.headSequenceId).toBe(appendedId);
  });

  it("another log than that of the stream is refused, and the stream goes on", async () => {
    const appender = client.appender();
    const log = "one-log";
    expect(await appender.append({ log, entries: [entry] })).toMatchObject({ firstSequenceId: 1n });
    expectRefusal(
      await failureOf(appender.append({ log: "two", entries: [entry] })),
      invalid("log", { received: "two" }),
    );
    expect(await appender.append({ log, entries: [entry] })).toMatchObject({ firstSequenceId: 2n });
    await appender.end();
    expectRefusal(await failureOf(client.read({ log: "two" })), { code: "NOT_FOUND", reason: "LOG_NOT_FOUND" });
  });

  it("a malformed request is refused, and the stream goes on", async () => {
    const stream = client.appendStream();
    await stream.send(Buffer.from([0x12, 0x7f]));
    await stream.send(streamItem(2n, request({ log: "malformed", entries: [entry] })));
    stream.end();
    const cases: (string | undefined)[] = [];
    for await (const { outcome } of stream.answers) cases.push(outcome.case);
    expect(cases).toEqual(["error", "appended"]);
  });
});

type Start = NonNullable<Parameters<OplogClient["subscribe"]>[0]> & object;

describe("a reader", () => {
  it.each<[string, Start, Refusal]>([
    ["from beyond the head", from(HEAD + 2n), outOfRange("BEYOND_HEAD", { from: "12", head: "10" })],
    ["from below the floor", from(FLOOR - 1n), outOfRange("TRIMMED", { from: "3", floor: "4" })],
    ["from 0", from(0n), invalid("from_sequence_id")],
    [
      "after an entry of another term",
      { ...from(HEAD), previousTerm: 9n },
      {
        code: "FAILED_PRECONDITION",
        reason: "TERM_DIVERGED",
        metadata: { sequence_id: "9", yours: "9", current: "1" },
      },
    ],
    [
      "after a trimmed entry of another term",
      { ...from(FLOOR), previousTerm: 9n },
      {
        code: "FAILED_PRECONDITION",
        reason: "TERM_DIVERGED",
        metadata: { sequence_id: "3", yours: "9", current: "1" },
      },
    ],
    ["of another log of the name", { logId: randomBytes(16) }, { code: "FAILED_PRECONDITION", reason: "LOG_REPLACED" }],
    ["with a batch size of 1", { maxBatchBytes: 1 }, invalid("max_batch_bytes")],
    [
      "at a cursor that does not exist",
      { start: { case: "fromCursor", value: "nobody" } },
      { code: "NOT_FOUND", reason: "CURSOR_NOT_FOUND", metadata: { log: LOG, consumer: "nobody" } },
    ],
    ["at a cursor with a bad name", { start: { case: "fromCursor", value: "a/b" } }, invalid("from_cursor")],
    ["with a bad name", { consumer: "a/b" }, invalid("consumer")],
  ])("that subscribes %s is refused", async (_what, subscribe, refusal) => {
    expectRefusal(await failureOf(firstBatch({ log: LOG, ...subscribe })), refusal);
  });

  it.each(NAMES)("that subscribes to the log %j is refused", async (log) => {
    expectRefusal(await failureOf(firstBatch({ log })), invalid("log"));
    expectRefusal(await failureOf(client.read({ log })), invalid("log"));
    expectRefusal(await failureOf(client.resolveAppend({ log, writerId: "w", operationId: 1n })), invalid("log"));
  });

  it("that reads below the floor, beyond the limits, or bytes that are no message, is refused", async () => {
    const trimmed = await failureOf(client.read({ log: LOG, fromSequenceId: FLOOR - 1n }));
    expectRefusal(trimmed, outOfRange("TRIMMED", { from: "3", floor: "4" }));
    expectRefusal(await failureOf(client.read({ log: LOG, maxEntries: 10_001 })), invalid("max_entries"));
    expectRefusal(await failureOf(client.read(Buffer.from([0x0a, 0x7f]))), invalid("request"));
    const beyond = await failureOf(client.read({ log: LOG, fromSequenceId: HEAD + 2n }));
    expectRefusal(beyond, outOfRange("BEYOND_HEAD", { from: "12", head: "10" }));
  });

  it("that continues at the floor or after the head is served", async () => {
    expect(await firstBatch({ log: LOG, ...from(FLOOR), previousTerm: 1n })).toBe(FLOOR);
    await expectHeadToBe(HEAD);
  });
});

function operation(operationId: bigint, text: string) {
  return { log: LOG, writerId: WRITER, operationId, entries: [put(text)] };
}

function request(fields: MessageInitShape<typeof AppendRequestSchema>): Buffer {
  return Buffer.from(toBinary(AppendRequestSchema, create(AppendRequestSchema, { log: LOG, ...(fields as object) })));
}

/** An append of one entry that is made of these bytes. */
function rawEntry(bytes: readonly number[]): Buffer {
  return Buffer.concat([request({ entries: [] }), Buffer.from([0x12, bytes.length, ...bytes])]);
}

/** The same request to another log: of a field that is set twice the last counts. */
function toLog(log: string, append: Buffer): Buffer {
  return Buffer.concat([append, Buffer.from([0x0a, log.length]), Buffer.from(log)]);
}

function streamItem(correlationId: bigint, append: Buffer): Buffer {
  const head = toBinary(AppendStreamRequestSchema, create(AppendStreamRequestSchema, { correlationId }));
  const length: number[] = [];
  let rest = append.length;
  for (; rest > 0x7f; rest >>>= 7) length.push((rest & 0x7f) | 0x80);
  return Buffer.concat([head, Buffer.from([0x12, ...length, rest]), append]);
}

function headers(count: number): Record<string, string> {
  return Object.fromEntries(Array.from({ length: count }, (_, index) => [`name-${index}`, "value"]));
}

function from(value: bigint) {
  return { start: { case: "fromSequenceId", value } as const };
}

function outOfRange(reason: string, metadata: Record<string, string>): Refusal {
  return { code: "OUT_OF_RANGE", reason, metadata };
}

async function firstBatch(subscribe: Parameters<OplogClient["subscribe"]>[0]): Promise<bigint> {
  for await (const { frame } of client.subscribe(subscribe)) {
    if (frame.case === "batch") return frame.value.firstSequenceId;
  }
  throw new Error("the stream ended without a batch");
}

function expectRefusal(failure: OplogRpcError, { code, reason, metadata = {} }: Refusal, what?: string): void {
  expect(failure, what).toMatchObject({ code, reason, metadata });
  expect(failure.message).not.toBe("");
}

/** The grpc-status that a call is answered with whose message claims this length, and begins to arrive. */
async function statusOfMessage(path: string, messageBytes: number): Promise<string | undefined> {
  const session = connectHttp2(`http://${client.target}`);
  // The sidecar resets the stream as soon as it has answered.
  session.on("error", () => undefined);
  try {
    const call = session.request({
      ":method": "POST",
      ":path": path,
      "content-type": "application/grpc",
      te: "trailers",
    });
    call.on("error", () => undefined);
    const prefix = Buffer.alloc(5);
    prefix.writeUInt32BE(messageBytes, 1);
    call.write(prefix);
    call.write(Buffer.alloc(1 << 20));
    const headers = new Promise<IncomingHttpHeaders>((resolve) => {
      call.on("response", (response) => "grpc-status" in response && resolve(response));
      call.on("trailers", resolve);
    });
    call.resume();
    return String((await within(headers, { what: "the call to be answered" }))["grpc-status"]);
  } finally {
    const closed = once(session, "close");
    session.destroy();
    await closed;
  }
}

/** Moves with anything that is written anywhere in the store. */
async function revision(): Promise<string> {
  const answer = (await etcd.ask("/v3/kv/range", { key: Buffer.from("/").toString("base64") })) as {
    header: { revision: string };
  };
  return answer.header.revision;
}

async function expectHeadToBe(head: bigint): Promise<void> {
  const { log } = await client.getStatus({ log: LOG });
  expect(log).toMatchObject({ headSequenceId: head, floorSequenceId: FLOOR });
}
