import { type Client, Metadata, ServerCredentials } from "@grpc/grpc-js";
import { afterEach, expect, it } from "vitest";
import { openChannel } from "../../src/client/channel.js";
import { OplogRpcError } from "../../src/client/errors.js";
import { AdminService } from "../../src/gen/oplog/v1/admin_pb.js";
import { LeadershipService } from "../../src/gen/oplog/v1/leadership_pb.js";
import { OpLogService } from "../../src/gen/oplog/v1/oplog_pb.js";
import { StandbyService } from "../../src/gen/oplog/v1/standby_pb.js";
import type { AnsweringCall, Call } from "../../src/grpc/call.js";
import { methodsOf, type Services } from "../../src/grpc/methods.js";
import { RequestBudget } from "../../src/grpc/request-budget.js";
import { GrpcServer } from "../../src/grpc/server.js";
import { AnswerBudget } from "../../src/grpc/stream-writer.js";
import { systemClock } from "../../src/oplog/clock.js";
import { silentLogger } from "../../src/oplog/logger.js";
import { aborted } from "../../src/oplog/timing.js";
import { waitFor, within } from "../support/wait.js";

const SCAN = "/oplog.v1.StandbyService/ScanState";
const GET_LEADER = "/oplog.v1.LeadershipService/GetLeader";
const STREAMS_MAX = 2;
const LIMITS = { callsMax: 100, appendStreamsMax: 100, campaignsMax: 100, subscriptionsMax: STREAMS_MAX };
const TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

const takeDown: (() => unknown)[] = [];
afterEach(async () => {
  for (const each of takeDown.splice(0).reverse()) await each();
});

interface Handlers {
  readonly scanState?: (request: unknown, call: AnsweringCall) => Promise<void>;
  readonly getLeader?: (request: unknown, call?: Call) => Promise<object>;
}

/** The real pipeline and server, over handlers that do what the case needs. */
async function aServer({ scanState, getLeader }: Handlers) {
  const finished: string[] = [];
  const errors: object[] = [];
  const services = { opLog: {}, leadership: { getLeader }, standby: { scanState } } as unknown as Services;
  const grpc = new GrpcServer({
    methods: methodsOf(services, LIMITS),
    budget: new RequestBudget(1 << 20, 100),
    clock: systemClock,
    connectionsMax: 100,
    answers: new AnswerBudget(1 << 20),
    hasReflection: false,
    logger: { ...silentLogger, error: (line: object) => errors.push(line) } as typeof silentLogger,
    onFinished: (method, code) => finished.push(`${method} ${code}`),
  });
  const port = await new Promise<number>((resolve, reject) =>
    grpc.server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    ),
  );
  const client = openChannel(`127.0.0.1:${port}`);
  takeDown.push(
    () => client.close(),
    () => grpc.close(AbortSignal.abort()),
  );
  return { client, finished, errors };
}

const asIs = (bytes: Buffer) => bytes;
const NOTHING = Buffer.alloc(0);

function openStream(client: Client, path: string) {
  const stream = client.makeServerStreamRequest(path, asIs, asIs, NOTHING, new Metadata(), {});
  stream.on("data", () => undefined);
  const ended = new Promise<Error>((resolve) => stream.on("error", resolve));
  return { ended, cancel: () => stream.cancel() };
}

function ask(client: Client, path: string, metadata = new Metadata()): Promise<Error | undefined> {
  return new Promise((resolve) => {
    client.makeUnaryRequest(path, asIs, asIs, NOTHING, metadata, {}, (error) => resolve(error ?? undefined));
  });
}

it("has one row for each method of its services, and no other", () => {
  const rows = methodsOf({} as Services, LIMITS).map(({ descriptor }) => descriptor);
  const services = [OpLogService, LeadershipService, StandbyService, AdminService];
  expect(new Set(rows)).toEqual(new Set(services.flatMap(({ methods }) => methods)));
  expect(new Set(rows).size).toBe(rows.length);
});

it("refuses a stream beyond the limit of its kind, and takes one again when one has ended", async () => {
  const open: AnsweringCall[] = [];
  const { client, finished } = await aServer({
    scanState: async (_, call) => {
      open.push(call);
      await aborted(call.signal);
    },
  });
  const first = openStream(client, SCAN);
  openStream(client, SCAN);
  await waitFor(() => open.length === STREAMS_MAX, { what: "the streams to be open" });
  const ended = within(openStream(client, SCAN).ended, { what: "a refusal" });
  const refused = OplogRpcError.from(await ended) as OplogRpcError;
  expect(refused).toMatchObject({ reason: "TOO_MANY", metadata: { what: "scans of states", limit: "2" } });
  expect(refused.retryAfterMs).toBeGreaterThan(0);
  first.cancel();
  await waitFor(() => finished.includes("ScanState CANCELLED"), { what: "the first to end" });
  openStream(client, SCAN);
  await waitFor(() => open.length === STREAMS_MAX + 1, { what: "another to be taken" });
});

it("tells the handler of a client that has left", async () => {
  let call: AnsweringCall | undefined;
  const { client, finished } = await aServer({
    scanState: async (_, opened) => {
      call = opened;
      await aborted(opened.signal);
    },
  });
  const stream = openStream(client, SCAN);
  await waitFor(() => call, { what: "the stream to be open" });
  expect(call?.hasLeft).toBe(false);
  stream.cancel();
  await waitFor(() => finished.length > 0, { what: "the handler to notice" });
  expect(call?.hasLeft).toBe(true);
});

it("logs a defect with the peer and the trace of the call, and tells the client neither", async () => {
  const { client, errors, finished } = await aServer({
    getLeader: async () => {
      throw new TypeError("secret");
    },
  });
  const metadata = new Metadata();
  metadata.set("traceparent", TRACEPARENT);
  const failure = await within(ask(client, GET_LEADER, metadata), { what: "an answer" });
  expect(failure?.message).toContain("INTERNAL");
  expect(failure?.message).not.toContain("secret");
  expect(errors).toEqual([
    expect.objectContaining({ event: "call_failed", method: "GetLeader", traceparent: TRACEPARENT }),
  ]);
  expect(errors[0]).toMatchObject({ peer: expect.stringMatching(/^127\.0\.0\.1:\d+$/) });
  expect(finished).toEqual(["GetLeader INTERNAL"]);
});
