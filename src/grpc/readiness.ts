import { create } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import {
  GetPromotionReadinessResponseSchema,
  PromotionBlockerKind,
  PromotionVerdict,
  StandbyPhase,
} from "../gen/oplog/v1/standby_pb.js";
import type { Phase } from "../standby/life-cycle.js";
import type { Blocker, BlockerKind, Verdict } from "../standby/readiness.js";
import type { PromotionReadiness } from "../standby/readiness-reader.js";

export const PHASES: Readonly<Record<Phase, StandbyPhase>> = {
  connecting: StandbyPhase.CONNECTING,
  bootstrapping: StandbyPhase.BOOTSTRAPPING,
  "catching up": StandbyPhase.CATCHING_UP,
  following: StandbyPhase.FOLLOWING,
  reconnecting: StandbyPhase.RECONNECTING,
  promoting: StandbyPhase.PROMOTING,
  promoted: StandbyPhase.PROMOTED,
  failed: StandbyPhase.FAILED,
};

const VERDICTS: Readonly<Record<Verdict, PromotionVerdict>> = {
  promotable: PromotionVerdict.PROMOTABLE,
  "standing by": PromotionVerdict.STANDING_BY,
  leading: PromotionVerdict.LEADING,
  "not promotable": PromotionVerdict.NOT_PROMOTABLE,
};

const BLOCKERS: Readonly<Record<BlockerKind, PromotionBlockerKind>> = {
  failed: PromotionBlockerKind.FAILED,
  "history diverged": PromotionBlockerKind.HISTORY_DIVERGED,
  "state diverged": PromotionBlockerKind.STATE_DIVERGED,
  "store unreachable": PromotionBlockerKind.STORE_UNREACHABLE,
  "store refuses": PromotionBlockerKind.STORE_REFUSES,
  gap: PromotionBlockerKind.GAP,
  "tail silent": PromotionBlockerKind.TAIL_SILENT,
  bootstrapping: PromotionBlockerKind.BOOTSTRAPPING,
  "not caught up": PromotionBlockerKind.NOT_CAUGHT_UP,
  promoted: PromotionBlockerKind.PROMOTED,
  "lease held": PromotionBlockerKind.LEASE_HELD,
  "leadership by token": PromotionBlockerKind.LEADERSHIP_BY_TOKEN,
};

export function toReadiness({ verdict, blockers, life, applied, head, history }: PromotionReadiness) {
  return create(GetPromotionReadinessResponseSchema, {
    verdict: VERDICTS[verdict],
    blockers: blockers.map(toBlocker),
    phase: PHASES[life.kind],
    appliedSequenceId: applied,
    headSequenceId: head ?? 0n,
    history: history.map((change) => ({
      phase: PHASES[change.to],
      at: timestampFromMs(change.atWallMs),
      appliedSequenceId: change.applied,
      reason: change.reason,
    })),
  });
}

function toBlocker({ kind, message, applied, head, missing, elapsedMs, leftMs, holder }: Blocker) {
  return {
    kind: BLOCKERS[kind],
    message,
    appliedSequenceId: applied ?? 0n,
    headSequenceId: head ?? 0n,
    firstMissingSequenceId: missing?.first ?? 0n,
    lastMissingSequenceId: missing?.last ?? 0n,
    ...(elapsedMs === undefined ? {} : { elapsed: durationFromMs(elapsedMs) }),
    ...(leftMs === undefined ? {} : { timeLeft: durationFromMs(leftMs) }),
    holder: holder ?? "",
  };
}
