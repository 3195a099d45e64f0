import { Command } from "commander";
import { DeleteCursorResponseSchema } from "../gen/oplog/v1/admin_pb.js";
import { keyText } from "./render.js";
import { type Session, withSession } from "./session.js";

export function deleteCursorCommand(): Command {
  return new Command("delete-cursor")
    .description("Remove the cursor of a consumer that is gone, or one that is damaged.")
    .argument("<log>", "name of the log")
    .argument("<consumer>", "name of the consumer; `oplogctl status LOG` lists them")
    .addHelpText("after", "\nA consumer that still reports makes its cursor anew.")
    .action((log: string, consumer: string, _options: object, command: Command) =>
      withSession(command, log, (session) => deleteCursor(session, log, consumer)),
    );
}

async function deleteCursor(session: Session, log: string, consumer: string): Promise<void> {
  const response = await session.client.deleteCursor({ log, consumer });
  if (session.isJson) return session.printJson(DeleteCursorResponseSchema, response);
  await session.print(`the cursor of ${keyText(consumer)} is removed`);
}
