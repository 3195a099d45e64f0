import { Command, InvalidArgumentError } from "commander";
import { DeleteLogResponseSchema } from "../gen/oplog/v1/admin_pb.js";
import { type Session, withSession } from "./session.js";

export function deleteLogCommand(): Command {
  return new Command("delete-log")
    .description("Delete a log with all that is kept of it, for good; or complete a deletion that was interrupted.")
    .argument("<log>", "name of the log")
    .argument("<log-id>", "its id, in hex, so that no other log is meant; `oplogctl logs` lists them", parseLogId)
    .addHelpText(
      "after",
      "\nStop its master, and candidates for it, first: one that goes on makes another log of that name.\n" +
        "A large log takes long: --timeout 10m waits for it. Without, it goes on after the timeout all the same.",
    )
    .action((log: string, logId: Buffer, _options: object, command: Command) =>
      withSession(command, log, (session) => deleteLog(session, log, logId)),
    );
}

async function deleteLog(session: Session, log: string, logId: Buffer): Promise<void> {
  const response = await session.client.deleteLog({ log, logId });
  if (session.isJson) return session.printJson(DeleteLogResponseSchema, response);
  await session.print(`log "${log}" is deleted`);
}

function parseLogId(text: string): Buffer {
  if (!/^[0-9a-f]{32}$/i.test(text)) throw new InvalidArgumentError("It must be 32 digits of 0-9 and a-f.");
  return Buffer.from(text, "hex");
}
