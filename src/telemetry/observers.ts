import type { ReplicationObserver } from "../oplog/observer.js";
import type { CampaignObserver } from "../promotion/campaign.js";
import { PHASES, type Phase } from "../standby/life-cycle.js";
import type { EvictionObserver } from "../standby/sweep.js";
import type { ViewObserver } from "../standby/view.js";
import type { StoreObserver } from "../stores/monitored-kv-store.js";
import type { Metrics } from "./metrics.js";

/** From what the rooms tell to the metrics. */
export function replicationObserver(metrics: Metrics): ReplicationObserver {
  return {
    appended(log, appends, entries, bytes) {
      if (appends === 0) return;
      metrics.appends.inc({ log, outcome: "OK" }, appends);
      metrics.entriesAppended.inc({ log }, entries);
      metrics.bytesAppended.inc({ log }, bytes);
    },
    refused: (log, reason) => metrics.appends.inc({ log, outcome: reason }),
    committed(log, entries, seconds) {
      metrics.commitSeconds.observe({ log }, seconds);
      metrics.recordEntries.observe({ log }, entries);
    },
    writeRetried: (log) => metrics.writeRetries.inc({ log }),
    headMoved: (log, head) => metrics.head.set({ log }, Number(head)),
    termSeen: (log, term) => metrics.term.set({ log }, Number(term)),
    leading: (log, isPrimary) => metrics.isPrimary.set({ log }, isPrimary ? 1 : 0),
    floorMoved: (log, floor) => metrics.floor.set({ log }, Number(floor)),
    delivered(log, entries, bytes) {
      metrics.entriesDelivered.inc({ log }, entries);
      metrics.bytesDelivered.inc({ log }, bytes);
    },
    watchBroken: (log) => metrics.watchRestarts.inc({ log }),
    gapSeen: (log) => metrics.gaps.inc({ log }),
    fellBehind: (log) => metrics.fellBehind.inc({ log }),
    subscribers: (log, count) => metrics.subscribers.set({ log }, count),
  };
}

export function viewObserver(metrics: Metrics): ViewObserver {
  return {
    applied(log, sequenceId, keys, bytes) {
      metrics.viewApplied.set({ log }, sequenceId);
      metrics.viewKeys.set({ log }, keys);
      metrics.viewBytes.set({ log }, bytes);
    },
    diverged: (log, consumers) => metrics.viewDiverged.set({ log }, consumers),
    keyOrderViolated: (log) => metrics.viewKeyOrderViolations.inc({ log }),
    phase(log, to, from) {
      for (const phase of PHASES) metrics.viewPhase.set({ log, phase: label(phase) }, phase === to ? 1 : 0);
      if (from !== undefined) metrics.viewPhaseChanges.inc({ log, phase: label(to) });
    },
  };
}

export function campaignObserver(metrics: Metrics): CampaignObserver {
  return {
    promoted(log, { fenceMs, catchUpMs, objectLeasesMs }) {
      metrics.promotionSeconds.observe({ log, stage: "fence" }, fenceMs / 1000);
      metrics.promotionSeconds.observe({ log, stage: "catch_up" }, catchUpMs / 1000);
      metrics.promotionSeconds.observe({ log, stage: "object_leases" }, objectLeasesMs / 1000);
    },
    lost: (log, reason) => metrics.leadershipEnds.inc({ log, reason: reason.replace(" ", "_") }),
    handedOver(log, outcome, heldMs) {
      metrics.handOvers.inc({ log, outcome });
      if (heldMs !== undefined) metrics.handOverHoldSeconds.observe({ log, outcome }, heldMs / 1000);
    },
  };
}

export function evictionObserver(metrics: Metrics): EvictionObserver {
  return { evicted: (log, objects) => metrics.objectsEvicted.inc({ log }, objects) };
}

/** As the enum of the API has it, in small letters. */
function label(phase: Phase): string {
  return phase.replace(" ", "_");
}

export function storeObserver(metrics: Metrics): StoreObserver {
  return {
    operation: (operation, outcome, seconds) => metrics.storeOperationSeconds.observe({ operation, outcome }, seconds),
    reachable: (isReachable) => metrics.storeReachable.set(isReachable ? 1 : 0),
  };
}
