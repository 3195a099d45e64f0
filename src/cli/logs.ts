import { Command } from "commander";
import { type LogSummary, LogSummarySchema } from "../gen/oplog/v1/oplog_pb.js";
import { keyText, table } from "./render.js";
import { type Session, withSession } from "./session.js";

const PAGE_LOGS = 1000;

export function logsCommand(): Command {
  return new Command("logs")
    .description("List the logs of the store.")
    .action((_options: object, command: Command) => withSession(command, undefined, logs));
}

async function logs(session: Session): Promise<void> {
  let count = 0;
  let pageToken = "";
  do {
    const page = await session.client.listLogs({ pageSize: PAGE_LOGS, pageToken });
    if (session.isJson) {
      for (const summary of page.logs) await session.printJson(LogSummarySchema, summary);
    } else if (page.logs.length > 0) {
      await session.print(table(["LOG", "HEAD", "TERM", "LOG ID"], page.logs.map(row)).join("\n"));
    }
    for (const { log, problem, deleting, logId } of page.logs) {
      if (deleting) session.note(`log "${log}" is being deleted: ${deletionAdvice(log, logId)}`);
      if (problem !== "") session.note(`log "${log}" is damaged: ${keyText(problem)}`);
    }
    if (page.problem !== "") session.note(keyText(page.problem));
    count += page.logs.length;
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  if (count === 0) session.note("no log yet; the first append makes one");
}

/** What to do about a log that is being deleted. */
export function deletionAdvice(log: string, logId: Uint8Array): string {
  return `if that was interrupted, \`oplogctl delete-log ${log} ${Buffer.from(logId).toString("hex")}\` completes it`;
}

function row(summary: LogSummary): string[] {
  return [
    summary.log,
    summary.headSequenceId.toString(),
    summary.term.toString(),
    Buffer.from(summary.logId).toString("hex"),
  ];
}
