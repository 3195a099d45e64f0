import { provideEtcd } from "../launch/etcd.js";
import { ensureBuilt, Oplogd } from "../launch/oplogd.js";
import { runProgram, tell } from "../launch/program.js";
import { type DemoOptions, parseOptions, USAGE } from "./options.js";
import { replay } from "./replay.js";
import { formatReport, isFlawless, reportOf } from "./report.js";
import { loadTrace } from "./trace.js";

const EXIT_FAILED = 1;

await runProgram("demo", USAGE, parseOptions, demonstrate);

async function demonstrate(options: DemoOptions): Promise<void> {
  await ensureBuilt(tell);
  const etcd = options.store === "etcd" ? await provideEtcd(options.etcdEndpoints, tell) : undefined;
  const trace = await loadTrace(options.trace, options.requestsMax);
  const oplogd = await Oplogd.start(etcd?.endpoints);
  tell(`oplogd at ${oplogd.target}, ${trace.requests.length} requests to replay`);
  const replayed = await replay(oplogd, trace.requests, options.withCrash);
  await oplogd.stop();
  await etcd?.stop();
  const store = etcd?.description ?? "embedded";
  const report = reportOf({ ...replayed, store, trace: trace.description, requests: trace.requests.length });
  process.stdout.write(options.json ? `${JSON.stringify(report, undefined, 2)}\n` : `\n${formatReport(report)}`);
  if (!isFlawless(report)) process.exitCode = EXIT_FAILED;
}
