import { timestampMs } from "@bufbuild/protobuf/wkt";
import { Command } from "commander";
import {
  type GetPromotionReadinessResponse,
  GetPromotionReadinessResponseSchema,
  PromotionBlockerKind,
  PromotionVerdict,
  type StandbyPhaseChange,
} from "../gen/oplog/v1/standby_pb.js";
import { EXIT_NO } from "./failures.js";
import { keyText, timeText } from "./render.js";
import { type Session, withSession } from "./session.js";
import { PHASES } from "./state.js";
import { labelled } from "./status-text.js";

const VERDICTS: Record<PromotionVerdict, string> = {
  [PromotionVerdict.UNSPECIFIED]: "unknown",
  [PromotionVerdict.PROMOTABLE]: "promotable: a candidate at this sidecar would lead at once",
  [PromotionVerdict.STANDING_BY]: "standing by: only the lease of the leader is in the way",
  [PromotionVerdict.LEADING]: "leading: a candidate at this sidecar leads",
  [PromotionVerdict.NOT_PROMOTABLE]: "NOT promotable",
};

const READY: readonly PromotionVerdict[] = [
  PromotionVerdict.LEADING,
  PromotionVerdict.PROMOTABLE,
  PromotionVerdict.STANDING_BY,
];

const CHANGES_SHOWN = 5;

export function readinessCommand(): Command {
  return new Command("readiness")
    .description("Tell whether a candidate at this sidecar could lead with nothing missing, and what is in the way.")
    .argument("<log>", "name of the log; oplogd must keep a view of it (--views)")
    .addHelpText("after", "\nExit code 0 when leading, promotable or standing by, 3 when not.")
    .action((log: string, _options: object, command: Command) =>
      withSession(command, log, (session) => readiness(session, log)),
    );
}

async function readiness(session: Session, log: string): Promise<void> {
  const response = await session.client.getPromotionReadiness({ log });
  if (session.isJson) await session.printJson(GetPromotionReadinessResponseSchema, response);
  else await session.print(readinessText(response));
  if (!READY.includes(response.verdict)) process.exitCode = EXIT_NO;
}

export function readinessText(readiness: GetPromotionReadinessResponse): string {
  const { verdict, phase, appliedSequenceId: applied, headSequenceId: head, blockers, history } = readiness;
  const missing = head > applied ? ` (${head - applied} entries missing)` : "";
  return [
    labelled("verdict", VERDICTS[verdict] ?? String(verdict)),
    labelled("phase", PHASES[phase] ?? String(phase)),
    labelled("applied", `${applied}${missing}`),
    labelled("head", isHeadUnknown(readiness) ? "not known" : `${head}`),
    ...blockers.map(({ message }, index) => labelled(index === 0 ? "in the way" : "", keyText(message))),
    ...history.slice(-CHANGES_SHOWN).map((change, index) => labelled(index === 0 ? "history" : "", changeText(change))),
  ].join("\n");
}

/** Of an empty log it is 0; otherwise that means that it could not be read, or is of no use. */
function isHeadUnknown({ headSequenceId, blockers }: GetPromotionReadinessResponse): boolean {
  const { STORE_UNREACHABLE, STORE_REFUSES, FAILED, HISTORY_DIVERGED } = PromotionBlockerKind;
  const kinds = [STORE_UNREACHABLE, STORE_REFUSES, FAILED, HISTORY_DIVERGED];
  return headSequenceId === 0n && blockers.some(({ kind }) => kinds.includes(kind));
}

function changeText({ phase, at, appliedSequenceId, reason }: StandbyPhaseChange): string {
  const time = at === undefined ? "" : `${timeText(BigInt(timestampMs(at)))}  `;
  return `${time}${PHASES[phase] ?? phase} at ${appliedSequenceId}: ${keyText(reason)}`;
}
