import { Command, Option } from "commander";
import { parseCount, parseUint64 } from "./arguments.js";
import { EntryPrinter } from "./entry-printer.js";
import { type Session, withSession } from "./session.js";

interface ReadOptions {
  readonly from: bigint;
  readonly limit: number;
}

const PAGE_ENTRIES = 1000;

export function readCommand(): Command {
  return new Command("read")
    .description("Print a stretch of a log.")
    .argument("<log>", "name of the log")
    .addOption(
      new Option("--from <id>", "sequence id to start at")
        .argParser(parseUint64)
        .default(0n, "0, the first that is left"),
    )
    .option("--limit <n>", "at most so many entries", parseCount, 100)
    .action((log: string, options: ReadOptions, command: Command) =>
      withSession(command, log, (session) => read(session, log, options)),
    );
}

async function read(session: Session, log: string, options: ReadOptions): Promise<void> {
  const printer = new EntryPrinter(session);
  let next = options.from;
  let left = options.limit;
  for (;;) {
    const page = await session.client.read({
      log,
      fromSequenceId: next,
      maxEntries: Math.min(left, PAGE_ENTRIES),
    });
    for (const entry of page.entries) await printer.print(entry);
    left -= page.entries.length;
    next = page.nextSequenceId;
    if (page.entries.length === 0 || next > page.headSequenceId) return;
    if (left === 0) return session.note(`more follows: --from ${next} (the head is ${page.headSequenceId})`);
  }
}
