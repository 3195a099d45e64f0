import { Command } from "commander";
import {
  type GetPromotionReadinessResponse,
  GetPromotionReadinessResponseSchema,
  PromotionVerdict,
} from "../gen/oplog/v1/standby_pb.js";
import { EXIT_NO } from "./failures.js";
import { keyText } from "./render.js";
import { type Session, withSession } from "./session.js";
import { PHASES } from "./state.js";
import { labelled } from "./status-text.js";

const VERDICTS: Record<PromotionVerdict, string> = {
  [PromotionVerdict.UNSPECIFIED]: "unknown",
  [PromotionVerdict.PROMOTABLE]: "promotable: a candidate at this sidecar would lead at once",
  [PromotionVerdict.STANDING_BY]: "standing by: only the lease of the leader is in the way",
  [PromotionVerdict.NOT_PROMOTABLE]: "NOT promotable",
};

export function readinessCommand(): Command {
  return new Command("readiness")
    .description("Tell whether a candidate at this sidecar could lead with nothing missing, and what is in the way.")
    .argument("<log>", "name of the log; oplogd must keep a view of it (--views)")
    .addHelpText("after", "\nExit code 0 when promotable or standing by, 2 when not.")
    .action((log: string, _options: object, command: Command) =>
      withSession(command, log, (session) => readiness(session, log)),
    );
}

async function readiness(session: Session, log: string): Promise<void> {
  const response = await session.client.getPromotionReadiness({ log });
  if (session.isJson) await session.printJson(GetPromotionReadinessResponseSchema, response);
  else await session.print(readinessText(response));
  const { verdict } = response;
  const isReady = verdict === PromotionVerdict.PROMOTABLE || verdict === PromotionVerdict.STANDING_BY;
  if (!isReady) process.exitCode = EXIT_NO;
}

export function readinessText(readiness: GetPromotionReadinessResponse): string {
  const { verdict, phase, appliedSequenceId: applied, headSequenceId: head, blockers } = readiness;
  const missing = head > applied ? ` (${head - applied} entries missing)` : "";
  return [
    labelled("verdict", VERDICTS[verdict] ?? String(verdict)),
    labelled("phase", PHASES[phase] ?? String(phase)),
    labelled("applied", `${applied}${missing}`),
    // Of a log with entries in the view, 0 means that the store did not tell.
    labelled("head", head === 0n && applied > 0n ? "not known" : `${head}`),
    ...blockers.map(({ message }, index) => labelled(index === 0 ? "in the way" : "", keyText(message))),
  ].join("\n");
}
