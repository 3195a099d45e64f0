import { setTimeout as sleep } from "node:timers/promises";
import { Oplogd } from "../launch/oplogd.js";
import { connect } from "../src/client/client.js";
import type { Acknowledged } from "./master.js";
import { type WholeLog, wholeLogOf } from "./operations.js";
import type { DemoOptions, Fault } from "./options.js";
import { Progress } from "./progress.js";
import type { PromotionTimes } from "./replica.js";
import { type ReplicaEvent, ReplicaProcess } from "./replica-process.js";
import type { StandbyReport } from "./standby.js";
import { StandbyProcess } from "./standby-process.js";
import type { TraceRequest } from "./trace.js";

export interface TermOf {
  readonly term: number;
  readonly leader: string;
  readonly fromSequenceId: number;
}

export interface Failover {
  readonly faultNs: bigint;
  readonly leadingNs: bigint;
  readonly firstAcknowledgedNs: bigint;
  readonly times: PromotionTimes;
  /** What the former leader was told when it ran again. */
  readonly told: string | undefined;
}

/** What came of it. Times are of the machine's monotonic clock. */
export interface Replayed {
  readonly whole: WholeLog;
  readonly acknowledged: readonly Acknowledged[];
  /** Acknowledged to a master whose term had ended before that entry. */
  readonly acknowledgedTooLate: number;
  readonly standbys: readonly StandbyReport[];
  readonly terms: readonly TermOf[];
  readonly failover: Failover | undefined;
  /** At the end, of each sidecar. */
  readonly stateHashes: readonly string[];
  readonly startedNs: bigint;
  readonly endedNs: bigint;
}

const LOG = "kv-cache";
export const TTL_MS = 2000;
export const STANDBYS = 2;
const PAUSE_MS = 3 * TTL_MS;
/** How far the first leader may go before the fault, so that something is left for the next one. */
const FIRST_SHARE = 0.75;
const STATE_MS_MAX = 30_000;
const SIDECAR_OPTIONS = ["--views", LOG, "--object-lease-default", "24h"];

/** Masters a and b: a leads and replays the first half of the trace, then the fault comes, and b goes on. */
export async function replay(
  { trace, requestsMax, fault }: DemoOptions,
  etcdEndpoints: string | undefined,
  requests: readonly TraceRequest[],
): Promise<Replayed> {
  const whole = wholeLogOf(requests);
  const first = await Oplogd.start(etcdEndpoints, SIDECAR_OPTIONS);
  const second = etcdEndpoints === undefined ? first : await Oplogd.start(etcdEndpoints, SIDECAR_OPTIONS);
  const isShared = first === second;
  const enter = (id: string, { target }: Oplogd) =>
    new ReplicaProcess({ target, log: LOG, id, ttlMs: TTL_MS, trace, requestsMax });
  const a = enter("a", first);
  await a.event("leading");
  const b = enter("b", second);
  await b.event("waiting");
  const standbys = Array.from(
    { length: STANDBYS },
    (_, index) => new StandbyProcess({ target: second.target, log: LOG, name: `standby-${index + 1}` }),
  );
  const progress = new Progress(() => {
    const received = standbys.map((standby) => standby.received).join(" and ");
    return `${Math.max(a.lastAcknowledged, b.lastAcknowledged)} of ${whole.operations} operations acknowledged, ${received} received`;
  });
  const startedNs = process.hrtime.bigint();
  a.allow(fault === "none" ? whole.operations : Math.ceil(whole.operations * FIRST_SHARE));
  b.allow(whole.operations);
  try {
    let failover: Failover | undefined;
    let again: ReplicaProcess | undefined;
    if (fault === "none") {
      await a.event("done");
    } else {
      await a.until(() => a.lastAcknowledged >= whole.operations / 2, "half of the operations were to be acknowledged");
      const faultNs = process.hrtime.bigint();
      await strike(fault, a, isShared ? undefined : first);
      const promoted = await promotionOf(b, faultNs);
      if (fault === "kill") {
        if (!isShared) await first.restart();
        again = enter("a", first);
        await again.event("waiting");
      }
      const told = fault === "pause" ? await resume(a, isShared ? undefined : first, faultNs) : undefined;
      failover = { ...promoted, told };
      await b.event("done");
    }
    const endedNs = process.hrtime.bigint();
    const reports = await Promise.all(standbys.map((standby) => standby.finish(whole.operations)));
    const sidecars = isShared ? [first] : [first, second];
    const stateHashes = await Promise.all(sidecars.map((sidecar) => stateHashAt(sidecar, whole.operations)));
    const terms = [a, b].flatMap(termsOf).sort((x, y) => x.term - y.term);
    await Promise.all([a, b, again].map((replica) => replica?.end()));
    return {
      whole,
      acknowledged: [...a.acknowledged, ...b.acknowledged],
      acknowledgedTooLate: tooLate(a.acknowledged, terms),
      standbys: reports,
      terms,
      failover,
      stateHashes,
      startedNs,
      endedNs,
    };
  } finally {
    progress.stop();
    await Promise.all(isShared ? [first.stop()] : [first.stop(), second.stop()]);
  }
}

async function strike(fault: Exclude<Fault, "none">, master: ReplicaProcess, sidecar: Oplogd | undefined) {
  if (fault === "kill") await sidecar?.crash();
  else sidecar?.signal("SIGSTOP");
  master.signal(fault === "kill" ? "SIGKILL" : "SIGSTOP");
}

async function promotionOf(next: ReplicaProcess, faultNs: bigint): Promise<Omit<Failover, "told">> {
  const leading = await next.event("leading");
  await next.until(() => next.acknowledged.length > 0, "it was to append");
  const firstAcknowledgedNs = next.acknowledged[0]!.acknowledgedNs;
  return { faultNs, leadingNs: leading.atNs, firstAcknowledgedNs, times: leading.times };
}

/** Returns what the paused master is told when it runs again. */
async function resume(master: ReplicaProcess, sidecar: Oplogd | undefined, pausedNs: bigint): Promise<string> {
  const pausedMs = Number(process.hrtime.bigint() - pausedNs) / 1e6;
  await sleep(Math.max(0, PAUSE_MS - pausedMs));
  sidecar?.signal("SIGCONT");
  master.signal("SIGCONT");
  const { reason, message } = await master.event("lost");
  return `${reason}: ${message}`;
}

function termsOf({ orders, events }: ReplicaProcess): TermOf[] {
  return events
    .filter((event): event is Extract<ReplicaEvent, { kind: "leading" }> => event.kind === "leading")
    .map(({ term, nextSequenceId }) => ({ term, leader: orders.id, fromSequenceId: nextSequenceId }));
}

/** The first master leads the first term only. */
function tooLate(acknowledged: readonly Acknowledged[], terms: readonly TermOf[]): number {
  const end = terms.find(({ leader }) => leader !== terms[0]?.leader)?.fromSequenceId ?? Infinity;
  return acknowledged.filter(({ lastSequenceId }) => lastSequenceId >= end).length;
}

async function stateHashAt({ target }: Oplogd, sequenceId: number): Promise<string> {
  const client = connect(target);
  const deadline = performance.now() + STATE_MS_MAX;
  try {
    for (;;) {
      const { appliedSequenceId, stateHash } = await client.getStateHash({ log: LOG });
      if (Number(appliedSequenceId) >= sequenceId) return Buffer.from(stateHash).toString("hex");
      if (performance.now() >= deadline) return `none: the view has applied ${appliedSequenceId}`;
      await sleep(50);
    }
  } finally {
    client.close();
  }
}
