import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import type { FollowEvent } from "../../src/client/follow.js";
import { OpType } from "../../src/gen/oplog/v1/entry_pb.js";
import type { Oplogd } from "../support/oplogd.js";
import { scaled } from "./scale.js";
import { aClientOf, aFaultProxy, anEtcd, anOplogd } from "./stage.js";

const LOG = "passing-by";
const MEBIBYTE = 1 << 20;
const ENTRY_BYTES = 64 * 1024;
const ENTRIES_PER_APPEND = 8;
const CACHE_BYTES = 16 * MEBIBYTE;
const BUFFER_BYTES = 4 * MEBIBYTE;
/** Garbage of frames that have left the cache and have not been collected yet. */
const SLACK_BYTES = 128 * MEBIBYTE;
/** Short rounds on a busy machine tell a stall from none, and not more. */
const RATIO_MIN = scaled(0.5, 0.7);
const ROUNDS = 6;
const DESCRIPTORS = Buffer.alloc(2 * ENTRY_BYTES, "replica of a block, node 10.0.0.1, segment 4711; ");

it.each([
  ["embedded", scaled(300, 2048) * MEBIBYTE],
  ["etcd", scaled(120, 512) * MEBIBYTE],
] as const)(
  "neither grows nor slows down for subscribers that never read, on %s",
  { timeout: scaled(120_000, 1_200_000) },
  async (store, totalBytes) => {
    const [blocked, free] = await Promise.all([aSidecar(store), aSidecar(store)]);
    const roundEntries = Math.ceil(totalBytes / ENTRY_BYTES / ROUNDS);
    // Both have run warm before anything is compared.
    const warmUp = Math.ceil((2 * CACHE_BYTES) / ENTRY_BYTES);
    for (const { client } of [blocked, free]) await append(client, warmUp);
    const stuck = await aSubscriberThatNeverIterates(blocked.client);
    const deaf = await aSubscriberBehindADeafConnection(blocked.oplogd);
    const memory = { blocked: new MemoryWatch(blocked.oplogd), free: new MemoryWatch(free.oplogd) };
    const rates = { blocked: [] as number[], free: [] as number[] };
    for (let round = 0; round < ROUNDS; round++) {
      const first = round % 2 === 0 ? "blocked" : "free";
      for (const which of first === "blocked" ? (["blocked", "free"] as const) : (["free", "blocked"] as const)) {
        rates[which].push(await append((which === "blocked" ? blocked : free).client, roundEntries));
      }
    }
    const peaks = { blocked: memory.blocked.stop(), free: memory.free.stop() };
    // Of rounds side by side, so that what else goes on in the machine falls on both.
    const ratio = median(rates.blocked.map((rate, round) => rate / rates.free[round]!));
    process.stdout.write(
      `${store}: ${Math.round(totalBytes / MEBIBYTE)} MiB passed by; RssAnon at most ${inMiB(peaks.blocked)} with them, ` +
        `${inMiB(peaks.free)} without; ${inMiB(median(rates.blocked))}/s with, ${inMiB(median(rates.free))}/s without (ratio ${ratio.toFixed(2)})\n`,
    );

    // The cache, which is there for them, and what is on its way to each of the two.
    expect(peaks.blocked).toBeLessThan(peaks.free + CACHE_BYTES + 2 * BUFFER_BYTES + SLACK_BYTES);
    expect(ratio).toBeGreaterThanOrEqual(RATIO_MIN);

    // Both start to read in the end, and nothing is missing.
    const head = warmUp + ROUNDS * roundEntries;
    deaf.hear();
    await Promise.all([readContiguous(stuck, head), readContiguous(deaf.events, head)]);
  },
);

async function aSidecar(store: "embedded" | "etcd") {
  const args = ["--subscribe-cache-bytes-max", `${CACHE_BYTES}`, "--subscribe-buffer-bytes-max", `${BUFFER_BYTES}`];
  const etcd = store === "etcd" ? await anEtcd(["--quota-backend-bytes", String(8 * 1024 * MEBIBYTE)]) : undefined;
  const oplogd = await anOplogd({ args, ...(etcd === undefined ? {} : { store: { etcd: etcd.endpoint } }) });
  return { oplogd, client: aClientOf(oplogd) };
}

/** Values that compress well: what is spared the disk falls on the sidecar. Returns the bytes per second. */
async function append(client: OplogClient, entries: number): Promise<number> {
  const appender = client.appender({ inFlightMax: 16 });
  const startedMs = performance.now();
  const failures: unknown[] = [];
  for (let done = 0; done < entries; done += ENTRIES_PER_APPEND) {
    const count = Math.min(ENTRIES_PER_APPEND, entries - done);
    const batch = Array.from({ length: count }, (_, index) => ({
      opType: OpType.PUT_END,
      key: `${done + index}`,
      payload: DESCRIPTORS.subarray((done + index) % ENTRY_BYTES, ((done + index) % ENTRY_BYTES) + ENTRY_BYTES),
    }));
    await appender.ready();
    appender.append({ log: LOG, entries: batch }).catch((error: unknown) => failures.push(error));
  }
  await appender.end();
  expect(failures).toEqual([]);
  return (entries * ENTRY_BYTES) / ((performance.now() - startedMs) / 1000);
}

/** Its connection lives, its stream is never read from: HTTP/2 flow control stops the sidecar. */
async function aSubscriberThatNeverIterates(client: OplogClient): Promise<AsyncGenerator<FollowEvent>> {
  const events = client.follow({ log: LOG, consumer: "stuck" });
  await events.next();
  return events;
}

/** Its connection is not read from at all: TCP stops the sidecar. */
async function aSubscriberBehindADeafConnection(oplogd: Oplogd) {
  const proxy = await aFaultProxy(oplogd.port);
  const client = aClientOf({ target: `127.0.0.1:${proxy.port}` });
  const events = client.follow({ log: LOG, consumer: "deaf" });
  await events.next();
  proxy.blackHole(true);
  return { events, hear: () => proxy.blackHole(false) };
}

async function readContiguous(events: AsyncGenerator<FollowEvent>, head: number): Promise<void> {
  let last = 0;
  for await (const event of events) {
    if (event.case !== "batch") continue;
    for (const { sequenceId } of event.value.entries) {
      if (Number(sequenceId) !== last + 1) throw new Error(`entry ${sequenceId} came after ${last}`);
      last++;
    }
    if (last === head) return;
  }
  throw new Error(`the subscriber ended at ${last}, the head is ${head}`);
}

/** RssAnon: what the process has allocated, without the pages of files that the store maps. */
function residentBytes({ pid }: Oplogd): number {
  const kibibytes = /^RssAnon:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  if (kibibytes === undefined) throw new Error(`/proc/${pid}/status has no RssAnon`);
  return Number(kibibytes) * 1024;
}

class MemoryWatch {
  private peak = 0;
  private readonly timer: NodeJS.Timeout;

  constructor(private readonly oplogd: Oplogd) {
    this.timer = setInterval(() => this.sample(), 20);
  }

  stop(): number {
    clearInterval(this.timer);
    this.sample();
    return this.peak;
  }

  private sample(): void {
    this.peak = Math.max(this.peak, residentBytes(this.oplogd));
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return (sorted[Math.floor(middle - 0.5)]! + sorted[Math.ceil(middle - 0.5)]!) / 2;
}

function inMiB(bytes: number): string {
  return `${Math.round(bytes / MEBIBYTE)} MiB`;
}
