import type { Branch, Comparison } from "../client/parting.js";
import type { DescribeRecordResponse } from "../gen/oplog/v1/oplog_pb.js";
import { keyText, shellWord, timeText } from "./render.js";
import { labelled } from "./status-text.js";

/** One of the two sidecars that are compared. */
export interface Side {
  readonly target: string;
  /** Of the first record that the other one does not have; "" = not known. */
  readonly writer: string;
}

/** Whether a log has an entry that somebody has seen. */
export interface Place {
  readonly log: string;
  readonly at: bigint;
  readonly target: string;
  readonly head: bigint;
  /** That holds the entry now; undefined: the log ends before it. */
  readonly record: DescribeRecordResponse | undefined;
  readonly isThere: boolean;
}

type Sides = readonly Side[];

export function comparisonText(log: string, found: Comparison, sides: Sides): string {
  const [here, there] = found.branches.map((branch, side) => branchText(branch, sides[side]!, commonOf(found)));
  return [
    labelled("log", log),
    labelled("result", resultText(found)),
    labelled("here", here!),
    labelled("there", there!),
    ...comparisonAdvice(log, found, sides).map((line, index) => labelled(index === 0 ? "next" : "", line)),
  ].join("\n");
}

export function comparisonJson(log: string, found: Comparison, sides: Sides): object {
  return {
    log,
    result: RESULTS[found.kind],
    last_common_sequence_id: commonOf(found)?.toString() ?? null,
    sides: found.branches.map(({ head, floor, first }, side) => ({
      target: sides[side]!.target,
      head_sequence_id: head.toString(),
      floor_sequence_id: floor.toString(),
      first_other_record: first === undefined ? null : { ...recordJson(first), writer: sides[side]!.writer },
    })),
    records_read: found.reads,
    advice: comparisonAdvice(log, found, sides),
  };
}

export function placeText(place: Place): string {
  const { log, at, target, head, record, isThere } = place;
  const result = isThere
    ? `the log has entry ${at} as it was seen, and ${head - at} entries after it`
    : record === undefined
      ? `NOT THERE: the log ends at ${head}, before entry ${at}`
      : `PARTED: entry ${at} is another one than the one that was seen`;
  return [
    labelled("log", log),
    labelled("result", result),
    labelled("here", `${target}${record === undefined ? "" : `: ${recordText(record, "")}`}`),
    ...placeAdvice(place).map((line, index) => labelled(index === 0 ? "next" : "", line)),
  ].join("\n");
}

export function placeJson(place: Place): object {
  const { log, at, target, head, record, isThere } = place;
  return {
    log,
    result: isThere ? "same" : "parted",
    target,
    sequence_id: at.toString(),
    head_sequence_id: head.toString(),
    record: record === undefined ? null : recordJson(record),
    advice: placeAdvice(place),
  };
}

const RESULTS: Readonly<Record<Comparison["kind"], string>> = {
  "other logs": "other_logs",
  same: "same",
  parted: "parted",
  "parted before": "parted_before",
  "out of reach": "out_of_reach",
};

function commonOf(found: Comparison): bigint | undefined {
  return found.kind === "same" || found.kind === "parted" ? found.common : undefined;
}

function resultText(found: Comparison): string {
  switch (found.kind) {
    case "other logs":
      return "OTHER LOGS: they have the same name, and were made apart from each other";
    case "same":
      return `the same history, up to entry ${found.common}`;
    case "parted":
      return found.common === 0n ? "PARTED: no entry in common" : `PARTED after entry ${found.common}`;
    case "parted before":
      return `PARTED before entry ${found.floor}, where one of them begins: what came before has been trimmed`;
    case "out of reach":
      return "NOT KNOWN: they hold no entry that can be compared, since one of them has been trimmed";
  }
}

function branchText({ head, floor, first }: Branch, { target, writer }: Side, common: bigint | undefined): string {
  const kept = `${target}: entries ${floor} to ${head}`;
  if (common === undefined) return kept;
  const count = head - common;
  if (count === 0n) return `${target}: nothing after that`;
  const own = `${target}: ${count} ${count === 1n ? "entry" : "entries"} after that, ${common + 1n} to ${head}`;
  return first === undefined ? own : `${own}; the first of ${recordText(first, writer)}`;
}

function recordText({ term, timestampMs, chain }: DescribeRecordResponse, writer: string): string {
  const by = writer === "" ? "" : ` of ${keyText(writer)}`;
  return `term ${term}${by}, ${timeText(timestampMs)}, chain ${hex(chain)}`;
}

function recordJson({ firstSequenceId, lastSequenceId, term, timestampMs, chain }: DescribeRecordResponse) {
  return {
    first_sequence_id: firstSequenceId.toString(),
    last_sequence_id: lastSequenceId.toString(),
    term: term.toString(),
    timestamp_ms: timestampMs.toString(),
    chain: hex(chain),
  };
}

const GIVE_UP =
  "Decide which of the two goes on. Whoever holds entries of the other one starts again from the first entry.";
const ADOPT =
  "Where the one that goes on was restored on purpose: oplogctl adopt at each of its sidecars, which builds views anew.";

function comparisonAdvice(log: string, found: Comparison, sides: Sides): string[] {
  const [here, there] = found.branches;
  switch (found.kind) {
    case "same": {
      if (here.head === there.head) return ["Nothing has parted."];
      const short = here.head < there.head ? 0 : 1;
      return [
        `Nothing has parted. ${sides[short]!.target} lacks entries, and whoever follows can go on after ${found.common}.`,
      ];
    }
    case "parted":
      return [
        GIVE_UP,
        ADOPT,
        `What one of them alone has: ${sides.map(({ target }) => readCommand(target, log, found.common + 1n)).join(", ")}`,
      ];
    case "parted before":
    case "other logs":
      return [GIVE_UP, ADOPT];
    case "out of reach":
      return ["Compare with a sidecar that holds more, or with a backup from in between."];
  }
}

function placeAdvice({ log, at, isThere, record }: Place): string[] {
  if (isThere) return [`Whoever has seen no more than entry ${at} can go on after it.`];
  const where = `Where they part: oplogctl where-parted ${log} --with OTHER, a sidecar that has what was seen, or one on a backup of it.`;
  const start = "Whoever has seen this entry holds another history, and starts again from the first entry.";
  return record === undefined
    ? [
        "The entry was lost if it had been there, for example by a restore. Then whoever has seen it starts again from the first entry.",
        where,
      ]
    : [start, where];
}

function readCommand(target: string, log: string, from: bigint): string {
  return `oplogctl --target ${shellWord(target)} read ${log} --from ${from}`;
}

function hex(chain: Uint8Array): string {
  return Buffer.from(chain).toString("hex");
}
