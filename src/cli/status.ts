import { Command } from "commander";
import {
  type GetStatusResponse,
  GetStatusResponseSchema,
  WatchStatusResponseSchema,
} from "../gen/oplog/v1/oplog_pb.js";
import { interruptible } from "./interrupt.js";
import { type Session, withSession } from "./session.js";
import { statusText } from "./status-text.js";

interface StatusOptions {
  readonly watch?: boolean;
}

const CLEAR_SCREEN = "\u001b[2J\u001b[H";

export function statusCommand(): Command {
  return new Command("status")
    .description("Show the sidecar and its store and, if one is named, a log: head, leader, subscribers, cursors.")
    .argument("[log]", "name of the log")
    .option("--watch", "again whenever something changes")
    .action((log: string | undefined, options: StatusOptions, command: Command) =>
      withSession(command, log, (session) => (options.watch ? watch(session, log) : once(session, log))),
    );
}

async function once(session: Session, log = ""): Promise<void> {
  const status = await session.client.getStatus({ log });
  if (session.isJson) return session.printJson(GetStatusResponseSchema, status);
  await session.print(statusText(status, Date.now()));
}

function watch(session: Session, log = ""): Promise<void> {
  return interruptible(async (signal) => {
    for await (const status of session.client.watchStatus({ log }, { signal })) {
      if (session.isJson) await session.printJson(WatchStatusResponseSchema, status);
      else await session.print(screen(status));
    }
  });
}

function screen(status: Pick<GetStatusResponse, "sidecar" | "log">): string {
  const text = statusText(status, Date.now());
  return process.stdout.isTTY ? CLEAR_SCREEN + text : `${text}\n`;
}
