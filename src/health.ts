import type { Readiness } from "./admin/admin-server.js";
import type { SidecarState } from "./grpc/convert.js";
import type { Clock } from "./oplog/clock.js";
import { type KvStore, StoreError, StoreRefusedError, StoreReplacedError } from "./oplog/kv-store.js";
import type { Logger } from "./oplog/logger.js";
import { settledOrAborted, sleep } from "./oplog/timing.js";
import { probeStore } from "./stored/store-probe.js";
import type { MonitoredKvStore } from "./stores/monitored-kv-store.js";
import { VERSION } from "./telemetry/version.js";

export interface HealthParts {
  readonly sidecarId: string;
  readonly store: Pick<MonitoredKvStore, "kind" | "health">;
  readonly draining: AbortSignal;
  readonly logger: Logger;
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

  private listeners: { readonly problems: readonly string[] } = { problems: [] };
  /** By log: its history in the store is not the one that was seen. */
  private readonly diverged = new Map<string, string>();
  /** Why the store, which answers, does not take what this sidecar needs. */
  private refusal: string | undefined;
  private isAsked = false;

  constructor(private readonly parts: HealthParts) {}

  listensTo(listeners: { readonly problems: readonly string[] }): void {
    this.listeners = listeners;
  }

  noteDiverged(log: string, problem: string): void {
    if (this.diverged.size < DIVERGED_MAX) this.diverged.set(log, `${problem}. "oplogctl adopt" takes it as it is now`);
  }

  /** The store has been adopted. */
  forgetDiverged(): void {
    this.diverged.clear();
  }

  /** To be called with each answer of the store: why it refuses; undefined = it does not. */
  noteRefusal(refusal: string | undefined): void {
    const { logger, store } = this.parts;
    const hadRefused = this.refusal !== undefined;
    this.refusal = refusal;
    this.isAsked = true;
    if (hadRefused === (refusal !== undefined)) return;
    if (refusal === undefined)
      logger.info({ event: "store_takes_writes", kind: store.kind }, "the store refuses no more");
    else
      logger.error(
        { event: "store_refuses", kind: store.kind, refusal },
        `the store refuses what is needed: ${refusal}`,
      );
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
    const { error } = store.health;
    return {
      id: sidecarId,
      version: VERSION,
      startedWallMs: this.startedWallMs,
      isShuttingDown: draining.aborted,
      store: { kind: store.kind, ...store.health, error: error === "" ? (this.refusal ?? "") : error },
    };
  }

  get readiness(): Readiness {
    const { isReachable, isReplaced, error, unreachableMs } = this.parts.store.health;
    const outage = isReplaced ? error : `store unreachable for ${unreachableMs} ms: ${error}`;
    const reasons = [
      ...(this.parts.draining.aborted ? ["shutting down"] : []),
      ...this.listeners.problems,
      ...(isReachable ? [] : [outage]),
      ...this.diverged.values(),
      ...(isReachable && !this.isAsked ? ["the store has not told yet what it takes"] : []),
      ...(isReachable && this.refusal !== undefined ? [`the store refuses: ${this.refusal}`] : []),
    ];
    return { ready: reasons.length === 0, reasons };
  }
}

export interface StorePollParts {
  readonly store: KvStore;
  readonly keyPrefix: string;
  readonly clock: Clock;
  readonly everyMs: number;
  /** Told after each answer why the store refuses; undefined = it does not. */
  readonly onAnswer: (refusal: string | undefined) => void;
}

/** Asks the store how it is until the signal; MonitoredKvStore notes and logs whether it answers at all. */
export async function pollStore(parts: StorePollParts, signal: AbortSignal): Promise<void> {
  const { store, keyPrefix, clock, everyMs, onAnswer } = parts;
  const ask = async () => {
    try {
      await probeStore(store, keyPrefix);
      onAnswer(undefined);
    } catch (error) {
      // That it is another store is no answer.
      if (error instanceof StoreReplacedError) return;
      if (error instanceof StoreRefusedError) onAnswer(error.message);
      else if (!(error instanceof StoreError)) throw error;
    }
  };
  while (!signal.aborted) {
    await settledOrAborted(ask(), signal);
    await sleep(clock, everyMs, signal);
  }
}
