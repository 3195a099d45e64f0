import { createHistogram } from "node:perf_hooks";
import { type Failover, type Replayed, STANDBYS, type TermOf, TTL_MS } from "./failover.js";
import type { Acknowledged } from "./master.js";
import type { Fault } from "./options.js";
import type { StandbyReport } from "./standby.js";

export interface Percentiles {
  readonly p50Ms: number;
  readonly p99Ms: number;
}

/** From the fault to the first acknowledgement of the next leader, in milliseconds, and what it was spent on. */
export interface RecoveryTime {
  readonly totalMs: number;
  /** Until the place was seen to be vacant. */
  readonly detectionMs: number;
  readonly fenceMs: number;
  readonly catchUpMs: number;
  readonly objectLeasesMs: number;
  readonly firstAppendMs: number;
}

export interface DemoReport {
  readonly store: string;
  readonly trace: string;
  readonly requests: number;
  /** Of the trace. */
  readonly operations: number;
  /** Operations. */
  readonly acknowledged: number;
  /** Operations in the log without an acknowledgement: the fault came between the two. */
  readonly unanswered: number;
  readonly lastAcknowledged: number;
  /** Operations that were acknowledged as new though they had been before. */
  readonly acknowledgedTwice: number;
  readonly fault: Fault;
  readonly recovery?: RecoveryTime;
  /** What the paused master was told when it ran again. */
  readonly told?: string;
  readonly terms: readonly TermOf[];
  readonly standbys: readonly {
    readonly received: number;
    readonly lost: number;
    readonly duplicated: number;
    readonly skipped: number;
    readonly reconnects: number;
    readonly hash: string;
    readonly delivery: Percentiles;
    readonly failure?: string;
  }[];
  readonly lost: number;
  readonly duplicated: number;
  readonly hashEqual: boolean;
  readonly expectedHash: string;
  readonly stateHashEqual: boolean;
  readonly expectedStateHash: string;
  readonly stateHashes: readonly string[];
  readonly seconds: number;
  readonly operationsPerSecond: number;
  readonly megabytesPerSecond: number;
  readonly append: Percentiles;
}

export interface Run extends Replayed {
  readonly fault: Fault;
  readonly store: string;
  readonly trace: string;
  readonly requests: number;
}

export function reportOf(run: Run): DemoReport {
  const { whole, acknowledged, failover, stateHashes } = run;
  const seconds = Number(run.endedNs - run.startedNs) / 1e9;
  const lastAcknowledged = acknowledged.reduce((last, { lastSequenceId }) => Math.max(last, lastSequenceId), 0);
  const standbys = run.standbys.map(({ received, duplicated, skipped, reconnects, hash, arrivals, failure }) => ({
    received,
    lost: Math.max(0, lastAcknowledged - received),
    duplicated,
    skipped,
    reconnects,
    hash,
    delivery: deliveryOf(acknowledged, arrivals),
    ...(failure === undefined ? {} : { failure }),
  }));
  return {
    store: run.store,
    trace: run.trace,
    requests: run.requests,
    operations: whole.operations,
    acknowledged: acknowledged.reduce((sum, each) => sum + operationsOf(each), 0),
    unanswered: Math.max(0, whole.operations - distinct(acknowledged)),
    lastAcknowledged,
    acknowledgedTwice: twice(acknowledged),
    fault: run.fault,
    ...(failover === undefined ? {} : { recovery: recoveryOf(failover) }),
    ...(failover?.told === undefined ? {} : { told: failover.told }),
    terms: run.terms,
    standbys,
    lost: standbys.reduce((sum, { lost }) => sum + lost, 0) + run.acknowledgedTooLate,
    duplicated: standbys.reduce((sum, { duplicated }) => sum + duplicated, 0),
    hashEqual: standbys.every(({ hash }) => hash === whole.hash),
    expectedHash: whole.hash,
    stateHashEqual: stateHashes.length > 0 && stateHashes.every((hash) => hash === whole.stateHash),
    expectedStateHash: whole.stateHash,
    stateHashes,
    seconds,
    operationsPerSecond: whole.operations / seconds,
    megabytesPerSecond: whole.bytes / seconds / 1e6,
    append: percentiles(acknowledged.map(({ sentNs, acknowledgedNs }) => acknowledgedNs - sentNs)),
  };
}

export function isFlawless(report: DemoReport): boolean {
  const { standbys, operations, lastAcknowledged } = report;
  return (
    operations > 0 &&
    lastAcknowledged === operations &&
    report.lost === 0 &&
    report.duplicated === 0 &&
    report.acknowledgedTwice === 0 &&
    standbys.length === STANDBYS &&
    standbys.every(({ skipped, failure }) => skipped === 0 && failure === undefined) &&
    report.hashEqual &&
    report.stateHashEqual
  );
}

function operationsOf({ firstSequenceId, lastSequenceId }: Acknowledged): number {
  return lastSequenceId - firstSequenceId + 1;
}

function distinct(acknowledged: readonly Acknowledged[]): number {
  const inOrder = [...acknowledged].sort((one, other) => one.firstSequenceId - other.firstSequenceId);
  let upTo = 0;
  let count = 0;
  for (const { firstSequenceId, lastSequenceId } of inOrder) {
    count += Math.max(0, lastSequenceId - Math.max(upTo, firstSequenceId - 1));
    upTo = Math.max(upTo, lastSequenceId);
  }
  return count;
}

/** Whoever acknowledged them. */
function twice(acknowledged: readonly Acknowledged[]): number {
  const fresh = acknowledged.filter(({ isDuplicate }) => !isDuplicate);
  fresh.sort((one, other) => one.firstSequenceId - other.firstSequenceId);
  let upTo = 0;
  let count = 0;
  for (const { firstSequenceId, lastSequenceId } of fresh) {
    count += Math.max(0, Math.min(lastSequenceId, upTo) - firstSequenceId + 1);
    upTo = Math.max(upTo, lastSequenceId);
  }
  return count;
}

function recoveryOf({ faultNs, leadingNs, firstAcknowledgedNs, times }: Failover): RecoveryTime {
  const totalMs = Number(firstAcknowledgedNs - faultNs) / 1e6;
  const firstAppendMs = Math.max(0, Number(firstAcknowledgedNs - leadingNs) / 1e6);
  const { fenceMs, catchUpMs, objectLeasesMs } = times;
  const detectionMs = totalMs - firstAppendMs - fenceMs - catchUpMs - objectLeasesMs;
  return { totalMs, detectionMs, fenceMs, catchUpMs, objectLeasesMs, firstAppendMs };
}

export function formatReport(report: DemoReport): string {
  const { recovery, standbys, stateHashes } = report;
  const lines: [string, string][] = [
    ["store", report.store],
    ["trace", report.trace],
    ["acknowledged", `${count(report.acknowledged)} operations of ${count(report.requests)} requests`],
    ...(report.unanswered === 0
      ? []
      : [
          ["", `${count(report.unanswered)} more are in the log; the fault came before their answer`] as [
            string,
            string,
          ],
        ]),
    ...(report.lastAcknowledged === report.operations
      ? []
      : [["", `up to ${count(report.lastAcknowledged)} of ${count(report.operations)}`] as [string, string]]),
    ...(recovery === undefined ? [] : [["failover", describe(report.fault, recovery)] as [string, string]]),
    ...(report.told === undefined
      ? []
      : [["paused master", `told, when it ran again: ${report.told}`] as [string, string]]),
    [
      "terms",
      report.terms
        .map(({ term, leader, fromSequenceId }) => `${term}: ${leader} from ${count(fromSequenceId)}`)
        .join("; "),
    ],
    ...standbys.map(({ received, skipped, reconnects, failure }, index): [string, string] => [
      `standby ${index + 1}`,
      `${count(received)} received${received === report.operations ? ", the whole log" : ""}, ${skipped} skipped, ` +
        `${reconnects} reconnects${failure === undefined ? "" : `; ${failure}`}`,
    ]),
    ["lost", `${count(report.lost)} that were acknowledged and a standby did not receive`],
    ["duplicated", `${count(report.duplicated)} that a standby received twice`],
    ...(report.acknowledgedTwice === 0 ? [] : [["acked twice", count(report.acknowledgedTwice)] as [string, string]]),
    ["hash equal", report.hashEqual ? `yes  ${report.expectedHash}` : `NO  expected ${report.expectedHash}`],
    ...(report.hashEqual ? [] : standbys.map(({ hash }, index): [string, string] => [`  standby ${index + 1}`, hash])),
    [
      "state equal",
      report.stateHashEqual ? `yes  ${report.expectedStateHash}` : `NO  expected ${report.expectedStateHash}`,
    ],
    ...(report.stateHashEqual
      ? []
      : stateHashes.map((hash, index): [string, string] => [`  sidecar ${index + 1}`, hash])),
    [
      "throughput",
      `${count(report.operationsPerSecond)} operations/s, ${report.megabytesPerSecond.toFixed(1)} MB/s of keys and ` +
        `payloads, in ${report.seconds.toFixed(1)} s${recovery === undefined ? "" : " with the failover"}`,
    ],
    ["append", `${milliseconds(report.append)}  from sent to acknowledged`],
    ...standbys.map(({ delivery }, index): [string, string] => [
      `delivery ${index + 1}`,
      `${milliseconds(delivery)}  from sent to received by standby ${index + 1}`,
    ]),
  ];
  return `${lines.map(([name, value]) => `${name.padEnd(15)}${value}`).join("\n")}\n`;
}

function describe(fault: Fault, recovery: RecoveryTime): string {
  const what = fault === "kill" ? "SIGKILL" : `SIGSTOP for ${(3 * TTL_MS) / 1000} s`;
  const stages = [
    ["detection", recovery.detectionMs],
    ["fence", recovery.fenceMs],
    ["catch-up", recovery.catchUpMs],
    ["object leases", recovery.objectLeasesMs],
    ["first append", recovery.firstAppendMs],
  ] as const;
  const split = stages.map(([stage, ms]) => `${stage} ${count(ms)}`).join(", ");
  return `${what} half-way (TTL ${TTL_MS / 1000} s); ${count(recovery.totalMs)} ms to the next acknowledgement: ${split}`;
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
