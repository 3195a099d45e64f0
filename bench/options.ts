import { parseArgs } from "node:util";
import { UsageError } from "../launch/program.js";
import type { StoreName } from "./scenarios.js";
import type { Timing } from "./window.js";

export interface BenchOptions {
  readonly stores: readonly StoreName[];
  readonly etcdEndpoints: string | undefined;
  readonly rounds: number;
  readonly timing: Timing;
  readonly historyEntries: number;
  readonly jsonFile: string | undefined;
}

export const USAGE = `Measures oplogd on this machine, against raw puts into the same etcd.

Usage: npm run bench -- [options]

  --store etcd|embedded|both   default: both
  --etcd-endpoints URLS        an etcd that runs; default: one is started, and installed first on Debian as root
  --rounds N                   default: 3; each scenario runs once per round, the median counts
  --quick                      shorter, less history, one round unless told
  --json FILE                  all rounds, as JSON
`;

const FULL = { timing: { warmUpMs: 1_000, measureMs: 3_000 }, historyEntries: 1_000_000, rounds: 3 };
const QUICK = { timing: { warmUpMs: 500, measureMs: 1_000 }, historyEntries: 200_000, rounds: 1 };
const ROUNDS_MAX = 100;

/** Undefined = help is wanted. Throws UsageError. */
export function parseOptions(argv: readonly string[]): BenchOptions | undefined {
  const { values } = parse(argv);
  if (values.help) return undefined;
  const store = values.store ?? "both";
  if (store !== "etcd" && store !== "embedded" && store !== "both") {
    throw new UsageError(`--store ${store}: it is etcd, embedded or both`);
  }
  const scale = values.quick ? QUICK : FULL;
  const rounds = values.rounds === undefined ? scale.rounds : Number(values.rounds);
  if (!Number.isInteger(rounds) || rounds < 1 || rounds > ROUNDS_MAX) {
    throw new UsageError(`--rounds ${values.rounds}: 1 to ${ROUNDS_MAX}`);
  }
  return {
    ...scale,
    stores: store === "both" ? ["etcd", "embedded"] : [store],
    etcdEndpoints: values["etcd-endpoints"],
    rounds,
    jsonFile: values.json,
  };
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      options: {
        store: { type: "string" },
        "etcd-endpoints": { type: "string" },
        rounds: { type: "string" },
        quick: { type: "boolean" },
        json: { type: "string" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}
