import { provideEtcd } from "../launch/etcd.js";
import { ensureBuilt } from "../launch/oplogd.js";
import { runProgram, tell } from "../launch/program.js";
import { replay } from "./failover.js";
import { type DemoOptions, parseOptions, USAGE } from "./options.js";
import { formatReport, isFlawless, reportOf } from "./report.js";
import { loadTrace } from "./trace.js";

const EXIT_FAILED = 1;

await runProgram("demo", USAGE, parseOptions, demonstrate);

async function demonstrate(options: DemoOptions): Promise<void> {
  await ensureBuilt(tell);
  const etcd = options.store === "etcd" ? await provideEtcd(options.etcdEndpoints, tell) : undefined;
  const trace = await loadTrace(options.trace, options.requestsMax);
  tell(`${trace.requests.length} requests to replay, on ${etcd?.description ?? "the embedded store"}`);
  const replayed = await replay(options, etcd?.endpoints, trace.requests);
  await etcd?.stop();
  const store = etcd?.description ?? "embedded";
  const { fault } = options;
  const report = reportOf({ ...replayed, fault, store, trace: trace.description, requests: trace.requests.length });
  process.stdout.write(options.json ? `${JSON.stringify(report, undefined, 2)}\n` : `\n${formatReport(report)}`);
  if (!isFlawless(report)) process.exitCode = EXIT_FAILED;
}
