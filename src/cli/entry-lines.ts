import { fromJson, type JsonObject, type JsonValue, type MessageInitShape } from "@bufbuild/protobuf";
import { EntrySchema } from "../gen/oplog/v1/entry_pb.js";
import { isOpName, OP_NAMES, OP_TYPES } from "./arguments.js";
import { UsageError } from "./failures.js";

export type EntryInit = MessageInitShape<typeof EntrySchema>;

const BATCH_ENTRIES_MAX = 500;
const BATCH_BYTES_MAX = 512 * 1024;
/** A payload of 1 MiB in base64, with room for the rest. */
const LINE_BYTES_MAX = 2 * 1024 * 1024;
const NEWLINE = 0x0a;

/** Set by the sidecar, and refused from clients: what `read --json` prints can be appended all the same. */
const STAMPED = ["sequence_id", "sequenceId", "term", "timestamp_ms", "timestampMs"];

/**
 * Batches of the entries that a stream of JSON lines holds. With `cutsAtPauses` also what has come so far is a batch
 * whenever the input has no more to read.
 */
export async function* entryBatches(
  input: AsyncIterable<Buffer>,
  cutsAtPauses: boolean,
): AsyncGenerator<EntryInit[], void, undefined> {
  let batch: EntryInit[] = [];
  let batchBytes = 0;
  let lineNumber = 0;
  for await (const lines of linesOf(input)) {
    for (const line of lines) {
      lineNumber += 1;
      if (line.trim() === "") continue;
      const size = Buffer.byteLength(line);
      if (batch.length > 0 && (batch.length >= BATCH_ENTRIES_MAX || batchBytes + size > BATCH_BYTES_MAX)) {
        yield batch;
        batch = [];
        batchBytes = 0;
      }
      batch.push(parseEntryLine(line, lineNumber));
      batchBytes += size;
    }
    if (cutsAtPauses && batch.length > 0) {
      yield batch;
      batch = [];
      batchBytes = 0;
    }
  }
  if (batch.length > 0) yield batch;
}

export function parseEntryLine(line: string, lineNumber: number): EntryInit {
  try {
    const value = JSON.parse(line) as JsonValue;
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error("not a JSON object");
    return fromJson(EntrySchema, normalise(value));
  } catch (error) {
    throw new UsageError(`line ${lineNumber} of stdin: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** From the words for people to the protobuf JSON of an entry. */
function normalise(object: JsonObject): JsonObject {
  const { op, text, ...entry } = object;
  for (const name of STAMPED) delete entry[name];
  if (text !== undefined) {
    if (typeof text !== "string") throw new Error("text must be a string");
    if (entry.payload !== undefined) throw new Error("give payload or text, not both");
    entry.payload = Buffer.from(text, "utf8").toString("base64");
  }
  const hasType = entry.op_type !== undefined || entry.opType !== undefined;
  if (op !== undefined && hasType) throw new Error("give op or op_type, not both");
  if (!hasType) entry.op_type = opTypeNumber(op ?? "put-end");
  return entry;
}

function opTypeNumber(op: JsonValue): number {
  if (!isOpName(op)) throw new Error(`op must be one of ${OP_NAMES.join(", ")}`);
  return OP_TYPES[op];
}

/** The complete lines of each chunk; a last line without an end counts. */
async function* linesOf(input: AsyncIterable<Buffer>): AsyncGenerator<string[], void, undefined> {
  let rest: Buffer[] = [];
  let restBytes = 0;
  for await (const chunk of input) {
    const end = chunk.lastIndexOf(NEWLINE);
    if (end >= 0) {
      yield Buffer.concat([...rest, chunk.subarray(0, end)])
        .toString("utf8")
        .split("\n");
      rest = [];
      restBytes = 0;
    }
    rest.push(chunk.subarray(end + 1));
    restBytes += chunk.length - end - 1;
    if (restBytes > LINE_BYTES_MAX) throw new UsageError(`a line of stdin is longer than ${LINE_BYTES_MAX} bytes`);
  }
  if (restBytes > 0) yield [Buffer.concat(rest).toString("utf8")];
}
