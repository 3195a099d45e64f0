import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Command } from "commander";
import type { Campaign } from "../client/campaign.js";
import { OplogRpcError } from "../client/errors.js";
import { CampaignResponseSchema } from "../gen/oplog/v1/leadership_pb.js";
import { parseDurationMs } from "./arguments.js";
import { EXIT_NO } from "./failures.js";
import { interruptible } from "./interrupt.js";
import { campaignText } from "./leadership-text.js";
import { type Session, withSession } from "./session.js";

interface CampaignOptions {
  readonly id: string;
  readonly ttl?: number;
  readonly handshake: boolean;
  readonly aliveWithin?: number;
}

const HELP = `
Stands until it is its turn, and then leads for as long as it runs; each message of the sidecar is a line. It has no state
of its own, so it answers Prepare at once. Ctrl-C resigns, and so does the end of the process in any other way.

To try it, in two terminals, and in a third:
  oplogctl campaign orders --id a
  oplogctl campaign orders --id b
  oplogctl hand-over orders b`;

export function campaignCommand(): Command {
  return new Command("campaign")
    .description("Stand for the leadership of a log, and hold it until Ctrl-C.")
    .argument("<log>", "name of the log; it need not exist yet")
    .requiredOption("--id <id>", "name of the candidate, unique among those of the log")
    .option(
      "--ttl <duration>",
      "how long the leadership outlives a dead sidecar, 1s to 60s (default: 5s)",
      parseDurationMs,
    )
    .option("--no-handshake", "tell the sidecar that there is nothing to prepare")
    .option(
      "--alive-within <duration>",
      "promise a sign of life this often, 500ms to 60s: a process that is stopped (Ctrl-Z) then loses the leadership",
      parseDurationMs,
    )
    .addHelpText("after", HELP)
    .action((log: string, options: CampaignOptions, command: Command) =>
      withSession(command, log, (session) => interruptible((signal) => campaign(session, log, options, signal))),
    );
}

async function campaign(session: Session, log: string, options: CampaignOptions, signal: AbortSignal): Promise<void> {
  const { id, ttl, handshake, aliveWithin } = options;
  const candidate = {
    log,
    id,
    noHandshake: !handshake,
    ...(ttl === undefined ? {} : { ttl: durationFromMs(ttl) }),
    ...(aliveWithin === undefined ? {} : { aliveWithin: durationFromMs(aliveWithin) }),
  };
  const campaign = session.client.campaign(
    candidate,
    aliveWithin === undefined ? {} : { aliveEveryMs: Math.ceil(aliveWithin / 3) },
  );
  const onInterrupt = () => campaign.resign();
  signal.addEventListener("abort", onInterrupt, { once: true });
  try {
    const hasLost = await hold(session, campaign, handshake);
    if (hasLost) process.exitCode = EXIT_NO;
    else if (!signal.aborted) throw new OplogRpcError({ code: "UNAVAILABLE", message: "the sidecar ended the stream" });
  } finally {
    signal.removeEventListener("abort", onInterrupt);
  }
}

/** Until the stream ends; whether Lost came. */
async function hold(session: Session, campaign: Campaign, handshake: boolean): Promise<boolean> {
  let isAnswered = false;
  let hasLost = false;
  // Campaign has no deadline, and a host that swallows packets would never be noticed.
  const silence = setTimeout(() => campaign.cancel(), session.timeoutMs);
  try {
    for await (const response of campaign) {
      clearTimeout(silence);
      isAnswered = true;
      const { message } = response;
      if (message.case === "prepare" && handshake) campaign.ready(message.value.finalSequenceId);
      hasLost ||= message.case === "lost";
      if (session.isJson) await session.printJson(CampaignResponseSchema, response);
      else await session.print(campaignText(response));
    }
  } catch (error) {
    const isSilent = !isAnswered && error instanceof OplogRpcError && error.code === "CANCELLED";
    throw isSilent ? new OplogRpcError({ code: "DEADLINE_EXCEEDED", message: "no message came" }) : error;
  } finally {
    clearTimeout(silence);
  }
  return hasLost;
}
