import { readFile } from "node:fs/promises";
import { buffer } from "node:stream/consumers";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Command, Option } from "commander";
import { OplogRpcError } from "../client/errors.js";
import type { LeaderClient } from "../client/leader-client.js";
import type { EntrySchema } from "../gen/oplog/v1/entry_pb.js";
import { type AppendResponse, AppendResponseSchema, Durability } from "../gen/oplog/v1/oplog_pb.js";
import { OP_NAMES, OP_TYPES, type OpName, parseCount, parseDurationMs, parseUint64 } from "./arguments.js";
import { type EntryInit, entryBatches } from "./entry-lines.js";
import { CommandFailure, describeFailure, UsageError, unknownOutcomeAdvice } from "./failures.js";
import { followLeader } from "./follow-leader.js";
import { type Session, withSession } from "./session.js";

interface AppendOptions {
  readonly op: OpName;
  readonly payloadFile?: string;
  readonly expect?: bigint;
  readonly writer?: string;
  readonly operation?: bigint;
  readonly durability: DurabilityName;
  readonly standbys?: number;
  readonly durabilityTimeout?: number;
  readonly follow: boolean;
}

const DURABILITIES = {
  store: Durability.STORE,
  "standby-received": Durability.STANDBY_RECEIVED,
  "standby-applied": Durability.STANDBY_APPLIED,
} as const;

type DurabilityName = keyof typeof DURABILITIES;

/** What the sidecar waits unless told. */
const DURABILITY_TIMEOUT_MS = 5000;

const LINES_HELP = `
Many entries: \`oplogctl append LOG -\` reads one JSON object per line from stdin, as \`read --json\` and \`tail --json\`
print them: op_type, key, payload (base64), key_sequence_id, checksum, headers, lease_ms. For people, op may stand for
op_type (${OP_NAMES.join(", ")}; put-end unless told) and text for payload:
  {"key": "user/7", "text": "hello"}
sequence_id, term and timestamp_ms are passed over, for the sidecar gives new ones. Lines are appended in order, at most
500 entries or 512 KiB at a time, each time all or nothing; the first refusal ends it. --expect holds for the first
append, and each further one expects the one before. With --writer the appends take --operation, the next number, and so
on: the same input again commits nothing twice.

With a durability of standbys each append also waits until so many consumers have reported (UpdateCursor) that they
have received or applied it. When the time runs out first it is in the log all the same: a note says so, on stderr.

A sidecar that does not lead the log names the one that does, and the append goes there; while nobody leads, it waits.
--timeout is for all of it together. What may have been written is sent again only with --writer and --operation.`;

export function appendCommand(): Command {
  return new Command("append")
    .description("Append an entry, or many from stdin; prints the sequence ids once they are durable.")
    .argument("<log>", "name of the log; the first append makes it")
    .argument("[key]", "key of the entry, or - for JSON lines from stdin")
    .argument("[payload]", "payload, as text")
    .addOption(new Option("--op <op>", "what the entry does").choices(OP_NAMES).default("put-end"))
    .option("--payload-file <path>", "payload from a file, - for stdin")
    .option("--expect <id>", "append only if this is the head", parseUint64)
    .option("--writer <id>", "with --operation: commit at most once, however often it is tried")
    .option("--operation <n>", "number of this operation; those of a writer rise", parseUint64)
    .addOption(new Option("--durability <how>", "what to wait for").choices(Object.keys(DURABILITIES)).default("store"))
    .option("--standbys <n>", "how many consumers a durability of standbys is about, up to 16 (default: 1)", parseCount)
    .option("--durability-timeout <duration>", "how long to wait for them, up to 1m (default: 5s)", parseDurationMs)
    .option("--no-follow", "stay with --target, also if another sidecar leads")
    .addHelpText("after", LINES_HELP)
    .action(
      (log: string, key: string | undefined, payload: string | undefined, options: AppendOptions, command: Command) =>
        withSession(command, log, (session) => append(session, log, key, payload, options)),
    );
}

async function append(
  session: Session,
  log: string,
  key: string | undefined,
  payload: string | undefined,
  options: AppendOptions,
): Promise<void> {
  const { durability, standbys, durabilityTimeout } = options;
  if (durability === "store" && (standbys !== undefined || durabilityTimeout !== undefined)) {
    throw new UsageError(
      "--standbys and --durability-timeout go with --durability standby-received or standby-applied",
    );
  }
  const appender = new OrderedAppends(session, log, options);
  try {
    await appendAll(appender, key, payload, options);
  } finally {
    appender.close();
  }
}

async function appendAll(
  appender: OrderedAppends,
  key: string | undefined,
  payload: string | undefined,
  options: AppendOptions,
): Promise<void> {
  if (key === "-") {
    if (payload !== undefined || options.payloadFile !== undefined) {
      throw new UsageError("with -, the payloads come from the lines of stdin: leave PAYLOAD and --payload-file out");
    }
    // Cutting by size alone makes the same appends of the same input, which is what a retry under --writer needs.
    const cutsAtPauses = options.writer === undefined;
    for await (const entries of entryBatches(process.stdin, cutsAtPauses)) await appender.append(entries);
    return;
  }
  if (key === undefined && options.op !== "event") {
    throw new UsageError("append needs a KEY, or - to read JSON lines from stdin (only --op event goes without a key)");
  }
  const bytes = await payloadBytes(payload, options.payloadFile);
  await appender.append([{ opType: OP_TYPES[options.op], key: key ?? "", payload: bytes }]);
}

async function payloadBytes(payload: string | undefined, file: string | undefined): Promise<Uint8Array> {
  if (file === undefined) return Buffer.from(payload ?? "", "utf8");
  if (payload !== undefined) throw new UsageError("give PAYLOAD or --payload-file, not both");
  return file === "-" ? buffer(process.stdin) : readFile(file);
}

/** One append after the other; each continues the expectation and the operation number of the one before. */
class OrderedAppends {
  private expected: bigint | undefined;
  private operation: bigint | undefined;
  private readonly leader: LeaderClient | undefined;

  constructor(
    private readonly session: Session,
    private readonly log: string,
    private readonly options: AppendOptions,
  ) {
    this.expected = options.expect;
    this.operation = options.operation;
    if (options.follow) this.leader = followLeader(session);
  }

  async append(entries: EntryInit[]): Promise<void> {
    const { writer, durability, standbys = 1, durabilityTimeout = DURABILITY_TIMEOUT_MS } = this.options;
    const isForStandbys = durability !== "store";
    const request = {
      log: this.log,
      entries: entries as MessageInitShape<typeof EntrySchema>[],
      ...(this.expected === undefined ? {} : { expectedSequenceId: this.expected }),
      ...(writer === undefined ? {} : { writerId: writer }),
      ...(this.operation === undefined ? {} : { operationId: this.operation }),
      ...(isForStandbys
        ? { durability: DURABILITIES[durability], standbyCount: standbys, durabilityTimeoutMs: durabilityTimeout }
        : {}),
    };
    const deadlineMs = this.session.timeoutMs + (isForStandbys ? durabilityTimeout : 0);
    const appended = this.leader
      ? this.leader.append(request, { deadlineMs, patienceMs: deadlineMs })
      : this.session.client.append(request, { deadlineMs });
    const response = await appended.catch((error: unknown) => this.refused(error));
    if (this.expected !== undefined) this.expected = response.lastSequenceId;
    if (this.operation !== undefined) this.operation += 1n;
    await this.report(response);
  }

  close(): void {
    this.leader?.close();
  }

  private async report(response: AppendResponse): Promise<void> {
    const { firstSequenceId: first, lastSequenceId: last } = response;
    if (this.session.isJson) return this.session.printJson(AppendResponseSchema, response);
    if (response.duplicate) this.session.note("had been committed before; these are the ids of that time");
    const { durability, standbys = 1 } = this.options;
    if (response.durability !== DURABILITIES[durability]) {
      const passed = `${response.standbyCount} of ${standbys} standbys`;
      this.session.note(`durable in the store, but only ${passed} had got as far (${durability}) in time`);
    }
    await this.session.print(first === last ? `${first}` : `${first}..${last}`);
  }

  private refused(error: unknown): never {
    if (!(error instanceof OplogRpcError) || !error.mayHaveCommitted) throw error;
    const { target, timeoutMs } = this.session;
    const failure = describeFailure(error, { target, timeoutMs, log: this.log, command: "append" });
    failure.lines.push(unknownOutcomeAdvice(this.log, this.options.operation !== undefined));
    throw new CommandFailure(failure, error);
  }
}
