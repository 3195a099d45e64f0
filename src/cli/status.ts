import { Command } from "commander";
import { OplogRpcError } from "../client/errors.js";
import {
  type GetStatusResponse,
  GetStatusResponseSchema,
  WatchStatusResponseSchema,
} from "../gen/oplog/v1/oplog_pb.js";
import { interruptible } from "./interrupt.js";
import { reconnecting } from "./reconnect.js";
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
    .option("--watch", "again whenever something changes; goes on when the sidecar is restarted")
    .action((log: string | undefined, options: StatusOptions, command: Command) =>
      withSession(command, log, (session) => (options.watch ? watch(session, log) : once(session, log))),
    );
}

async function once(session: Session, log = ""): Promise<void> {
  const status = await session.client.getStatus({ log });
  if (session.isJson) await session.printJson(GetStatusResponseSchema, status);
  else await session.print(statusText(status, Date.now()));
  if (isUnknown(log, status)) throw new OplogRpcError({ code: "UNAVAILABLE", message: unknownText(log) });
}

function watch(session: Session, log = ""): Promise<void> {
  return interruptible(async (signal) => {
    let wasUnknown = false;
    const open = (each: AbortSignal) => session.client.watchStatus({ log }, { signal: each });
    for await (const status of reconnecting(session, open, signal)) {
      if (session.isJson) await session.printJson(WatchStatusResponseSchema, status);
      else await session.print(screen(status));
      if (isUnknown(log, status) && !wasUnknown) session.note(unknownText(log));
      wasUnknown = isUnknown(log, status);
    }
  });
}

/** A sidecar that cannot ask its store, and has never seen the log, tells of itself alone. */
function isUnknown(log: string, status: Pick<GetStatusResponse, "log">): boolean {
  return log !== "" && status.log === undefined;
}

function unknownText(log: string): string {
  return `nothing is known of log "${log}" here while the store does not answer`;
}

function screen(status: Pick<GetStatusResponse, "sidecar" | "log">): string {
  const text = statusText(status, Date.now());
  return process.stdout.isTTY ? CLEAR_SCREEN + text : `${text}\n`;
}
