import { createHistogram, type RecordableHistogram } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { create, toBinary } from "@bufbuild/protobuf";
import { ensureBuilt, Oplogd } from "../launch/oplogd.js";
import { runProgram, tell, UsageError } from "../launch/program.js";
import { connect, type OplogClient } from "../src/client/client.js";
import { OplogRpcError } from "../src/client/errors.js";
import { OpType } from "../src/gen/oplog/v1/entry_pb.js";
import { AppendStreamRequestSchema } from "../src/gen/oplog/v1/oplog_pb.js";
import { StandbyPhase } from "../src/gen/oplog/v1/standby_pb.js";
import { randomPayload } from "./entry-bytes.js";

const USAGE = `Measures the set-up of object leases at a promotion, and the removal of objects that run out all at once, on a real
oplogd with the embedded store, while a master goes on appending.

Usage: npm run bench:leases -- [OBJECTS]   1,000,000 by default
`;
const OBJECTS = 1_000_000;
const LOG = "leases";
const LEASE_MS = 10_000;
const APPEND_ENTRIES = 500;
const IN_FLIGHT = 16;
/** Of the master that goes on. */
const PACE_MS = 5;
const KEPT_OBJECTS = 50;
const KEPT_LEASE_MS = 3_600_000n;
const POLL_MS = 20;

await runProgram("bench:leases", USAGE, parseObjects, measure);

function parseObjects(argv: readonly string[]): number | undefined {
  if (argv[0] === "--help" || argv[0] === "-h") return undefined;
  const objects = Number(argv[0] ?? OBJECTS);
  if (!Number.isInteger(objects) || objects < 1 || argv.length > 1) throw new UsageError(USAGE);
  return objects;
}

async function measure(objects: number): Promise<void> {
  await ensureBuilt(tell);
  const oplogd = await Oplogd.start(undefined, ["--views", LOG, "--object-lease-default", `${LEASE_MS}ms`]);
  const client = connect(oplogd.target);
  tell(`putting ${objects} objects`);
  const [, fillMs] = await timed(() => fill(client, objects));
  await stateWhere(client, (state) => state.phase === StandbyPhase.FOLLOWING && Number(state.keys) === objects);
  report("put", objects, fillMs);

  const campaignedMs = performance.now();
  const campaign = client.campaign({ log: LOG, id: "bench", noHandshake: true });
  let lead: () => void = () => undefined;
  const promoted = new Promise<void>((resolve) => {
    lead = resolve;
  });
  const campaigning = (async () => {
    for await (const { message } of campaign) if (message.case === "leading") lead();
  })();
  await Promise.race([promoted, campaigning]);
  const promotedMs = performance.now();
  const setUp = eventOf(oplogd, "object_leases_set_up");
  process.stdout.write(`from Campaign to Leading: ${(promotedMs - campaignedMs).toFixed(0)} ms\n`);
  process.stdout.write(`  of that the set-up of ${setUp.objects} leases: ${Number(setUp.tookMs).toFixed(3)} ms\n`);

  const before = createHistogram();
  const during = createHistogram();
  const stop = new AbortController();
  let isRunningOut = false;
  const kept = keepAppending(oplogd.target, () => (isRunningOut ? during : before), stop.signal);
  await sleep(promotedMs + LEASE_MS - performance.now());
  isRunningOut = true;
  const [, evictedMs] = await timed(() => stateWhere(client, ({ keys }) => Number(keys) <= KEPT_OBJECTS));
  stop.abort();
  await kept;
  const { keys } = await client.getStateHash({ log: LOG });
  report("from the end of the leases to the last removal", objects, evictedMs);
  const evicted = eventOf(oplogd, "objects_evicted");
  process.stdout.write(
    `  ${evicted.batches} batches, appends held for ${evicted.heldMs} ms at most; ${keys} objects of the master remain\n` +
      `  appends one by one: ${percentiles(before)} before, ${percentiles(during)} meanwhile\n`,
  );
  campaign.resign();
  await campaigning;
  client.close();
  await oplogd.stop();
}

/** Without a lease of their own. */
async function fill(client: OplogClient, objects: number): Promise<void> {
  const stream = client.appendStream({ inFlightMax: IN_FLIGHT });
  const answered = (async () => {
    for await (const { outcome } of stream.answers) {
      if (outcome.case === "error") throw OplogRpcError.fromStreamStatus(outcome.value);
    }
  })();
  const payload = randomPayload();
  for (let from = 0; from < objects; from += APPEND_ENTRIES) {
    const entries = Array.from({ length: Math.min(APPEND_ENTRIES, objects - from) }, (_, index) => ({
      opType: OpType.PUT_END,
      key: `kv/block/${String(from + index).padStart(11, "0")}`,
      payload,
    }));
    const append = { log: LOG, entries };
    await stream.send(Buffer.from(toBinary(AppendStreamRequestSchema, create(AppendStreamRequestSchema, { append }))));
  }
  stream.end();
  await answered;
}

/** Objects that stay, again and again. */
async function keepAppending(target: string, histogram: () => RecordableHistogram, signal: AbortSignal): Promise<void> {
  const client = connect(target);
  for (let next = 0; !signal.aborted; next = (next + 1) % KEPT_OBJECTS) {
    const startedNs = process.hrtime.bigint();
    const entry = { opType: OpType.PUT_END, key: `kept/${next}`, leaseMs: KEPT_LEASE_MS };
    await client.append({ log: LOG, entries: [entry] });
    histogram().record(process.hrtime.bigint() - startedNs);
    await sleep(PACE_MS);
  }
  client.close();
}

type StateHash = Awaited<ReturnType<OplogClient["getStateHash"]>>;

async function stateWhere(client: OplogClient, holds: (state: StateHash) => boolean): Promise<StateHash> {
  for (;;) {
    const state = await client.getStateHash({ log: LOG });
    if (holds(state)) return state;
    await sleep(POLL_MS);
  }
}

/** The newest line of this event in the log of oplogd. */
function eventOf({ output }: Oplogd, event: string): Record<string, unknown> {
  const line = output.split("\n").findLast((each) => each.includes(`"event":"${event}"`));
  if (line === undefined) throw new Error(`oplogd has not logged ${event}:\n${output}`);
  return JSON.parse(line);
}

async function timed<T>(work: () => Promise<T>): Promise<[T, number]> {
  const startedMs = performance.now();
  return [await work(), performance.now() - startedMs];
}

function report(what: string, objects: number, tookMs: number): void {
  const perSecond = Math.round((objects * 1000) / tookMs).toLocaleString("en");
  process.stdout.write(`${what}: ${(tookMs / 1000).toFixed(2)} s, ${perSecond} objects/s\n`);
}

function percentiles(histogram: RecordableHistogram): string {
  const [median, high] = [50, 99].map((each) => (histogram.percentile(each) / 1e6).toFixed(1));
  return `median ${median} ms, 99 % ${high} ms, longest ${(histogram.max / 1e6).toFixed(1)} ms`;
}
