import { durationMs } from "@bufbuild/protobuf/wkt";
import {
  type CampaignResponse,
  type GetLeaderResponse,
  LeadershipMode,
  type Lost,
  LostReason,
  type PromotionTimes,
} from "../gen/oplog/v1/leadership_pb.js";
import type { Leader } from "../gen/oplog/v1/oplog_pb.js";
import { humanDuration, keyText, table } from "./render.js";

type Leadership = Pick<GetLeaderResponse, "leader" | "token" | "mode" | "vacant"> &
  Partial<Pick<GetLeaderResponse, "leaseLeft" | "preparing">>;

/** One line. */
export function leaderText({ leader, token, mode, vacant, leaseLeft, preparing }: Leadership): string {
  if (leader === undefined || leader.term === 0n) return "nobody has claimed this log";
  if (vacant) return `vacant: nobody leads, the last to do so was ${nameOf(leader)}`;
  const lease = leaseLeft ? `, lease ends in ${humanDuration(durationMs(leaseLeft))} unless renewed` : "";
  const readiness = preparing ? ", not ready yet" : "";
  return `${nameOf(leader)}, ${claimText(mode, token)}${readiness}${lease}`;
}

/** Nothing where nobody is elected. */
export function candidatesText({ candidates, leader, mode, vacant, preparing }: GetLeaderResponse): string[] {
  if (candidates.length === 0) return mode === LeadershipMode.ELECTED ? ["", "candidates  none"] : [];
  const rows = candidates.map(({ id, endpoint, problem }) => {
    const isLeader = !vacant && id === leader?.id;
    const leads = preparing ? "preparing" : "leads";
    if (problem !== "") return [keyText(id), "-", `damaged: ${problem}`];
    return [keyText(id), keyText(endpoint) || "-", isLeader ? leads : "waits"];
  });
  return ["", "candidates", ...table(["ID", "ENDPOINT", ""], rows).map((line) => `  ${line}`)];
}

/** One line for each message of a campaign. */
export function campaignText({ message }: CampaignResponse): string {
  switch (message.case) {
    case "waiting": {
      const { leader, storeRefusal } = message.value;
      if (storeRefusal !== "")
        return `waiting: the store refuses, tried again until it does not: ${keyText(storeRefusal)}`;
      return leader?.id ? `waiting: the leader is ${nameOf(leader)}` : "waiting: somebody else is about to lead";
    }
    case "prepare": {
      const { term, finalSequenceId, isHandOver } = message.value;
      const because = isHandOver ? "the leader hands over" : "every earlier leader is fenced";
      return `prepare: ${because}; term ${term}, everything up to entry ${finalSequenceId} must have been applied`;
    }
    case "leading": {
      const { term, nextSequenceId, times } = message.value;
      return `leading: term ${term}, the next entry is ${nextSequenceId}${times ? timesText(times) : ""}`;
    }
    case "leaseRenewed":
      return `lease renewed: nobody else leads for ${humanDuration(Number(message.value.validForMs))}`;
    case "lost":
      return `lost: ${lostText(message.value)}`;
    case undefined:
      return "a message that this oplogctl does not know";
  }
}

const LOST: Record<LostReason, string> = {
  [LostReason.UNSPECIFIED]: "for no reason that was given",
  [LostReason.EXPIRED]: "the lease has run out",
  [LostReason.STORE_REPLACED]: "the store is not the one it was",
  [LostReason.FENCED]: "somebody else has claimed a higher term",
  [LostReason.RESIGNED]: "resigned",
  [LostReason.HANDED_OVER]: "handed over",
  [LostReason.STORE_UNREACHABLE]: "the store could not be reached to renew the lease",
  [LostReason.NOT_READY]: "not ready in time",
  [LostReason.SILENT]: "silent for longer than promised",
};

export function nameOf({ id, endpoint, term }: Leader): string {
  return `${keyText(id)}${endpoint === "" ? "" : ` at ${keyText(endpoint)}`}, term ${term}`;
}

function claimText(mode: LeadershipMode, token: bigint): string {
  if (mode === LeadershipMode.TOKEN) return `token ${token}`;
  return mode === LeadershipMode.ELECTED ? "elected" : "claimed by its first append";
}

function timesText({ fence, catchUp, objectLeases }: PromotionTimes): string {
  const steps = [
    fence && `fence ${humanDuration(durationMs(fence))}`,
    catchUp && `catch-up ${humanDuration(durationMs(catchUp))}`,
    objectLeases && `object leases ${humanDuration(durationMs(objectLeases))}`,
  ].filter((step) => step !== undefined);
  return steps.length === 0 ? "" : ` (${steps.join(", ")})`;
}

function lostText({ reason, message }: Lost): string {
  const text = LOST[reason] ?? `reason ${reason}`;
  return message === "" || message === text ? text : `${text}: ${keyText(message)}`;
}
