import { afterAll, beforeAll, expect, it } from "vitest";
import { connect, type OplogClient } from "../../src/client/client.js";
import { OplogRpcError } from "../../src/client/errors.js";
import { freePort, startOplogd } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";

const LOGS_MAX = 20;
let oplogd: Awaited<ReturnType<typeof startOplogd>>;
let client: OplogClient;
let metrics: string;

beforeAll(async () => {
  const admin = `127.0.0.1:${await freePort()}`;
  oplogd = await startOplogd({ args: ["--logs-max", String(LOGS_MAX), "--admin-listen", admin] });
  metrics = `http://${admin}/metrics`;
  client = connect(oplogd.target);
}, 30_000);
afterAll(async () => {
  client?.close();
  await oplogd?.stop();
});

async function logsInMetrics(): Promise<Set<string>> {
  const text = await (await fetch(metrics)).text();
  return new Set([...text.matchAll(/^oplog_\w+\{[^}]*\blog="([^"]+)"/gm)].map(([, log]) => log!));
}

/** Again while all places are taken. */
async function patiently<T>(call: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof OplogRpcError && error.reason === "TOO_MANY")) throw error;
      expect(error.retryAfterMs).toBeGreaterThan(0);
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
  }
}

it("serves three times as many logs as may be open, and keeps no series of those that were left", async () => {
  const names = Array.from({ length: 3 * LOGS_MAX }, (_, index) => `log-${index}`);
  for (const log of names) await patiently(() => client.append({ log, entries: [{ key: "k", opType: 1 }] }));
  for (const log of [names[0]!, names[LOGS_MAX]!]) {
    const { firstSequenceId, term } = await patiently(() => client.append({ log, entries: [{ key: "k", opType: 1 }] }));
    expect([firstSequenceId, term]).toEqual([2n, 1n]);
    expect((await client.read({ log })).headSequenceId).toBe(2n);
  }
  await waitFor(async () => (await logsInMetrics()).size <= LOGS_MAX, { what: "the series of closed logs to end" });
}, 60_000);

it("keeps no series of logs that do not exist and were subscribed to", async () => {
  for (let round = 0; round < 5; round++) {
    const left = new AbortController();
    const streams = Array.from({ length: LOGS_MAX }, async (_, index) => {
      try {
        for await (const _ of client.subscribe({ log: `missing-${round}-${index}` }, { signal: left.signal })) break;
      } catch (error) {
        if (!(error instanceof OplogRpcError)) throw error;
      }
    });
    await Promise.all(streams);
    left.abort();
  }
  await waitFor(async () => (await logsInMetrics()).size <= LOGS_MAX, { what: "the series to end" });
}, 60_000);
