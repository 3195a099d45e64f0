import { type ClientHttp2Session, connect as connectHttp2 } from "node:http2";
import { create, toBinary } from "@bufbuild/protobuf";
import { expect, it } from "vitest";
import { SubscribeRequestSchema } from "../../src/gen/oplog/v1/oplog_pb.js";
import { inMiB, MEBIBYTE, peakOf, residentBytes } from "../support/resident-memory.js";
import { waitFor } from "../support/wait.js";
import { scaled } from "./scale.js";
import { aClientOf, anOplogd, atEnd, put } from "./stage.js";

const LOG = "unread";
const SUBSCRIBERS = scaled(100, 1000);
const SUBSCRIBERS_PER_CONNECTION = 50;
const CACHE_BYTES = 4 * MEBIBYTE;
const BUFFERS_BYTES = 64 * MEBIBYTE;
/** What HTTP/2 and grpc-js hold of a call, and the message that each may always have on its way. */
const SUBSCRIBER_BYTES = 128 * 1024 + 2 * 128 * 1024;
/** Pages of history, of all who read it. */
const PAGES_BYTES = 16 * 4 * MEBIBYTE;
const SLACK_BYTES = 96 * MEBIBYTE;
const request = toBinary(
  SubscribeRequestSchema,
  create(SubscribeRequestSchema, { log: LOG, start: { case: "fromBeginning", value: true } }),
);

it(`holds no more than promised for ${SUBSCRIBERS} subscribers that do not read`, { timeout: 240_000 }, async () => {
  const args = ["--subscribe-cache-bytes-max", `${CACHE_BYTES}`, "--subscribe-buffers-bytes-max", `${BUFFERS_BYTES}`];
  // One more than those that do not read.
  args.push("--subscribe-streams-max", `${SUBSCRIBERS + 1}`);
  const oplogd = await anOplogd({ args });
  const client = aClientOf(oplogd);
  for (let written = 0; written < 64; written++) {
    await client.append({
      log: LOG,
      entries: Array.from({ length: 60 }, (_, index) => put(`${index}`, "x".repeat(4096))),
    });
  }
  const before = residentBytes(oplogd);
  const open = async () =>
    ((await client.getStatus({ log: LOG }, { deadlineMs: 60_000 })).log?.subscribers ?? []).length;
  for (let opened = 0; opened < SUBSCRIBERS; opened += SUBSCRIBERS_PER_CONNECTION) {
    const session = connectHttp2(`http://${oplogd.target}`);
    atEnd(() => session.destroy());
    for (let each = 0; each < SUBSCRIBERS_PER_CONNECTION; each++) subscribeWithoutReading(session);
    // One after the other, for it is memory that is measured, and not a storm.
    const all = opened + SUBSCRIBERS_PER_CONNECTION;
    await waitFor(async () => (await open()) === all, { deadlineMs: 60_000, what: "all to have subscribed" });
  }
  const peak = await peakOf(oplogd, before + BUFFERS_BYTES / 2, 120_000);
  process.stdout.write(
    `${SUBSCRIBERS} subscribers that do not read: RssAnon ${inMiB(before)}, then at most ${inMiB(peak)}\n`,
  );
  const shared = CACHE_BYTES + BUFFERS_BYTES + PAGES_BYTES + SLACK_BYTES;
  expect(peak).toBeLessThan(before + shared + SUBSCRIBERS * SUBSCRIBER_BYTES);
  // Who reads is served beside them.
  const beganMs = performance.now();
  let next = 1n;
  for await (const event of client.follow({ log: LOG, consumer: "reader" })) {
    if (event.case !== "batch") continue;
    next = event.value.lastSequenceId + 1n;
    if (next > 64n * 60n) break;
  }
  const servedMs = performance.now() - beganMs;
  process.stdout.write(`one who reads beside them has all of it after ${Math.round(servedMs)} ms\n`);
  expect(servedMs).toBeLessThan(30_000);
});

function subscribeWithoutReading(session: ClientHttp2Session): void {
  const stream = session.request({
    ":method": "POST",
    ":path": "/oplog.v1.OpLogService/Subscribe",
    "content-type": "application/grpc",
    te: "trailers",
  });
  stream.on("error", () => undefined);
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(request.length, 1);
  stream.end(Buffer.concat([prefix, request]));
}
