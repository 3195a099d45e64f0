import { Command } from "commander";
import {
  type GetLeaderResponse,
  GetLeaderResponseSchema,
  WatchLeaderResponseSchema,
} from "../gen/oplog/v1/leadership_pb.js";
import { interruptible } from "./interrupt.js";
import { type Session, withSession } from "./session.js";

interface LeaderOptions {
  readonly watch?: boolean;
}

export function leaderCommand(): Command {
  return new Command("leader")
    .description("Show who leads a log: the last one to claim its term.")
    .argument("<log>", "name of the log")
    .option("--watch", "again on every change")
    .action((log: string, options: LeaderOptions, command: Command) =>
      withSession(command, log, (session) => (options.watch ? watch(session, log) : once(session, log))),
    );
}

async function once(session: Session, log: string): Promise<void> {
  const leadership = await session.client.getLeader({ log });
  if (session.isJson) return session.printJson(GetLeaderResponseSchema, leadership);
  await session.print(leaderText(leadership));
}

function watch(session: Session, log: string): Promise<void> {
  return interruptible(async (signal) => {
    for await (const leadership of session.client.watchLeader({ log }, { signal })) {
      if (session.isJson) await session.printJson(WatchLeaderResponseSchema, leadership);
      else await session.print(leaderText(leadership));
    }
  });
}

function leaderText({ leader, token }: Pick<GetLeaderResponse, "leader" | "token">): string {
  if (leader === undefined || leader.term === 0n) return "nobody has claimed this log";
  const by = token === 0n ? "" : `, token ${token}`;
  return `${leader.id} at ${leader.endpoint}, term ${leader.term}${by}`;
}
