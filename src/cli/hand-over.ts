import { durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";
import { Command } from "commander";
import { OplogRpcError } from "../client/errors.js";
import { HandOverResponseSchema, LeadershipMode, ResignResponseSchema } from "../gen/oplog/v1/leadership_pb.js";
import type { Leader } from "../gen/oplog/v1/oplog_pb.js";
import { parseDurationMs } from "./arguments.js";
import { nameOf } from "./leadership-text.js";
import { humanDuration, keyText } from "./render.js";
import { type Session, withSession } from "./session.js";

interface HandOverOptions {
  readonly hold?: number;
}

/** What the sidecar holds appends back for unless told. */
const HOLD_MS = 3000;

export function resignCommand(): Command {
  return new Command("resign")
    .description("Make the leader of an elected log give up at once; the next candidate leads.")
    .argument("<log>", "name of the log")
    .addHelpText("after", "\nAny sidecar will do as --target: it tells where the leader is.")
    .action((log: string, _options: object, command: Command) =>
      withSession(command, log, (session) => resign(session, log)),
    );
}

export function handOverCommand(): Command {
  return new Command("hand-over")
    .description("Pass the leadership of an elected log to a candidate that waits, with nothing lost.")
    .argument("<log>", "name of the log")
    .argument("<candidate>", "id of the candidate; `oplogctl leader LOG` lists them")
    .option("--hold <duration>", "how long appends may be held back, 50ms to 60s (default: 3s)", parseDurationMs)
    .addHelpText(
      "after",
      "\nAny sidecar will do as --target: it tells where the leader is. If the candidate is not ready in time the leader stays.",
    )
    .action((log: string, candidate: string, options: HandOverOptions, command: Command) =>
      withSession(command, log, (session) => handOver(session, log, candidate, options)),
    );
}

async function resign(session: Session, log: string): Promise<void> {
  const leader = await leaderOf(session, log);
  const response = await atLeader(session, leader, () => session.client.resign({ log }));
  if (session.isJson) return session.printJson(ResignResponseSchema, response);
  const { term, finalSequenceId } = response;
  await session.print(`${keyText(leader.id)} leads no more: term ${term} has ended with entry ${finalSequenceId}`);
}

async function handOver(session: Session, log: string, target: string, { hold }: HandOverOptions): Promise<void> {
  const leader = await leaderOf(session, log);
  const request = { log, target, ...(hold === undefined ? {} : { timeout: durationFromMs(hold) }) };
  // The target's sidecar may read beforehand for as long again.
  const deadlineMs = session.timeoutMs + 2 * (hold ?? HOLD_MS);
  const response = await atLeader(session, leader, () => session.client.handOver(request, { deadlineMs }));
  if (session.isJson) return session.printJson(HandOverResponseSchema, response);
  const held = response.held ? `; appends were held back for ${humanDuration(durationMs(response.held))}` : "";
  const ended = `that of ${keyText(leader.id)} has ended with entry ${response.finalSequenceId}`;
  await session.print(`${keyText(target)} leads, term ${response.term}; ${ended}${held}`);
}

async function leaderOf(session: Session, log: string): Promise<Leader> {
  const { leader, mode, vacant } = await session.client.getLeader({ log });
  if (leader === undefined || mode !== LeadershipMode.ELECTED) {
    const message = `nobody campaigns for log "${log}"; who writes it is not elected`;
    throw new OplogRpcError({ code: "FAILED_PRECONDITION", reason: "NOT_ELECTED", message });
  }
  if (vacant) {
    const message = `nobody leads log "${log}"; the last to do so was ${nameOf(leader)}`;
    throw new OplogRpcError({ code: "FAILED_PRECONDITION", reason: "NOT_PRIMARY", message });
  }
  return leader;
}

/** Here, or else where that leader is; never on to another one, whom it was not meant for. */
async function atLeader<T>(session: Session, leader: Leader, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    const isElsewhere = error instanceof OplogRpcError && error.reason === "NOT_PRIMARY";
    if (!isElsewhere || leader.endpoint === "" || leader.endpoint === session.target) throw error;
    session.note(`the leader is ${nameOf(leader)}; going there`);
    session.goTo(leader.endpoint);
    return run();
  }
}
