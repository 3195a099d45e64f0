import { parseArgs } from "node:util";
import { UsageError } from "../launch/program.js";

/** What happens to the leading master, and on etcd to its sidecar, half-way. */
export type Fault = "kill" | "pause" | "none";

export interface DemoOptions {
  readonly trace: string | undefined;
  readonly store: "embedded" | "etcd";
  readonly etcdEndpoints: string | undefined;
  readonly requestsMax: number;
  readonly fault: Fault;
  readonly json: boolean;
}

export const USAGE = `Replays an hour of a chat service's KV-cache master through oplogd. Half-way the master is killed, and its standby, a
second master, is promoted and goes on. On etcd each master has a sidecar of its own, which dies with it; on the embedded
store both use the same one.

Usage: npm run demo -- [options]

  --trace FILE            JSON lines with "hash_ids"; default: the trace beside the repository, else a generated one
  --store embedded|etcd   default: embedded, or etcd if endpoints are given
  --etcd-endpoints URLS   an etcd that runs; default: one is started, and installed first on Debian as root
  --requests N            stop after N requests
  --fault kill|pause|none what happens half-way: SIGKILL, SIGSTOP for three times the TTL, or nothing; default: kill
  --json                  the report as JSON
`;

/** Undefined = help is wanted. Throws UsageError. */
export function parseOptions(argv: readonly string[]): DemoOptions | undefined {
  const { values } = parse(argv);
  if (values.help) return undefined;
  const etcdEndpoints = values["etcd-endpoints"];
  const store = values.store ?? (etcdEndpoints === undefined ? "embedded" : "etcd");
  if (store !== "embedded" && store !== "etcd") throw new UsageError(`--store ${store}: it is embedded or etcd`);
  if (store === "embedded" && etcdEndpoints !== undefined) {
    throw new UsageError("--etcd-endpoints: the embedded store has none");
  }
  const fault = values.fault ?? "kill";
  if (fault !== "kill" && fault !== "pause" && fault !== "none") {
    throw new UsageError(`--fault ${fault}: it is kill, pause or none`);
  }
  const requestsMax = values.requests === undefined ? Infinity : Number(values.requests);
  if (!(requestsMax >= 1)) throw new UsageError(`--requests ${values.requests}: a number of at least 1`);
  return {
    trace: values.trace,
    store,
    etcdEndpoints,
    requestsMax,
    fault,
    json: values.json ?? false,
  };
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      options: {
        trace: { type: "string" },
        store: { type: "string" },
        "etcd-endpoints": { type: "string" },
        requests: { type: "string" },
        fault: { type: "string" },
        json: { type: "boolean" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}
