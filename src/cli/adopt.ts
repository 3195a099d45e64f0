import { Command } from "commander";
import { AdoptResponseSchema } from "../gen/oplog/v1/admin_pb.js";
import { withSession } from "./session.js";

const AFTER_HELP = `
A sidecar refuses a store that is another one than it was, or holds older data than it has seen: STORE_REPLACED,
HISTORY_DIVERGED, and /readyz tells so. After a restore that is meant, run this at each sidecar. What the sidecar has seen
is forgotten and its views are built anew; the logs are not changed. Entries that came after the backup are lost.`;

export function adoptCommand(): Command {
  return new Command("adopt")
    .description("Take the store as it is now for the right one, after it was restored or moved.")
    .addHelpText("after", AFTER_HELP)
    .action((_options: unknown, command: Command) =>
      withSession(command, undefined, async (session) => {
        const adopted = await session.client.adopt();
        if (session.isJson) return session.printJson(AdoptResponseSchema, adopted);
        const store = adopted.storeIdentity === "" ? "the store" : `store ${adopted.storeIdentity}`;
        return session.print(`${store} is adopted at ${session.target}`);
      }),
    );
}
