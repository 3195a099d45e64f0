import type { OplogRpcError } from "../client/errors.js";
import type { FollowEvent } from "../client/follow.js";
import { connectProblem } from "./failures.js";
import { humanDuration } from "./render.js";

/** One line for the person who watches, or nothing for what is routine. */
export function noticeText(event: FollowEvent): string | undefined {
  switch (event.case) {
    case "caughtUp":
      return `caught up at ${event.value.headSequenceId}, what follows is live`;
    case "fellBehind":
      return `fell behind at ${event.value.nextSequenceId}, the head is ${event.value.headSequenceId}; nothing is skipped`;
    case "leaderChanged": {
      const leader = event.value.leader;
      const at = leader?.endpoint ? ` at ${leader.endpoint}` : "";
      return leader?.id ? `leader is now ${leader.id}${at}, term ${leader.term}` : "the log has no leader";
    }
    case "gapNotice":
      return `waiting for entries ${event.value.firstMissingSequenceId}..${event.value.lastMissingSequenceId}, which the store has not shown yet`;
    case "rebootstrapRequired":
      return `entry ${event.value.nextSequenceId} is no longer kept, the first readable one is ${event.value.floorSequenceId}`;
    case "broken":
      return brokenText(event.value.error, event.value.retryInMs);
    case "batch":
    case "heartbeat":
    case "snapshotChunk":
    case "snapshotEnd":
      return undefined;
  }
}

export function brokenText(error: OplogRpcError, retryInMs: number): string {
  return `${connectProblem(error.message)}; trying again in ${humanDuration(retryInMs)}`;
}
