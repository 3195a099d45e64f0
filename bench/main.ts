import { writeFile } from "node:fs/promises";
import { availableParallelism, cpus } from "node:os";
import { provideEtcd } from "../launch/etcd.js";
import { ensureBuilt, Oplogd } from "../launch/oplogd.js";
import { runProgram, tell } from "../launch/program.js";
import { type BenchOptions, parseOptions, USAGE } from "./options.js";
import { formatTable, type Result, summarize } from "./results.js";
import { type Bench, SCENARIOS, writeHistory } from "./scenarios.js";

await runProgram("bench", USAGE, parseOptions, measure);

async function measure(options: BenchOptions): Promise<void> {
  await ensureBuilt(tell);
  const { stores, rounds, timing, historyEntries } = options;
  const etcd = stores.includes("etcd") ? await provideEtcd(options.etcdEndpoints, tell) : undefined;
  const benches: Omit<Bench, "round">[] = [];
  for (const store of stores) {
    const oplogd = await Oplogd.start(store === "etcd" ? etcd?.endpoints : undefined);
    const bench = { store, oplogd, etcd, timing, historyEntries };
    tell(`${store}: writing ${historyEntries} entries of history`);
    await writeHistory(bench);
    benches.push(bench);
  }
  const results = await runRounds(benches, rounds);
  for (const { oplogd } of benches) await oplogd.stop();
  await etcd?.stop();

  const summaries = summarize(results);
  const machine = `${availableParallelism()} x ${cpus()[0]?.model ?? "unknown processor"}, Node ${process.version}`;
  process.stdout.write(`${[machine, etcd?.description].filter(Boolean).join("; ")}\n\n${formatTable(summaries)}`);
  if (options.jsonFile !== undefined) {
    const report = { machine, etcd: etcd?.description, rounds, ...timing, historyEntries, results: summaries };
    await writeFile(options.jsonFile, `${JSON.stringify(report, undefined, 2)}\n`);
  }
}

/** Interleaved, so that whatever else the machine does meets all scenarios alike. */
async function runRounds(benches: readonly Omit<Bench, "round">[], rounds: number): Promise<Result[]> {
  const planned = benches.flatMap((bench) =>
    SCENARIOS.filter(({ stores }) => stores.includes(bench.store)).map((scenario) => ({
      bench,
      scenario,
      result: { store: bench.store, scenario: scenario.name, rounds: [] } as Result,
    })),
  );
  for (let round = 1; round <= rounds; round++) {
    for (const { bench, scenario, result } of planned) {
      tell(`round ${round} of ${rounds}: ${bench.store}, ${scenario.name}`);
      result.rounds.push(await scenario.run({ ...bench, round }));
    }
  }
  return planned.map(({ result }) => result);
}
