import { once } from "node:events";
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect as connectHttp2,
  type IncomingHttpHeaders,
} from "node:http2";
import { connect } from "node:net";
import { gzipSync } from "node:zlib";
import { ServerCredentials } from "@grpc/grpc-js";
import { afterEach, describe, expect, it } from "vitest";
import { ARRIVAL_MS_MAX, METADATA_BYTES_MAX, SMALL_REQUEST_BYTES_MAX } from "../../src/grpc/admission.js";
import type { DuplexCall } from "../../src/grpc/call.js";
import { methodsOf, type Services } from "../../src/grpc/methods.js";
import { UNARY_ANSWERS_BYTES_MAX } from "../../src/grpc/pipeline.js";
import { RequestBudget } from "../../src/grpc/request-budget.js";
import { GrpcServer } from "../../src/grpc/server.js";
import { AnswerBudget } from "../../src/grpc/stream-writer.js";
import { systemClock } from "../../src/oplog/clock.js";
import { silentLogger } from "../../src/oplog/logger.js";
import { waitFor, within } from "../support/wait.js";

const APPEND = "/oplog.v1.OpLogService/Append";
const APPEND_STREAM = "/oplog.v1.OpLogService/AppendStream";
const READ = "/oplog.v1.OpLogService/Read";
const GET_LEADER = "/oplog.v1.LeadershipService/GetLeader";
const HEALTH_WATCH = "/grpc.health.v1.Health/Watch";
const KIBIBYTE = 1024;
const BUDGET_BYTES = 1024 * KIBIBYTE;
const CALLS_MAX = 8;
const READ_BYTES = UNARY_ANSWERS_BYTES_MAX / 4;
const CONNECTIONS_MAX = 3;
const LIMITS = { callsMax: CALLS_MAX, appendStreamsMax: 4, campaignsMax: 1, subscriptionsMax: 1 };
const RESOURCE_EXHAUSTED = "8";

const takeDown: (() => unknown)[] = [];
afterEach(async () => {
  for (const each of takeDown.splice(0).reverse()) await each();
});

/** The real server. Appends are answered when the test says so; requests of streams are kept with what they count. */
async function aServer() {
  const budget = new RequestBudget(BUDGET_BYTES, 100);
  const answers: (() => void)[] = [];
  const taken: { readonly length: number; readonly charge: number }[] = [];
  const finished: string[] = [];
  const time = { aheadMs: 0 };
  const services = {
    opLog: {
      read: async () => Buffer.alloc(READ_BYTES),
      append: () => new Promise<Buffer>((resolve) => answers.push(() => resolve(Buffer.alloc(0)))),
      appendStream: ({ stream, claim }: DuplexCall) =>
        new Promise<void>((resolve) => {
          stream.on("data", ({ length }: Buffer) => taken.push({ length, charge: claim(length) }));
          stream.on("end", resolve);
          stream.on("cancelled", resolve);
        }),
    },
    leadership: { getLeader: async () => ({}) },
    standby: {},
  } as unknown as Services;
  const grpc = new GrpcServer({
    methods: methodsOf(services, LIMITS),
    budget,
    clock: { ...systemClock, monotonicMs: () => performance.now() + time.aheadMs },
    connectionsMax: CONNECTIONS_MAX,
    answers: new AnswerBudget(1 << 20),
    hasReflection: false,
    logger: silentLogger,
    onFinished: (method, code) => finished.push(`${method} ${code}`),
  });
  const port = await new Promise<number>((resolve, reject) =>
    grpc.server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    ),
  );
  const session = connectHttp2(`http://127.0.0.1:${port}`);
  takeDown.push(
    () => grpc.close(AbortSignal.abort()),
    () => session.destroy(),
  );
  return { budget, answers, taken, finished, time, session, port };
}

/** A call as raw HTTP/2, so that it may stop in the middle of a message. */
function open(session: ClientHttp2Session, path: string, headers: Readonly<Record<string, string>> = {}) {
  const stream = session.request({
    ":method": "POST",
    ":path": path,
    "content-type": "application/grpc",
    te: "trailers",
    "grpc-encoding": "gzip",
    ...headers,
  });
  stream.on("error", () => undefined);
  stream.resume();
  const status = new Promise<{ code: string; message: string }>((resolve) => {
    const tell = (headers: IncomingHttpHeaders) => {
      const { "grpc-status": code, "grpc-message": message } = headers;
      if (code !== undefined) resolve({ code: String(code), message: decodeURI(String(message)) });
    };
    stream.on("response", tell);
    stream.on("trailers", tell);
  });
  return { stream, status: () => within(status, { what: "a status" }) };
}

function prefix(length: number, isCompressed = false): Buffer {
  const bytes = Buffer.alloc(5);
  bytes.writeUInt8(isCompressed ? 1 : 0, 0);
  bytes.writeUInt32BE(length, 1);
  return bytes;
}

const message = (length: number) => Buffer.concat([prefix(length), Buffer.alloc(length)]);

async function write(stream: ClientHttp2Stream, bytes: Buffer): Promise<void> {
  if (!stream.write(bytes)) await once(stream, "drain");
}

describe("a request that is half received", () => {
  it("is counted with all of its length, and what finds no room is refused or held up", async () => {
    const { budget, session, taken } = await aServer();
    const half = open(session, APPEND);
    await write(half.stream, Buffer.concat([prefix(700 * KIBIBYTE), Buffer.alloc(10)]));
    await waitFor(() => budget.bytes > 0, { what: "it to be counted" });
    expect(budget.bytes).toBe(700 * KIBIBYTE + 5);

    const refused = open(session, APPEND);
    refused.stream.write(Buffer.concat([prefix(400 * KIBIBYTE), Buffer.alloc(10)]));
    expect(await refused.status()).toMatchObject({
      code: RESOURCE_EXHAUSTED,
      message: expect.stringMatching(/queue is full/),
    });

    const held = open(session, APPEND_STREAM);
    held.stream.end(message(400 * KIBIBYTE));
    const small = open(session, APPEND_STREAM);
    small.stream.write(message(KIBIBYTE));
    await waitFor(() => taken.length === 1, { what: "what has room" });
    expect(taken[0]).toEqual({ length: KIBIBYTE, charge: KIBIBYTE + 5 });

    half.stream.close();
    await waitFor(() => taken.length === 2, { what: "the one held up to be read" });
    expect(taken[1]).toEqual({ length: 400 * KIBIBYTE, charge: 400 * KIBIBYTE + 5 });
  });

  it("is refused after half a minute, unless it was held up here", async () => {
    const { budget, session, taken, finished, time } = await aServer();
    const slow = open(session, APPEND);
    await write(slow.stream, Buffer.concat([prefix(1000 * KIBIBYTE), Buffer.alloc(10)]));
    const silent = open(session, GET_LEADER);
    await waitFor(() => budget.bytes > 0, { what: "it to be counted" });
    const held = open(session, APPEND_STREAM);
    held.stream.end(message(200 * KIBIBYTE));
    time.aheadMs += ARRIVAL_MS_MAX;
    expect(await slow.status()).toMatchObject({
      code: RESOURCE_EXHAUSTED,
      message: expect.stringMatching(/not complete 30000 ms/),
    });
    expect(await silent.status()).toMatchObject({
      code: RESOURCE_EXHAUSTED,
      message: expect.stringMatching(/not complete/),
    });
    await waitFor(() => taken.length === 1, { what: "the one held up to be read" });
    expect(finished.sort()).toEqual(["Append RESOURCE_EXHAUSTED", "AppendStream OK", "GetLeader RESOURCE_EXHAUSTED"]);
  });

  it("leaves nothing behind when its connection breaks, nor does one that nobody has claimed or that waits", async () => {
    const { budget, session } = await aServer();
    await write(open(session, APPEND).stream, Buffer.concat([prefix(500 * KIBIBYTE), Buffer.alloc(10)]));
    open(session, APPEND).stream.end(message(KIBIBYTE));
    await write(open(session, APPEND_STREAM).stream, message(400 * KIBIBYTE));
    open(session, APPEND_STREAM).stream.write(message(900 * KIBIBYTE));
    await waitFor(() => budget.requests === 3, { what: "all to be counted" });
    session.destroy();
    await waitFor(() => budget.requests === 1, { what: "all but the claimed one to be given back" });
    expect(budget.bytes).toBe(400 * KIBIBYTE + 5);
  });
});

describe("requests that are complete", () => {
  it("of a call that is being answered count until it is", async () => {
    const { budget, session, answers } = await aServer();
    const { stream, status } = open(session, APPEND);
    stream.end(message(100));
    await waitFor(() => answers.length === 1, { what: "the handler" });
    expect(budget).toMatchObject({ bytes: 105, requests: 1 });
    answers[0]!();
    expect(await status()).toMatchObject({ code: "0" });
    await waitFor(() => budget.requests === 0, { what: "it to be given back" });
    expect(budget.bytes).toBe(0);
  });

  it("are let in, in the order in which they came, as others are answered", async () => {
    const { budget, session, taken } = await aServer();
    const streams = Array.from({ length: 4 }, () => open(session, APPEND_STREAM));
    for (const { stream } of streams) for (let sent = 0; sent < 8; sent++) stream.write(message(100 * KIBIBYTE));
    for (let given = 0; given < 32; given++) {
      await waitFor(() => taken.length > given, { what: `request ${given}` });
      expect(budget.bytes).toBeLessThanOrEqual(BUDGET_BYTES);
      budget.give(taken[given]!.charge);
    }
    expect(budget).toMatchObject({ bytes: 0, requests: 0 });
  });

  it("count when they are compressed as if they were as large as may be, until it is known", async () => {
    const { budget, session, taken } = await aServer();
    const body = gzipSync(Buffer.alloc(300 * KIBIBYTE));
    open(session, APPEND_STREAM).stream.end(Buffer.concat([prefix(body.length, true), body]));
    await waitFor(() => taken.length === 1, { what: "the request" });
    expect(taken[0]).toEqual({ length: 300 * KIBIBYTE, charge: 300 * KIBIBYTE + 5 });
    expect(budget.bytes).toBe(300 * KIBIBYTE + 5);
  });

  it("are refused by methods that have no use for large ones, and are not counted there", async () => {
    const { budget, session } = await aServer();
    const large = open(session, GET_LEADER);
    large.stream.write(Buffer.concat([prefix(SMALL_REQUEST_BYTES_MAX + 1), Buffer.alloc(10)]));
    expect(await large.status()).toMatchObject({
      code: RESOURCE_EXHAUSTED,
      message: expect.stringMatching(/65537 bytes, the limit is 65536/),
    });
    const full = open(session, APPEND);
    full.stream.write(Buffer.concat([prefix(BUDGET_BYTES - 5), Buffer.alloc(10)]));
    await waitFor(() => budget.isFull, { what: "the budget to be full" });
    const small = open(session, GET_LEADER);
    small.stream.end(message(0));
    expect(await small.status()).toMatchObject({ code: "0" });
  });
});

describe("calls", () => {
  it.each(["596H", "597H", "99999999H", "99999999M", "99999999S"])(
    "with a deadline of %s are served, although grpc-js would end them early",
    async (timeout) => {
      const { answers, session } = await aServer();
      const call = open(session, APPEND, { "grpc-timeout": timeout });
      call.stream.end(message(1));
      await waitFor(() => answers.length === 1, { what: "the call to be served" });
      answers[0]!();
      expect(await call.status()).toMatchObject({ code: "0" });
    },
  );

  it("leave no more answers to a client that does not take them than the limit, and others are answered again once it is gone", async () => {
    const { session, finished, port } = await aServer();
    const ask = (from: ClientHttp2Session) => {
      const call = open(from, READ);
      call.stream.end(message(0));
      return call;
    };
    const unread = Array.from({ length: 4 }, () => ask(session));
    for (const { stream } of unread) stream.pause();
    await waitFor(() => finished.length === 4, { what: "the answers to be made" });
    const other = connectHttp2(`http://127.0.0.1:${port}`);
    takeDown.push(() => other.destroy());
    expect(await ask(other).status()).toMatchObject({
      code: RESOURCE_EXHAUSTED,
      message: expect.stringMatching(/^too many bytes of answers that nobody takes, the limit is 67108864$/),
    });
    unread[0]!.stream.close();
    await waitFor(async () => (await ask(other).status()).code === "0", { what: "an answer that is taken" });
  });

  it("with a deadline of a moment are ended by it", async () => {
    const { session } = await aServer();
    const call = open(session, APPEND, { "grpc-timeout": "10m" });
    call.stream.end(message(1));
    expect(await call.status()).toMatchObject({ code: "4" });
  });

  it("with more metadata than the limit are refused with its size, and those within it are served", async () => {
    const { answers, session, finished } = await aServer();
    const large = open(session, APPEND, { "x-many": "x".repeat(METADATA_BYTES_MAX) });
    expect(await large.status()).toMatchObject({
      code: RESOURCE_EXHAUSTED,
      message: expect.stringMatching(/^metadata: \d+ bytes, the limit is 8192$/),
    });
    expect(finished).toEqual(["Append RESOURCE_EXHAUSTED"]);
    const small = open(session, APPEND, { "x-many": "x".repeat(METADATA_BYTES_MAX - 1024) });
    small.stream.end(message(1));
    await waitFor(() => answers.length === 1, { what: "the call to be served" });
  });

  it.each([
    ["that are answered once", APPEND, CALLS_MAX],
    ["of AppendStream", APPEND_STREAM, LIMITS.appendStreamsMax],
    ["of health", HEALTH_WATCH, 1000],
  ])("%s are limited before they have sent anything, and taken again when others are gone", async (_, path, max) => {
    const { session, finished } = await aServer();
    const opened = Array.from({ length: max }, () => open(session, path));
    const beyond = open(session, path);
    expect(await beyond.status()).toMatchObject({
      code: RESOURCE_EXHAUSTED,
      message: expect.stringMatching(/^too many /),
    });
    expect(finished).toHaveLength(1);
    opened[0]!.stream.close();
    const isTaken = () => {
      const again = open(session, path);
      const refused = again.status().then(
        () => false,
        () => false,
      );
      // A refusal is on its way before the answer to a ping that was sent later.
      const answered = new Promise<boolean>((resolve) => session.ping(() => setImmediate(() => resolve(true))));
      return Promise.race([refused, answered]);
    };
    await waitFor(isTaken, { what: "a call to be taken again" });
  });
});

describe("connections", () => {
  it("beyond the limit are closed at once, and taken again when others are gone", async () => {
    const { port, session } = await aServer();
    const connectTo = async () => {
      const socket = connect({ port, host: "127.0.0.1" });
      takeDown.push(() => socket.destroy());
      socket.on("error", () => undefined);
      await once(socket, "connect");
      return socket;
    };
    /** The server begins with its settings. */
    const isServed = async () => {
      const socket = await connectTo();
      const served = await Promise.race([
        once(socket, "data").then(() => true),
        once(socket, "close").then(() => false),
      ]);
      return { socket, served };
    };
    await once(session, "connect");
    const taken = [await isServed(), await isServed()];
    expect(taken.map(({ served }) => served)).toEqual([true, true]);
    expect((await isServed()).served).toBe(false);
    taken[0]!.socket.destroy();
    await waitFor(async () => (await isServed()).served, { what: "a connection to be taken again" });
  });
});
