import { randomBytes } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { expect, it } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import { AppendStreamRequestSchema } from "../../src/gen/oplog/v1/oplog_pb.js";
import { freePort } from "../support/oplogd.js";
import { inMiB, MEBIBYTE, peakOf, residentBytes } from "../support/resident-memory.js";
import { waitFor, within } from "../support/wait.js";
import { scaled } from "./scale.js";
import { aClientOf, anEtcd, anOplogd, atEnd, failureOf, put } from "./stage.js";

const LOG = "held";
const STREAMS = scaled(100, 500);
const APPENDS_EACH = 16;
const PAYLOAD_BYTES = 250_000;
/** As the README sums it up. */
const STREAM_BYTES = 128 * 1024;
const QUEUE_BYTES = 64 * MEBIBYTE;
/** The appends of a record as they came, as they are stored, and on their way to etcd. */
const RECORD_COPIES_MAX = 7;
/** Garbage that has not been collected yet. */
const SLACK_BYTES = 96 * MEBIBYTE;

const request = Buffer.from(
  toBinary(
    AppendStreamRequestSchema,
    create(AppendStreamRequestSchema, { append: { log: LOG, entries: [put("big", "x".repeat(PAYLOAD_BYTES))] } }),
  ),
);

it(`holds no more than promised for ${STREAMS} streams that send into a stopped etcd`, {
  timeout: scaled(120_000, 300_000),
}, async () => {
  const { oplogd, etcd, client, heldBytes } = await aSidecar();
  await client.append({ log: LOG, entries: [put("first")] });
  const before = residentBytes(oplogd);
  etcd.pause();
  const clients = Array.from({ length: 10 }, () => aClientOf(oplogd));
  const streams = Array.from({ length: STREAMS }, (_, index) => aSendingStream(clients[index % 10]!, APPENDS_EACH));
  const peak = await peakOf(oplogd, before + QUEUE_BYTES / 2, 25_000);
  const held = await heldBytes();
  process.stdout.write(
    `${STREAMS} streams sent ${inMiB(STREAMS * APPENDS_EACH * request.length)}: RssAnon ${inMiB(before)}, then at most ` +
      `${inMiB(peak)}; counted ${inMiB(held)}\n`,
  );
  expect(held).toBeGreaterThan(QUEUE_BYTES / 2);
  expect(held).toBeLessThanOrEqual(QUEUE_BYTES);
  expect(peak).toBeLessThan(before + QUEUE_BYTES + STREAMS * STREAM_BYTES + SLACK_BYTES);
  // It can still be asked how it is.
  expect((await client.getStatus({})).sidecar).toBeDefined();

  for (const { cancel } of streams) cancel();
  etcd.resume();
  await waitFor(async () => (await heldBytes()) === 0, { deadlineMs: 20_000, what: "all to be given back" });
});

it("holds no more than promised for the records that many logs are writing into a stopped etcd", {
  timeout: 120_000,
}, async () => {
  const { oplogd, etcd, client, heldBytes } = await aSidecar();
  const logs = Array.from({ length: 64 }, (_, index) => `held-${index}`);
  for (const log of logs) await client.append({ log, entries: [put("first")] });
  const before = residentBytes(oplogd);
  etcd.pause();
  const appends = logs.map((log) =>
    client.append({ log, entries: [{ ...put("big"), payload: randomBytes(1_000_000) }] }, { deadlineMs: 60_000 }),
  );
  const settled = Promise.allSettled(appends);
  const peak = await peakOf(oplogd, before + QUEUE_BYTES / 2, 25_000);
  const held = await heldBytes();
  process.stdout.write(
    `${logs.length} logs: RssAnon ${inMiB(before)}, then at most ${inMiB(peak)}; counted ${inMiB(held)}\n`,
  );
  expect(held).toBeGreaterThan(QUEUE_BYTES / 2);
  expect(peak).toBeLessThan(before + RECORD_COPIES_MAX * QUEUE_BYTES + SLACK_BYTES);
  etcd.resume();
  for (const each of await settled) expect(each.status).toBe("fulfilled");
});

it("reads on where it was held up, in order and to the end, when the store takes writes again", {
  timeout: 60_000,
}, async () => {
  const { etcd, client, heldBytes } = await aSidecar(["--append-queue-bytes-max", `${2 * MEBIBYTE}`]);
  await client.append({ log: LOG, entries: [put("first")] });
  etcd.pause();
  const streams = Array.from({ length: 12 }, () => aSendingStream(client, 4));
  await waitFor(async () => (await heldBytes()) > MEBIBYTE, { what: "requests to be held" });
  etcd.resume();
  const answered = await within(Promise.all(streams.map(({ answers }) => answers)), {
    deadlineMs: 40_000,
    what: "answers",
  });
  expect(answered.flat()).toHaveLength(48);
  for (const ids of answered) expect(ids).toEqual([...ids].sort((a, b) => Number(a - b)));
  expect(await heldBytes()).toBe(0);
});

it("refuses calls that find no room, and says when to try again", { timeout: 60_000 }, async () => {
  const { etcd, client } = await aSidecar(["--append-queue-bytes-max", `${MEBIBYTE}`, "--append-bytes-max", "512KiB"]);
  await client.append({ log: LOG, entries: [put("first")] });
  etcd.pause();
  const calls = Array.from({ length: 8 }, (_, index) =>
    client.append({ log: LOG, entries: [put(`${index}`, "x".repeat(PAYLOAD_BYTES))] }, { deadlineMs: 30_000 }),
  );
  const settled = Promise.allSettled(calls);
  const refused = await failureOf(
    Promise.any(
      calls.map((call) =>
        call
          .then(
            () => Promise.reject(call),
            (error) => Promise.reject(error),
          )
          .catch((error: unknown) => error),
      ),
    ).then((error) => Promise.reject(error)),
  );
  expect(refused).toMatchObject({ code: "RESOURCE_EXHAUSTED", reason: "QUEUE_FULL" });
  expect(refused.retryAfterMs).toBeGreaterThan(0);
  etcd.resume();
  const outcomes = (await settled).map(({ status }) => status);
  expect(outcomes.filter((status) => status === "fulfilled")).toHaveLength(4);
  await client.append({ log: LOG, entries: [put("again", "x".repeat(PAYLOAD_BYTES))] });
});

async function aSidecar(args: readonly string[] = []) {
  const etcd = await anEtcd();
  const adminPort = await freePort();
  const admin = ["--admin-listen", `127.0.0.1:${adminPort}`];
  const oplogd = await anOplogd({ store: { etcd: etcd.endpoint }, args: [...admin, ...args] });
  // Whatever fails, nothing waits for a process that stands still.
  atEnd(() => etcd.resume());
  const heldBytes = async () => {
    const metrics = await (await fetch(`http://127.0.0.1:${adminPort}/metrics`)).text();
    return Number(/^oplog_append_queue_bytes (\d+)$/m.exec(metrics)?.[1]);
  };
  return { oplogd, etcd, client: aClientOf(oplogd), heldBytes };
}

/** Sends as fast as it is let; `answers` are the ids of what was acknowledged. */
function aSendingStream(client: OplogClient, appends: number) {
  const stream = client.appendStream({ inFlightMax: appends + 1 });
  const send = async () => {
    for (let sent = 0; sent < appends; sent++) await stream.send(request);
    stream.end();
  };
  const receive = async () => {
    const ids: bigint[] = [];
    for await (const { outcome } of stream.answers) {
      if (outcome.case === "appended") ids.push(outcome.value.firstSequenceId);
    }
    return ids;
  };
  send().catch(() => undefined);
  const answers = receive();
  answers.catch(() => undefined);
  return { answers, cancel: () => stream.cancel() };
}
