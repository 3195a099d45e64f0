import { Command, Option } from "commander";
import { OplogRpcError } from "../client/errors.js";
import type { FollowEvent, FollowRequest } from "../client/follow.js";
import {
  OP_NAMES,
  OP_TYPES,
  type OpName,
  parseCount,
  parseOps,
  parseStart,
  parseUint64,
  type Start,
} from "./arguments.js";
import { EntryPrinter } from "./entry-printer.js";
import { noticeText } from "./notices.js";
import { type Session, withSession } from "./session.js";

interface TailOptions {
  readonly last?: bigint;
  readonly from?: Start;
  readonly follow?: boolean;
  readonly limit?: number;
  readonly keyPrefix?: string;
  readonly op?: OpName[];
}

const LAST_ENTRIES = 10n;
const EXIT_INTERRUPTED = 130;

export function tailCommand(): Command {
  return new Command("tail")
    .description(
      "Print the last entries of a log, or those from a position on; with -f also what is appended from now on.",
    )
    .argument("<log>", "name of the log; with -f, one that does not exist yet is waited for")
    .option("-n, --last <n>", "the last n entries (default: 10)", parseUint64)
    .addOption(
      new Option("--from <position>", "begin, head, a sequence id N, @TIME (RFC 3339), or cursor:NAME")
        .argParser(parseStart)
        .conflicts("last"),
    )
    .option("-f, --follow", "go on with what is appended, until Ctrl-C; also when the sidecar is restarted")
    .option("--limit <n>", "end after so many entries", parseCount)
    .option("--key-prefix <prefix>", "only entries whose key starts so")
    .option("--op <ops>", `only entries of these types: ${OP_NAMES.join(", ")}; several with commas`, parseOps)
    .action((log: string, options: TailOptions, command: Command) =>
      withSession(command, log, (session) => new Tail(session, log, options).run()),
    );
}

class Tail {
  private readonly printer: EntryPrinter;
  private readonly abort = new AbortController();
  private left: number;
  private isInterrupted = false;
  private isAbsent = false;

  constructor(
    private readonly session: Session,
    private readonly log: string,
    private readonly options: TailOptions,
  ) {
    this.printer = new EntryPrinter(session);
    this.left = options.limit ?? Number.POSITIVE_INFINITY;
  }

  async run(): Promise<void> {
    const onInterrupt = () => {
      this.isInterrupted = true;
      this.abort.abort();
    };
    process.once("SIGINT", onInterrupt);
    try {
      await this.follow(await this.request());
    } catch (error) {
      if (!this.isInterrupted) throw error;
    } finally {
      process.removeListener("SIGINT", onInterrupt);
    }
    if (this.isInterrupted) process.exitCode = EXIT_INTERRUPTED;
  }

  private async follow(request: FollowRequest): Promise<void> {
    // Subscribe has no deadline, and a host that swallows packets would never be noticed.
    let isUnanswered = false;
    const silence = setTimeout(() => {
      isUnanswered = true;
      this.abort.abort();
    }, this.session.timeoutMs);
    try {
      for await (const event of this.session.client.follow(request, { signal: this.abort.signal })) {
        clearTimeout(silence);
        if ((await this.handle(event)) === "done") return;
      }
    } finally {
      clearTimeout(silence);
    }
    if (isUnanswered) throw new OplogRpcError({ code: "DEADLINE_EXCEEDED", message: "no frame came" });
  }

  private async request(): Promise<FollowRequest> {
    const { from, last = LAST_ENTRIES, keyPrefix, op } = this.options;
    const start = from ?? (await this.startOfLast(last));
    const filter = { keyPrefix: keyPrefix ?? "", opTypes: (op ?? []).map((name) => OP_TYPES[name]) };
    const isFiltered = keyPrefix !== undefined || op !== undefined;
    return { log: this.log, start, ...(isFiltered ? { filter } : {}) };
  }

  private async startOfLast(entries: bigint): Promise<Start> {
    try {
      const { log } = await this.session.client.getStatus({ log: this.log }, { signal: this.abort.signal });
      if (log !== undefined && log.headSequenceId > 0n) {
        const { headSequenceId: head, floorSequenceId: floor } = log;
        const first = head - entries + 1n;
        return { case: "fromSequenceId", value: first > floor ? first : floor };
      }
    } catch (error) {
      if (!(error instanceof OplogRpcError) || error.reason !== "LOG_NOT_FOUND") throw error;
    }
    return { case: "fromBeginning", value: true };
  }

  private async handle(event: FollowEvent): Promise<"done" | "more"> {
    if (event.case === "batch") {
      for (const entry of event.value.entries) {
        await this.printer.print(entry);
        this.left -= 1;
        if (this.left === 0) return "done";
      }
      return "more";
    }
    if (event.case === "broken" && !event.value.hadConnected) throw event.value.error;
    if (event.case === "heartbeat") this.noteAbsence(event.value.logId);
    if (event.case === "caughtUp" && !this.options.follow) return "done";
    const notice = noticeText(event);
    if (notice !== undefined) this.session.note(notice);
    return "more";
  }

  private noteAbsence(logId: Uint8Array): void {
    if (logId.length > 0) {
      this.isAbsent = false;
    } else if (!this.options.follow) {
      const message = `log "${this.log}" does not exist; its first append makes it`;
      throw new OplogRpcError({ code: "NOT_FOUND", reason: "LOG_NOT_FOUND", message, metadata: { log: this.log } });
    } else if (!this.isAbsent) {
      this.isAbsent = true;
      this.session.note(
        `log "${this.log}" does not exist yet; waiting for its first append (oplogctl logs lists those that do)`,
      );
    }
  }
}
