import { once } from "node:events";
import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import { toJsonString } from "@bufbuild/protobuf";
import type { Command } from "commander";
import { connect, type OplogClient } from "../client/client.js";
import { OplogRpcError } from "../client/errors.js";
import { CommandFailure, describeFailure, UsageError } from "./failures.js";
import { nearestNames } from "./names.js";
import { keyText } from "./render.js";

interface GlobalOptions {
  readonly target: string;
  readonly timeout: number;
  readonly json?: boolean;
}

/** What a command works with: the sidecar it was pointed at, or has gone to since, and where its output goes. */
export class Session {
  readonly timeoutMs: number;
  readonly isJson: boolean;
  /** Where failures are told to have happened. */
  target: string;
  client: OplogClient;

  constructor(options: GlobalOptions) {
    this.timeoutMs = options.timeout;
    this.isJson = options.json === true;
    this.client = connect(options.target, { deadlineMs: this.timeoutMs });
    this.target = this.client.target;
  }

  /** Talks to another sidecar from now on. */
  goTo(target: string): void {
    this.client.close();
    this.client = connect(target, { deadlineMs: this.timeoutMs });
    this.target = this.client.target;
  }

  /** Data, to stdout. Waits while the reader is slower. */
  async print(text: string): Promise<void> {
    if (!process.stdout.write(`${text}\n`)) await once(process.stdout, "drain");
  }

  printJson<D extends DescMessage>(schema: D, message: MessageShape<D>): Promise<void> {
    return this.print(toJsonString(schema, message, { useProtoFieldName: true, alwaysEmitImplicit: true }));
  }

  /** A word to the person, on stderr. One line, whatever others have put into it. */
  note(text: string): void {
    const line = keyText(text);
    process.stderr.write(this.isJson ? `${JSON.stringify({ note: line })}\n` : `oplogctl: ${line}\n`);
  }

  /** Throws LOG_NOT_FOUND if the store says that there is no such log. */
  async requireLog(log: string): Promise<void> {
    await this.client.getStatus({ log });
  }

  /** The names most like that of a log which does not exist, for the person who may have mistyped it. */
  async noteAbsence(log: string): Promise<void> {
    for (const line of await absence(this.client, log)) this.note(line);
  }
}

/** Runs a command with a session of its own; failures come out with what to do about them. */
export async function withSession(
  command: Command,
  log: string | undefined,
  run: (session: Session) => Promise<void>,
): Promise<void> {
  if (log === "") throw new UsageError("the name of the log is empty");
  const session = new Session(command.optsWithGlobals<GlobalOptions>());
  try {
    await run(session);
  } catch (error) {
    const { target, timeoutMs, client } = session;
    const failure = describeFailure(error, { target, timeoutMs, log, command: command.name() });
    if (error instanceof OplogRpcError && log !== undefined) {
      if (error.reason === "LOG_NOT_FOUND") failure.lines.push(...(await existingLogs(client, log)));
      if (error.reason === "NOT_ELECTED") {
        const missing = await absence(client, log);
        // Then there is nobody of whom the rest would be true.
        if (missing.length > 0) failure.lines.splice(1, failure.lines.length, ...missing);
      }
    }
    throw new CommandFailure(failure, error);
  } finally {
    session.client.close();
  }
}

/** Nothing of a log that exists, or when that cannot be found out. */
async function absence(client: OplogClient, log: string): Promise<string[]> {
  const isAbsent = await client.getStatus({ log }).then(
    () => false,
    (error) => error instanceof OplogRpcError && error.reason === "LOG_NOT_FOUND",
  );
  return isAbsent ? [`Log "${log}" does not exist.`, ...(await existingLogs(client, log))] : [];
}

const NAMES_MAX = 1000;

/** The failure being told is another one: if the names cannot be had, it is told without them. */
async function existingLogs(client: OplogClient, wanted: string): Promise<string[]> {
  const page = await client.listLogs({ pageSize: NAMES_MAX }).catch(() => undefined);
  if (page === undefined) return [];
  if (page.logs.length === 0) return ["This store holds no log yet."];
  const nearest = nearestNames(
    wanted,
    page.logs.map((summary) => summary.log),
  );
  return [`The nearest that exist: ${nearest.join(", ")} (all of them: oplogctl logs)`];
}
