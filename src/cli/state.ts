import { Command } from "commander";
import {
  GetEntryResponseSchema,
  type GetStateHashResponse,
  GetStateHashResponseSchema,
  StandbyPhase,
  type StateEntry,
} from "../gen/oplog/v1/standby_pb.js";
import { parseUint64 } from "./arguments.js";
import { EXIT_NO } from "./failures.js";
import { humanBytes, keyText, payloadText, timeText } from "./render.js";
import { type Session, withSession } from "./session.js";
import { labelled } from "./status-text.js";

export const PHASES: Record<StandbyPhase, string> = {
  [StandbyPhase.UNSPECIFIED]: "unknown",
  [StandbyPhase.CONNECTING]: "connecting: the log has not been reached yet",
  [StandbyPhase.BOOTSTRAPPING]: "bootstrapping",
  [StandbyPhase.CATCHING_UP]: "catching up",
  [StandbyPhase.FOLLOWING]: "following",
  [StandbyPhase.RECONNECTING]: "reconnecting: the store has not confirmed the head for a while",
  [StandbyPhase.PROMOTING]: "promoting",
  [StandbyPhase.PROMOTED]: "promoted: a candidate here leads",
  [StandbyPhase.FAILED]: "FAILED: it has stopped for good",
};

export function stateCommand(): Command {
  return new Command("state")
    .description("Show the state that a log adds up to: its hash and size or, if one is named, a key with its value.")
    .argument("<log>", "name of the log; oplogd must keep a view of it (--views)")
    .argument("[key]", "key to look up")
    .option("--min-id <n>", "with a key: wait until the state has this entry", parseUint64)
    .addHelpText(
      "after",
      "\nExit code 3 when the key is not held. Two states at the same entry are equal if their hashes are.",
    )
    .action((log: string, key: string | undefined, { minId = 0n }: { minId?: bigint }, command: Command) =>
      withSession(command, log, (session) =>
        key === undefined ? summary(session, log) : lookUp(session, log, key, minId),
      ),
    );
}

async function summary(session: Session, log: string): Promise<void> {
  const response = await session.client.getStateHash({ log });
  if (session.isJson) return session.printJson(GetStateHashResponseSchema, response);
  await session.print(summaryText(response));
}

async function lookUp(session: Session, log: string, key: string, minSequenceId: bigint): Promise<void> {
  const response = await session.client.getEntry({ log, key, minSequenceId });
  const { entry, appliedSequenceId } = response;
  if (entry === undefined) process.exitCode = EXIT_NO;
  if (session.isJson) return session.printJson(GetEntryResponseSchema, response);
  if (entry === undefined) session.note(`key "${keyText(key)}" is not held at entry ${appliedSequenceId}`);
  else await session.print(entryText(entry));
}

function summaryText(state: GetStateHashResponse): string {
  const lines = [
    labelled("hash", Buffer.from(state.stateHash).toString("hex")),
    labelled("applied", state.appliedSequenceId.toString()),
    labelled("head", state.headSequenceId.toString()),
    labelled("phase", PHASES[state.phase] ?? String(state.phase)),
    labelled("keys", `${state.keys} (${humanBytes(state.bytes)})`),
  ];
  if (state.keyOrderViolations > 0n) {
    lines.push(labelled("", `${state.keyOrderViolations} keys dropped because their order was violated`));
  }
  return lines.join("\n");
}

function entryText(entry: StateEntry): string {
  const lines = [
    labelled("key", keyText(entry.key)),
    labelled("sequence", `${entry.sequenceId}, ${entry.keySequenceId} of the key`),
    labelled("time", timeText(entry.timestampMs)),
  ];
  if (entry.leaseUntilMs > 0n) lines.push(labelled("lease ends", timeText(entry.leaseUntilMs)));
  lines.push(labelled("payload", payloadText(entry.payload)));
  return lines.join("\n");
}
