import { Command } from "commander";
import { pause } from "../client/back-off.js";
import { OplogRpcError } from "../client/errors.js";
import { GetLeaderResponseSchema, WatchLeaderResponseSchema } from "../gen/oplog/v1/leadership_pb.js";
import type { Leader } from "../gen/oplog/v1/oplog_pb.js";
import { interruptible } from "./interrupt.js";
import { candidatesText, leaderText } from "./leadership-text.js";
import { reconnecting } from "./reconnect.js";
import { type Session, withSession } from "./session.js";

interface LeaderOptions {
  readonly watch?: boolean;
}

export function leaderCommand(): Command {
  return new Command("leader")
    .description("Show who leads a log, how it came to, and who else stands for it.")
    .argument("<log>", "name of the log")
    .option("--watch", "again on every change; goes on when the sidecar is restarted")
    .action((log: string, options: LeaderOptions, command: Command) =>
      withSession(command, log, (session) => (options.watch ? watch(session, log) : once(session, log))),
    );
}

async function once(session: Session, log: string): Promise<void> {
  const leadership = await session.client.getLeader({ log });
  // Who waits to lead a log that does not exist yet is worth showing.
  if (isUnclaimed(leadership) && leadership.candidates.length === 0) await session.requireLog(log);
  if (session.isJson) await session.printJson(GetLeaderResponseSchema, leadership);
  else await session.print([leaderText(leadership), ...candidatesText(leadership)].join("\n"));
}

function watch(session: Session, log: string): Promise<void> {
  return interruptible(async (signal) => {
    const ended = new AbortController();
    const outages = noteOutages(session, log, AbortSignal.any([signal, ended.signal]));
    try {
      let told: string | undefined;
      const open = (until: AbortSignal) => session.client.watchLeader({ log }, { signal: until });
      for await (const leadership of reconnecting(session, open, signal)) {
        const text = leaderText(leadership);
        // Each stream begins with who leads now.
        if (text === told) continue;
        if (session.isJson) await session.printJson(WatchLeaderResponseSchema, leadership);
        else await session.print(text);
        if (told === undefined && isUnclaimed(leadership)) await session.noteAbsence(log);
        told = text;
      }
    } finally {
      ended.abort();
      await outages;
    }
  });
}

function isUnclaimed({ leader }: { readonly leader?: Leader | undefined }): boolean {
  return leader === undefined || leader.term === 0n;
}

const ASK_EVERY_MS = 2_000;

/** While the store is away the stream is as silent as while nothing happens, so the sidecar is asked besides. */
async function noteOutages(session: Session, log: string, signal: AbortSignal): Promise<void> {
  let wasAway = false;
  for (;;) {
    await pause(ASK_EVERY_MS, signal);
    if (signal.aborted) return;
    const isAway = await session.client.getLeader({ log }, { signal }).then(
      () => false,
      // That the sidecar is away is told of the stream.
      (error) => (isStoreAway(error) ? true : wasAway),
    );
    if (signal.aborted) return;
    if (isAway && !wasAway) session.note("the store does not answer; a change of the leader is shown once it does");
    if (!isAway && wasAway) session.note("the store answers again");
    wasAway = isAway;
  }
}

function isStoreAway(error: unknown): boolean {
  if (!(error instanceof OplogRpcError)) return false;
  return error.reason === "STORE_UNREACHABLE" || (error.reason === "" && error.code === "DEADLINE_EXCEEDED");
}
