import { type Entry, OpType } from "../gen/oplog/v1/entry_pb.js";

const OP_LABELS: Record<OpType, string> = {
  [OpType.UNSPECIFIED]: "?",
  [OpType.PUT_END]: "put-end",
  [OpType.PUT_REVOKE]: "put-revoke",
  [OpType.REMOVE]: "remove",
  [OpType.EVENT]: "event",
};

const SEQUENCE_WIDTH = 10;
const TERM_WIDTH = 4;
const TIME_WIDTH = 24;
const OP_WIDTH = 10;
const KEY_WIDTH = 24;
const PAYLOAD_WIDTH_MIN = 24;

// Whatever could move the cursor, end the line or reverse the text of a terminal.
const UNPRINTABLE = /[\p{Cc}\p{Cs}\p{Cn}\p{Co}\u2028\u2029\u202A-\u202E\u2066-\u2069]/u;
const UNPRINTABLE_ALL = new RegExp(UNPRINTABLE, "gu");

export const ENTRY_HEADER = [
  "SEQUENCE".padStart(SEQUENCE_WIDTH),
  "TERM".padStart(TERM_WIDTH),
  "TIME".padEnd(TIME_WIDTH),
  "OP".padEnd(OP_WIDTH),
  "KEY".padEnd(KEY_WIDTH),
  "PAYLOAD",
].join("  ");

/** One line. `columns` is the width of the terminal, undefined if there is none: then nothing is cut. */
export function entryLine(entry: Entry, columns: number | undefined): string {
  const start = [
    entry.sequenceId.toString().padStart(SEQUENCE_WIDTH),
    entry.term.toString().padStart(TERM_WIDTH),
    timeText(entry.timestampMs).padEnd(TIME_WIDTH),
    (OP_LABELS[entry.opType] ?? `op-${entry.opType}`).padEnd(OP_WIDTH),
    keyText(entry.key).padEnd(KEY_WIDTH),
  ].join("  ");
  const payload = payloadText(entry.payload);
  const room =
    columns === undefined ? Number.POSITIVE_INFINITY : Math.max(columns - start.length - 2, PAYLOAD_WIDTH_MIN);
  return `${start}  ${cut(payload, room)}`.trimEnd();
}

/** As text if all of it can be shown, else its size and base64. */
export function payloadText(payload: Uint8Array): string {
  const bytes = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
  const text = decodeUtf8(bytes);
  return text !== undefined && !UNPRINTABLE.test(text) ? text : `<${bytes.length} bytes> ${bytes.toString("base64")}`;
}

export function keyText(key: string): string {
  return key.replace(UNPRINTABLE_ALL, (character) => `\\u{${character.codePointAt(0)!.toString(16)}}`);
}

/** As one word of a command line that is offered to be pasted. */
export function shellWord(text: string): string {
  return /^[\w@%+=:,./[\]-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** Left-aligned columns, numbers (and what is marked so) to the right. */
export function table(header: readonly string[], rows: ReadonlyArray<readonly string[]>): string[] {
  const all = [header, ...rows];
  const widths = header.map((_, column) => Math.max(...all.map((row) => row[column]!.length)));
  const isNumeric = header.map(
    (_, column) => rows.length > 0 && rows.every((row) => /^\d[\d.]*( \w+)?$/.test(row[column]!)),
  );
  return all.map((row) =>
    row
      .map((cell, column) => (isNumeric[column] ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!)))
      .join("  ")
      .trimEnd(),
  );
}

export function humanBytes(bytes: bigint | number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let amount = Number(bytes);
  let unit = 0;
  while (amount >= 1024 && unit < units.length - 1) {
    amount /= 1024;
    unit += 1;
  }
  return `${unit === 0 || Number.isInteger(amount) ? amount : amount.toFixed(1)} ${units[unit]}`;
}

export function humanDuration(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${Number((ms / 1_000).toFixed(1))} s`;
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 60) return `${minutes} min ${Math.floor((ms % 60_000) / 1_000)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function timeText(timestampMs: bigint): string {
  const date = new Date(Number(timestampMs));
  return Number.isNaN(date.getTime()) ? `${timestampMs} ms` : date.toISOString();
}

function cut(text: string, width: number): string {
  return text.length <= width ? text : `${text.slice(0, width - 1)}…`;
}

function decodeUtf8(bytes: Buffer): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}
