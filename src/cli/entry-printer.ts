import { type Entry, EntrySchema } from "../gen/oplog/v1/entry_pb.js";
import { ENTRY_HEADER, entryLine } from "./render.js";
import type { Session } from "./session.js";

/** Entries to stdout: JSON lines, or text with a header where a person is looking. */
export class EntryPrinter {
  private hasHeader = false;

  constructor(private readonly session: Session) {}

  async print(entry: Entry): Promise<void> {
    if (this.session.isJson) return this.session.printJson(EntrySchema, entry);
    const columns = process.stdout.isTTY ? process.stdout.columns : undefined;
    if (columns !== undefined && !this.hasHeader) await this.session.print(ENTRY_HEADER);
    this.hasHeader = true;
    await this.session.print(entryLine(entry, columns));
  }
}
