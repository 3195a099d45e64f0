import type { Readiness } from "./admin/admin-server.js";
import type { SidecarState } from "./grpc/convert.js";
import { systemClock } from "./oplog/clock.js";
import type { KvStore } from "./oplog/kv-store.js";
import { settledOrAborted, sleep } from "./oplog/timing.js";
import type { MonitoredKvStore } from "./stores/monitored-kv-store.js";
import { VERSION } from "./telemetry/version.js";

export interface HealthParts {
  readonly sidecarId: string;
  readonly store: Pick<MonitoredKvStore, "kind" | "health">;
  readonly draining: AbortSignal;
  /** To the gRPC health service. */
  readonly setServing: (service: string, isServing: boolean) => void;
  readonly forgetService: (service: string) => void;
}

/** Told in /readyz. */
const DIVERGED_MAX = 100;

/** How this sidecar is, for each of those who ask: status, /readyz, and the services of the gRPC health protocol. */
export class Health {
  private readonly startedWallMs = Date.now();
  /** "" is the sidecar as a whole; each log that exists joins as oplog/<log>. */
  private readonly services = new Set([
    "",
    "oplog.v1.OpLogService",
    "oplog.v1.LeadershipService",
    "oplog.v1.StandbyService",
    "oplog.v1.AdminService",
  ]);

  /** By log: its history in the store is not the one that was seen. */
  private readonly diverged = new Map<string, string>();

  constructor(private readonly parts: HealthParts) {}

  noteDiverged(log: string, problem: string): void {
    if (this.diverged.size < DIVERGED_MAX) this.diverged.set(log, `${problem}. "oplogctl adopt" takes it as it is now`);
  }

  /** The store has been adopted. */
  forgetDiverged(): void {
    this.diverged.clear();
  }

  addLog(log: string): void {
    this.services.add(`oplog/${log}`);
    this.announce();
  }

  /** Nobody has to do with them any more. */
  removeLogs(logs: Iterable<string>): void {
    for (const log of logs) {
      if (this.services.delete(`oplog/${log}`)) this.parts.forgetService(`oplog/${log}`);
    }
  }

  /** To be called whenever the store comes or goes, and when draining begins. */
  announce(): void {
    const isServing = this.parts.store.health.isReachable && !this.parts.draining.aborted;
    for (const service of this.services) this.parts.setServing(service, isServing);
  }

  get state(): SidecarState {
    const { sidecarId, store, draining } = this.parts;
    return {
      id: sidecarId,
      version: VERSION,
      startedWallMs: this.startedWallMs,
      isShuttingDown: draining.aborted,
      store: { kind: store.kind, ...store.health },
    };
  }

  get readiness(): Readiness {
    const { isReachable, isReplaced, error, unreachableMs } = this.parts.store.health;
    const outage = isReplaced ? error : `store unreachable for ${unreachableMs} ms: ${error}`;
    const reasons = [
      ...(this.parts.draining.aborted ? ["shutting down"] : []),
      ...(isReachable ? [] : [outage]),
      ...this.diverged.values(),
    ];
    return { ready: reasons.length === 0, reasons };
  }
}

/** Asks the store how it is until the signal; MonitoredKvStore notes and logs the answers. */
export async function pollStore(store: Pick<KvStore, "status">, everyMs: number, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    await settledOrAborted(store.status(), signal);
    await sleep(systemClock, everyMs, signal);
  }
}
