import { EtcdMissingError, provideEtcd } from "../launch/etcd.js";
import { ensureBuilt, Oplogd } from "../launch/oplogd.js";
import { type DemoOptions, parseOptions, USAGE, UsageError } from "./options.js";
import { replay } from "./replay.js";
import { formatReport, isFlawless, reportOf } from "./report.js";
import { loadTrace } from "./trace.js";

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;

const tell = (message: string) => process.stderr.write(`${message}\n`);

try {
  const options = parseOptions(process.argv.slice(2));
  if (options === undefined) process.stdout.write(USAGE);
  else await demonstrate(options);
} catch (error) {
  const isUsage = error instanceof UsageError || error instanceof EtcdMissingError;
  tell(isUsage ? `demo: ${error.message}` : `demo: ${error instanceof Error ? error.stack : error}`);
  // Not process.exitCode: standbys may still be there, and they end with this process.
  process.exit(isUsage ? EXIT_USAGE : EXIT_FAILED);
}

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
