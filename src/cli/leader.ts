import { Command } from "commander";
import { GetLeaderResponseSchema, WatchLeaderResponseSchema } from "../gen/oplog/v1/leadership_pb.js";
import { interruptible } from "./interrupt.js";
import { candidatesText, leaderText } from "./leadership-text.js";
import { type Session, withSession } from "./session.js";

interface LeaderOptions {
  readonly watch?: boolean;
}

export function leaderCommand(): Command {
  return new Command("leader")
    .description("Show who leads a log, how it came to, and who else stands for it.")
    .argument("<log>", "name of the log")
    .option("--watch", "again on every change")
    .action((log: string, options: LeaderOptions, command: Command) =>
      withSession(command, log, (session) => (options.watch ? watch(session, log) : once(session, log))),
    );
}

async function once(session: Session, log: string): Promise<void> {
  const leadership = await session.client.getLeader({ log });
  if (session.isJson) return session.printJson(GetLeaderResponseSchema, leadership);
  await session.print([leaderText(leadership), ...candidatesText(leadership)].join("\n"));
}

function watch(session: Session, log: string): Promise<void> {
  return interruptible(async (signal) => {
    for await (const leadership of session.client.watchLeader({ log }, { signal })) {
      if (session.isJson) await session.printJson(WatchLeaderResponseSchema, leadership);
      else await session.print(leaderText(leadership));
    }
  });
}
