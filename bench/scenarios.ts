import type { Etcd } from "../launch/etcd.js";
import type { Oplogd } from "../launch/oplogd.js";
import type { Measured } from "./generator.js";
import { LoadProcess } from "./load-process.js";
import type { Timing } from "./window.js";

export type StoreName = "etcd" | "embedded";

/** What a scenario runs against. */
export interface Bench {
  readonly store: StoreName;
  readonly oplogd: Oplogd;
  readonly etcd: Etcd | undefined;
  readonly timing: Timing;
  readonly historyEntries: number;
  readonly round: number;
}

export interface Scenario {
  readonly name: string;
  readonly stores: readonly StoreName[];
  run(bench: Bench): Promise<Measured>;
}

export const ETCD_PUTS = "raw etcd put";
export const HISTORY_LOG = "bench-history";
export const HISTORY_BATCH = 100;
const BOTH: readonly StoreName[] = ["etcd", "embedded"];
/** Bytes in flight stay near what the sidecar reads ahead. */
const STREAM_IN_FLIGHT = { single: 1024, batch: 128 };
const DELIVERY_PER_SECOND = 500;

/** In the order in which each round runs them. */
export const SCENARIOS: readonly Scenario[] = [
  ...[1, 64, 256].map((inFlight) => etcdPuts(inFlight)),
  streamed(1, STREAM_IN_FLIGHT.single),
  streamed(100, STREAM_IN_FLIGHT.batch),
  unary(1),
  unary(64),
  { name: `delivery at ${DELIVERY_PER_SECOND}/s, second subscriber`, stores: BOTH, run: delivery },
  { name: "history, one subscriber", stores: BOTH, run: history },
];

/** What the history scenario reads. The sidecar starts anew, so that nothing of it is in its memory. */
export async function writeHistory({ oplogd, timing, historyEntries }: Omit<Bench, "round">): Promise<void> {
  await LoadProcess.run("fillLog", {
    target: oplogd.target,
    log: HISTORY_LOG,
    entriesPerAppend: HISTORY_BATCH,
    inFlight: STREAM_IN_FLIGHT.batch,
    appends: historyEntries / HISTORY_BATCH,
    ...timing,
  });
  await oplogd.restart();
}

function etcdPuts(inFlight: number): Scenario {
  return {
    name: `${ETCD_PUTS}, ${inFlight} in flight`,
    stores: ["etcd"],
    run: ({ etcd, timing, round }) =>
      LoadProcess.run("putIntoEtcd", {
        endpoints: etcd!.endpoints,
        prefix: `/bench-${process.pid}/puts-${inFlight}-${round}/`,
        inFlight,
        ...timing,
      }),
  };
}

function streamed(entriesPerAppend: number, inFlight: number): Scenario {
  const log = `bench-stream-${entriesPerAppend}`;
  return {
    name: `AppendStream, ${entriesPerAppend} per message`,
    stores: BOTH,
    run: ({ oplogd: { target }, timing }) =>
      LoadProcess.run("appendStream", { target, log, entriesPerAppend, inFlight, appends: Infinity, ...timing }),
  };
}

function unary(inFlight: number): Scenario {
  const log = `bench-unary-${inFlight}`;
  return {
    name: `Append, ${inFlight} in flight`,
    stores: BOTH,
    run: ({ oplogd: { target }, timing }) =>
      LoadProcess.run("appendUnary", { target, log, entriesPerAppend: 1, inFlight, appends: Infinity, ...timing }),
  };
}

async function delivery({ oplogd: { target }, timing }: Bench): Promise<Measured> {
  const load = { target, log: "bench-delivery", entriesPerSecond: DELIVERY_PER_SECOND, ...timing };
  const subscribers = [0, 1].map(() => LoadProcess.start("followDelivery", load));
  await Promise.all(subscribers.map(({ ready }) => ready));
  await LoadProcess.run("sendPaced", load);
  for (const subscriber of subscribers) subscriber.stop();
  const [, second] = await Promise.all(subscribers.map(({ measured }) => measured));
  return second!;
}

function history({ oplogd: { target }, historyEntries }: Bench): Promise<Measured> {
  return LoadProcess.run("readHistory", { target, log: HISTORY_LOG, entries: historyEntries });
}
