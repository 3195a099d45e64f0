import { createHistogram } from "node:perf_hooks";
import type { Acknowledged } from "./master.js";
import type { Replayed } from "./replay.js";
import type { StandbyReport } from "./standby.js";

export interface Percentiles {
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export interface DemoReport {
  readonly store: string;
  readonly trace: string;
  readonly requests: number;
  readonly acknowledged: number;
  readonly standbys: readonly {
    readonly received: number;
    readonly lost: number;
    readonly duplicated: number;
    readonly reconnects: number;
    readonly hash: string;
    readonly delivery: Percentiles;
    readonly failure?: string;
  }[];
  readonly lost: number;
  readonly duplicated: number;
  readonly hashEqual: boolean;
  readonly expectedHash: string;
  readonly seconds: number;
  readonly operationsPerSecond: number;
  readonly megabytesPerSecond: number;
  readonly append: Percentiles;
  readonly crash?: {
    readonly recoveryMs: number;
    readonly resent: number;
    readonly alreadyCommitted: number;
  };
}

export interface Run extends Replayed {
  readonly store: string;
  readonly trace: string;
  readonly requests: number;
}

export function reportOf({ master, crashedNs, ...run }: Run): DemoReport {
  const expectedHash = master.expectedHash();
  const seconds = Number(run.endedNs - run.startedNs) / 1e9;
  const standbys = run.standbys.map(({ received, duplicated, reconnects, hash, arrivals, failure }) => ({
    received,
    lost: Math.max(0, master.operations - received),
    duplicated,
    reconnects,
    hash,
    delivery: deliveryOf(master.acknowledged, arrivals),
    ...(failure === undefined ? {} : { failure }),
  }));
  const crash = crashedNs !== undefined && {
    recoveryMs: Number(master.reconnectedNs - crashedNs) / 1e6,
    resent: master.resent,
    alreadyCommitted: master.duplicates,
  };
  return {
    store: run.store,
    trace: run.trace,
    requests: run.requests,
    acknowledged: master.operations,
    standbys,
    lost: standbys.reduce((sum, { lost }) => sum + lost, 0),
    duplicated: standbys.reduce((sum, { duplicated }) => sum + duplicated, 0),
    hashEqual: standbys.every(({ hash }) => hash === expectedHash),
    expectedHash,
    seconds,
    operationsPerSecond: master.operations / seconds,
    megabytesPerSecond: master.bytes / seconds / 1e6,
    append: percentiles(master.acknowledged.map(({ sentNs, acknowledgedNs }) => acknowledgedNs - sentNs)),
    ...(crash ? { crash } : {}),
  };
}

export function isFlawless(report: DemoReport): boolean {
  return report.lost === 0 && report.duplicated === 0 && report.hashEqual && report.acknowledged > 0;
}

export function formatReport(report: DemoReport): string {
  const { crash, standbys } = report;
  const lines: [string, string][] = [
    ["store", report.store],
    ["trace", report.trace],
    ["acknowledged", `${count(report.acknowledged)} operations of ${count(report.requests)} requests`],
    ...standbys.map(({ received, reconnects, failure }, index): [string, string] => [
      `standby ${index + 1}`,
      `${count(received)} received, ${reconnects} reconnects${failure === undefined ? "" : `; ${failure}`}`,
    ]),
    ["lost", count(report.lost)],
    ["duplicated", count(report.duplicated)],
    ["hash equal", report.hashEqual ? `yes  ${report.expectedHash}` : `NO  expected ${report.expectedHash}`],
    ...(report.hashEqual ? [] : standbys.map(({ hash }, index): [string, string] => [`  standby ${index + 1}`, hash])),
    ...(crash === undefined
      ? []
      : [
          [
            "crash",
            `SIGKILL half-way; ${Math.round(crash.recoveryMs)} ms to the next acknowledgement; ` +
              `${crash.resent} appends sent again, ${crash.alreadyCommitted} of them had been committed`,
          ] as [string, string],
        ]),
    [
      "throughput",
      `${count(report.operationsPerSecond)} operations/s, ${report.megabytesPerSecond.toFixed(1)} MB/s of keys and ` +
        `payloads, in ${report.seconds.toFixed(1)} s${crash === undefined ? "" : " with the crash"}`,
    ],
    ["append", `${milliseconds(report.append)}  from sent to acknowledged`],
    ...standbys.map(({ delivery }, index): [string, string] => [
      `delivery ${index + 1}`,
      `${milliseconds(delivery)}  from sent to received by standby ${index + 1}`,
    ]),
  ];
  return `${lines.map(([name, value]) => `${name.padEnd(14)}${value}`).join("\n")}\n`;
}

/** Of each append: from when the master first sent it until the standby had all of it. */
function deliveryOf(acknowledged: readonly Acknowledged[], arrivals: StandbyReport["arrivals"]): Percentiles {
  const delays: bigint[] = [];
  let at = 0;
  for (const { lastSequenceId, sentNs } of acknowledged) {
    while (at < arrivals.length && arrivals[at]!.lastSequenceId < lastSequenceId) at++;
    const arrival = arrivals[at];
    if (arrival !== undefined) delays.push(arrival.receivedNs - sentNs);
  }
  return percentiles(delays);
}

function percentiles(valuesNs: readonly bigint[]): Percentiles {
  const histogram = createHistogram();
  for (const value of valuesNs) histogram.record(value > 0n ? value : 1n);
  return { p50Ms: histogram.percentile(50) / 1e6, p99Ms: histogram.percentile(99) / 1e6 };
}

function milliseconds({ p50Ms, p99Ms }: Percentiles): string {
  return `p50 ${p50Ms.toFixed(1)} ms, p99 ${p99Ms.toFixed(1)} ms`;
}

function count(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}
