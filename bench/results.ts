import type { Measured } from "./generator.js";
import { ETCD_PUTS, type StoreName } from "./scenarios.js";

export interface Result {
  readonly store: StoreName;
  readonly scenario: string;
  readonly rounds: Measured[];
}

export interface Summary {
  readonly store: StoreName;
  readonly scenario: string;
  /** Medians over the rounds. */
  readonly median: Measured;
  /** Against the raw etcd put at its best concurrency in the same run. */
  readonly ratio?: number;
  readonly rounds: readonly Measured[];
}

export function summarize(results: readonly Result[]): Summary[] {
  const medians = results.map((result) => ({ ...result, median: medianOf(result.rounds) }));
  const baselines = medians.filter(({ scenario }) => scenario.startsWith(ETCD_PUTS));
  const best = Math.max(...baselines.map(({ median }) => median.entriesPerSecond ?? 0));
  return medians.map((summary) => {
    const rate = summary.median.entriesPerSecond;
    return rate === undefined || baselines.length === 0 ? summary : { ...summary, ratio: rate / best };
  });
}

export function formatTable(summaries: readonly Summary[]): string {
  const rows = summaries.map(({ store, scenario, median, ratio }) => [
    store,
    scenario,
    median.entriesPerSecond === undefined
      ? `p50 ${median.p50Ms!.toFixed(2)} ms, p99 ${median.p99Ms!.toFixed(2)} ms`
      : `${Math.round(median.entriesPerSecond).toLocaleString("en-US")} entries/s`,
    ratio === undefined ? "" : `${ratio.toFixed(ratio < 10 ? 2 : 1)}x`,
  ]);
  const header = ["store", "what", "median of rounds", "of raw puts"];
  const widths = header.map((name, column) => Math.max(name.length, ...rows.map((row) => row[column]!.length)));
  const line = (row: readonly string[]) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join("  ")
      .trimEnd();
  return `${[header, ...rows].map(line).join("\n")}\n`;
}

function medianOf(rounds: readonly Measured[]): Measured {
  return Object.fromEntries(Object.keys(rounds[0] ?? {}).map((name) => [name, middle(rounds.map((r) => r[name]!))]));
}

function middle(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}
