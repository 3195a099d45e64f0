import type { Oplogd } from "../launch/oplogd.js";
import { connect } from "../src/client/client.js";
import { BlockCache, type OperationBatch } from "./block-cache.js";
import { Master } from "./master.js";
import { Progress } from "./progress.js";
import type { StandbyReport } from "./standby.js";
import { StandbyProcess } from "./standby-process.js";
import type { TraceRequest } from "./trace.js";

/** What came of it. Times are of the machine's monotonic clock. */
export interface Replayed {
  readonly master: Master;
  readonly standbys: readonly StandbyReport[];
  readonly startedNs: bigint;
  readonly endedNs: bigint;
  readonly crashedNs: bigint | undefined;
}

const LOG = "kv-cache";

/** One master and two standbys on one oplogd, which is killed when half of the requests have been sent. */
export async function replay(oplogd: Oplogd, requests: readonly TraceRequest[], withCrash: boolean): Promise<Replayed> {
  const client = connect(oplogd.target);
  const standbys = [1, 2].map((n) => new StandbyProcess({ target: oplogd.target, log: LOG, name: `standby-${n}` }));
  const master = new Master(client, LOG);
  const crashAt = withCrash ? Math.ceil(requests.length / 2) : Infinity;
  let crashedNs: bigint | undefined;
  let sent = 0;
  let restarted: Promise<void> | undefined;
  const batches = batchesOf(requests, () => {
    if (++sent !== crashAt) return;
    crashedNs = process.hrtime.bigint();
    restarted = oplogd.crash().then(() => oplogd.restart());
  });
  const progress = new Progress(() => {
    const received = standbys.map((standby) => standby.received).join(" and ");
    return `${sent} requests, ${master.operations} operations acknowledged, ${received} received`;
  });
  const startedNs = process.hrtime.bigint();
  try {
    await master.replay(batches);
    await restarted;
  } finally {
    progress.stop();
  }
  const endedNs = process.hrtime.bigint();
  const reports = await Promise.all(standbys.map((standby) => standby.finish(master.operations)));
  client.close();
  return { master, standbys: reports, startedNs, endedNs, crashedNs };
}

/** Turns requests into what is appended, as the master asks for it. */
function* batchesOf(requests: readonly TraceRequest[], onRequest: () => void): Generator<OperationBatch> {
  const cache = new BlockCache();
  for (const request of requests) {
    onRequest();
    yield* cache.batchesOf(request);
  }
}
