import { createHistogram } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "../src/client/client.js";
import { entryOf, randomPayload } from "./entry-bytes.js";
import type { Measured } from "./generator.js";
import type { Timing } from "./window.js";

export interface DeliveryLoad extends Timing {
  readonly target: string;
  readonly log: string;
  readonly entriesPerSecond: number;
}

/** Entries at a steady rate, one per append; each carries when it was due, by the machine's monotonic clock. */
export async function sendPaced(load: DeliveryLoad): Promise<Measured> {
  const client = connect(load.target);
  const appender = client.appender();
  const intervalNs = BigInt(Math.round(1e9 / load.entriesPerSecond));
  const startNs = process.hrtime.bigint();
  const endNs = startNs + BigInt(Math.round(load.warmUpMs + load.measureMs)) * 1_000_000n;
  const pending: Promise<unknown>[] = [];
  for (let dueNs = startNs; dueNs < endNs; dueNs += intervalNs) {
    while (process.hrtime.bigint() < dueNs) await sleep(1);
    const payload = randomPayload();
    payload.writeBigUInt64BE(process.hrtime.bigint());
    pending.push(appender.append({ log: load.log, entries: [entryOf(payload, pending.length)] }));
  }
  await Promise.all(pending);
  await appender.end();
  client.close();
  return { entries: pending.length };
}

/** Follows from the head until stopped: from sent to received, without the warm-up. */
export async function followDelivery(
  load: DeliveryLoad,
  isReady: () => void,
  stopped: Promise<void>,
): Promise<Measured> {
  const client = connect(load.target);
  const stop = new AbortController();
  void stopped.then(() => stop.abort());
  const delays = createHistogram();
  let measuredFromNs: bigint | undefined;
  const start = { case: "fromHead", value: true } as const;
  for await (const event of client.follow({ log: load.log, start }, { signal: stop.signal })) {
    if (event.case === "caughtUp") isReady();
    if (event.case !== "batch") continue;
    const nowNs = process.hrtime.bigint();
    measuredFromNs ??= nowNs + BigInt(Math.round(load.warmUpMs)) * 1_000_000n;
    if (nowNs < measuredFromNs) continue;
    for (const { payload } of event.value.entries) {
      const sentNs = Buffer.from(payload.buffer, payload.byteOffset, payload.length).readBigUInt64BE();
      delays.record(nowNs - sentNs);
    }
  }
  client.close();
  return { p50Ms: delays.percentile(50) / 1e6, p99Ms: delays.percentile(99) / 1e6, entries: delays.count };
}
