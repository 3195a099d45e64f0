import { Command, Option } from "commander";
import { connect, type OplogClient } from "../client/client.js";
import { OplogRpcError } from "../client/errors.js";
import { compareHistories } from "../client/parting.js";
import type { DescribeRecordResponse } from "../gen/oplog/v1/oplog_pb.js";
import { parseChain, parseTarget, parseUint64 } from "./arguments.js";
import { CommandFailure, describeFailure, EXIT_NO, UsageError } from "./failures.js";
import { comparisonJson, comparisonText, placeJson, placeText, type Side } from "./parting-text.js";
import { type Session, withSession } from "./session.js";

interface Options {
  readonly with?: string;
  readonly at?: bigint;
  readonly chain?: Buffer;
}

const AFTER_HELP = `
Each record of a log names the one before it. So a few short reads find the last entry that two sidecars have in common,
however long the log is. To compare with a backup, start an oplogd on it: oplogd --data-dir BACKUP --listen 127.0.0.1:7453

  oplogctl where-parted orders --with 127.0.0.1:7453
  oplogctl where-parted orders --at 120 --chain 8a04f9130c3f4d1e9ab1c6f1f0a95b27

The second form tells whether the log still has an entry that somebody has seen. The chain of an entry is what
HISTORY_DIVERGED names, Batch.last_chain tells a subscriber, and \`oplogctl status --json\` shows for a cursor.

Exit code 0 when nothing contradicts, 3 when the histories are not the same or that cannot be found out.`;

export function wherePartedCommand(): Command {
  return new Command("where-parted")
    .description("Find the last entry that a log has in common with the same log at another sidecar.")
    .argument("<log>", "name of the log")
    .addOption(
      new Option("--with <address>", "the other sidecar: host:port, host or unix:///path").argParser(parseTarget),
    )
    .addOption(new Option("--at <id>", "an entry that somebody has seen; with --chain").argParser(parseUint64))
    .addOption(new Option("--chain <chain>", "the chain of that entry, in hex or base64").argParser(parseChain))
    .addHelpText("after", AFTER_HELP)
    .action((log: string, options: Options, command: Command) =>
      withSession(command, log, (session) => whereParted(session, log, options)),
    );
}

function whereParted(session: Session, log: string, { with: other, at, chain }: Options): Promise<void> {
  if (other !== undefined && at === undefined && chain === undefined) return compare(session, log, other);
  if (other === undefined && at !== undefined && chain !== undefined && at > 0n) return look(session, log, at, chain);
  throw new UsageError("tell either --with, or both --at (1 or more) and --chain");
}

async function compare(session: Session, log: string, target: string): Promise<void> {
  const { client, timeoutMs } = session;
  const other = connect(target, { deadlineMs: timeoutMs });
  try {
    const here = { describeRecord: (sequenceId: bigint) => client.describeRecord({ log, sequenceId }) };
    const there = {
      describeRecord: (sequenceId: bigint) =>
        other.describeRecord({ log, sequenceId }).catch((error: unknown) => {
          const context = { target: other.target, timeoutMs, log, command: "where-parted" };
          const failure = describeFailure(error, context);
          throw new CommandFailure({ ...failure, lines: [`${other.target}: ${failure.lines[0]}`] }, error);
        }),
    };
    const found = await compareHistories(here, there);
    const [first, second] = found.branches;
    const sides = await Promise.all([sideOf(client, log, first.first), sideOf(other, log, second.first)]);
    await tell(session, found.kind === "same", comparisonText(log, found, sides), comparisonJson(log, found, sides));
  } finally {
    other.close();
  }
}

/** Records do not name their writers: whoever leads the term of the record now is known, and nobody else. */
async function sideOf(client: OplogClient, log: string, first?: DescribeRecordResponse): Promise<Side> {
  const { target } = client;
  if (first === undefined) return { target, writer: "" };
  const leader = await client.getLeader({ log }).then(
    (response) => response.leader,
    () => undefined,
  );
  return { target, writer: leader?.term === first.term ? leader.id : "" };
}

async function look(session: Session, log: string, at: bigint, chain: Buffer): Promise<void> {
  const record = await session.client.describeRecord({ log, sequenceId: at }).catch((error: unknown) => {
    if (error instanceof OplogRpcError && error.reason === "BEYOND_HEAD") return undefined;
    throw error;
  });
  const head = record?.headSequenceId ?? (await session.client.describeRecord({ log })).headSequenceId;
  const found = {
    log,
    at,
    target: session.target,
    head,
    record,
    isThere: record !== undefined && chain.equals(record.chain),
  };
  await tell(session, found.isThere, placeText(found), placeJson(found));
}

async function tell(session: Session, isSame: boolean, text: string, json: object): Promise<void> {
  if (!isSame) process.exitCode = EXIT_NO;
  await session.print(session.isJson ? JSON.stringify(json) : text);
}
