import { readdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import type { Client } from "@grpc/grpc-js";
import { expect, it } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import type { Oplogd } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";
import { aChannelTo, CampaignCall } from "./campaign-call.js";
import { scaled } from "./scale.js";
import { aClientOf, anEtcd, anOplogd, put } from "./stage.js";

const LOG = "for-long";
const PROBE = join(import.meta.dirname, "../support/heap-probe.mjs");
/** Until the caches are full and the code is compiled. */
const WARM_UP_ROUNDS = 4;
const ROUNDS = scaled(6, 40);
/**
 * What a round may leave behind: less than a hundred bytes for each of its calls. The embedded store remembers its newest
 * changes besides, up to 64 MiB, which are never reached here.
 */
const ROUND_BYTES_MAX = { etcd: 20_000, embedded: 50_000 };
/** A round cancels 100 streams. After the first thousand, HTTP/2 takes more than 33 a second for an attack (rapid reset). */
const ROUND_MS_MIN = scaled(0, 3_500);
const CALLS = { appends: 100, subscribers: 50, statuses: 25, campaigns: 5, refused: 50, reads: 25 };

it.each(["embedded", "etcd"] as const)(
  "holds as much after many rounds of everything as after a few, on %s",
  { timeout: scaled(120_000, 900_000) },
  async (store) => {
    const etcd = store === "etcd" ? await anEtcd() : undefined;
    const oplogd = await anOplogd({
      args: ["--subscribe-cache-bytes-max", "64KiB", "--tail-head-poll", "50ms", "--views", "view"],
      nodeArgs: ["--no-opt", "--no-sparkplug", "--expose-gc", "--import", PROBE],
      ...(etcd === undefined ? {} : { store: { etcd: etcd.endpoint } }),
    });
    const client = aClientOf(oplogd);
    const channel = aChannelTo(oplogd);
    const held: Held[] = [];
    for (let round = 0; round < WARM_UP_ROUNDS + ROUNDS; round++) {
      if (round >= WARM_UP_ROUNDS) held.push(await heldBy(oplogd));
      await Promise.all([everythingOnce(client, channel, round), pause(ROUND_MS_MIN)]);
    }
    held.push(await heldBy(oplogd));
    const bytes = held.map(({ heapUsed, arrayBuffers }) => heapUsed + arrayBuffers);
    process.stdout.write(`${store}: ${bytes.map((each) => Math.round(each / 1024)).join(", ")} KiB\n`);
    // The middle one of three, since compiled code comes and goes.
    const grown = bytes.slice(-3).sort(byValue)[1]! - bytes.slice(0, 3).sort(byValue)[1]!;
    expect(grown / (ROUNDS - 2)).toBeLessThan(ROUND_BYTES_MAX[store]);
    expect(held.at(-1)!.descriptors).toBeLessThanOrEqual(held[0]!.descriptors + 2);
  },
);

const byValue = (a: number, b: number) => a - b;

interface Held {
  readonly heapUsed: number;
  readonly arrayBuffers: number;
  readonly descriptors: number;
}

async function heldBy(oplogd: Oplogd): Promise<Held> {
  const probes = () => [...oplogd.log.matchAll(/^heap-probe (.*)$/gm)];
  const before = probes().length;
  await oplogd.kill("SIGUSR2");
  const probe = await waitFor(() => probes()[before], { what: "the heap to be told" });
  return { ...JSON.parse(probe![1]!), descriptors: readdirSync(`/proc/${oplogd.pid}/fd`).length };
}

async function everythingOnce(client: OplogClient, channel: Client, round: number): Promise<void> {
  const appender = client.appender();
  for (let index = 0; index < CALLS.appends; index++) {
    // What is remembered of a writer grows for as long as its window is not full.
    const writer = index === 0 ? { writerId: "writer", operationId: BigInt(round + 1) } : {};
    await appender.ready();
    void appender.append({ log: LOG, ...writer, entries: [put(`${index}`)] });
  }
  await appender.end();
  for (let index = 0; index < CALLS.subscribers; index++) {
    for await (const { frame } of client.subscribe({ log: LOG, start: { case: "fromSequenceId", value: 1n } })) {
      if (frame.case === "caughtUp") break;
    }
  }
  for (let index = 0; index < CALLS.statuses; index++) {
    await client.getStatus({ log: LOG });
    for await (const _ of client.watchStatus({ log: LOG })) break;
    for await (const _ of client.watchLeader({ log: LOG })) break;
  }
  for (let index = 0; index < CALLS.reads; index++) await client.read({ log: LOG, fromSequenceId: 1n });
  for (let index = 0; index < CALLS.refused; index++) {
    await client.append({ log: "../no", entries: [put("x")] }).catch(() => undefined);
  }
  for (let index = 0; index < CALLS.campaigns; index++) {
    const candidate = new CampaignCall(channel).stand({ log: "contested", id: "candidate" });
    await candidate.hears("leaseRenewed");
    candidate.halfClose();
    await candidate.end();
  }
}
