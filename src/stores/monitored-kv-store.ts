import type { Clock } from "../oplog/clock.js";
import {
  type CallOptions,
  type KvStore,
  type PageRequest,
  StoreDataLossError,
  StoreError,
  type StoreInfo,
  StoreRefusedError,
  StoreReplacedError,
  StoreUnreachableError,
  type TxnRequest,
  type WatchRequest,
} from "../oplog/kv-store.js";
import type { Logger } from "../oplog/logger.js";

export interface StoreHealth {
  readonly isReachable: boolean;
  readonly version: string;
  readonly sizeBytes: number;
  /** The last failure while it is not reachable. */
  readonly error: string;
  readonly unreachableMs: number;
  /** It answers, and is not the one it was. */
  readonly isReplaced?: boolean;
}

export interface StoreObserver {
  operation(operation: string, outcome: string, seconds: number): void;
  reachable(isReachable: boolean): void;
}

/** Any store, with its calls timed and its health known: from what calls show, and by asking while nobody calls. */
export class MonitoredKvStore implements KvStore {
  readonly kind: string;
  readonly txnBytesMax: number;
  private error = "not asked yet";
  /** Its data is gone for good; what it still answers makes it no better. */
  private isLost = false;
  private isReplaced = false;
  private unreachableSinceMs: number | undefined;
  private answeredMs: number;
  /** A member of the store may tell its status though the store as a whole does not answer. */
  private isSilent = false;
  private info: StoreInfo = { version: "", sizeBytes: 0 };

  constructor(
    private readonly store: KvStore,
    private readonly clock: Clock,
    private readonly logger: Logger,
    private readonly observer: StoreObserver,
    private readonly onChange: (isReachable: boolean) => void,
  ) {
    this.kind = store.kind;
    this.txnBytesMax = store.txnBytesMax;
    this.answeredMs = clock.monotonicMs();
    this.unreachableSinceMs = this.answeredMs;
  }

  get health(): StoreHealth {
    const { version, sizeBytes } = this.info;
    const since = this.unreachableSinceMs;
    const unreachableMs = since === undefined ? 0 : Math.round(this.clock.monotonicMs() - since);
    return {
      isReachable: since === undefined,
      version,
      sizeBytes,
      error: since === undefined ? "" : this.error,
      unreachableMs,
      isReplaced: since !== undefined && this.isReplaced,
    };
  }

  get(key: string, options?: CallOptions) {
    return this.measured("get", () => this.store.get(key, options));
  }

  page(request: PageRequest, options?: CallOptions) {
    return this.measured("page", () => this.store.page(request, options));
  }

  txn(request: TxnRequest, options?: CallOptions) {
    return this.measured("txn", () => this.store.txn(request, options));
  }

  watch(request: WatchRequest, signal: AbortSignal) {
    return this.store.watch(request, signal);
  }

  grantLease(ttlMs: number, options?: CallOptions) {
    return this.measured("grant_lease", () => this.store.grantLease(ttlMs, options));
  }

  keepLeaseAlive(leaseId: bigint, options?: CallOptions) {
    return this.measured("keep_lease_alive", () => this.store.keepLeaseAlive(leaseId, options));
  }

  leaseTimeLeft(leaseId: bigint, options?: CallOptions) {
    return this.measured("lease_time_left", () => this.store.leaseTimeLeft(leaseId, options));
  }

  revokeLease(leaseId: bigint, options?: CallOptions) {
    return this.measured("revoke_lease", () => this.store.revokeLease(leaseId, options));
  }

  async status(options?: CallOptions): Promise<StoreInfo> {
    this.info = await this.measured("status", () => this.store.status(options));
    return this.info;
  }

  close(): Promise<void> {
    return this.store.close();
  }

  private async measured<T>(operation: string, call: () => Promise<T>): Promise<T> {
    const startedMs = this.clock.monotonicMs();
    let outcome = "ok";
    try {
      const result = await call();
      if (operation !== "status") this.isSilent = false;
      if (!this.isSilent) this.noteReachable();
      return result;
    } catch (error) {
      outcome =
        error instanceof StoreUnreachableError
          ? "unreachable"
          : isLoss(error)
            ? "lost"
            : error instanceof StoreError
              ? "refused"
              : "defect";
      if (operation !== "status") this.isSilent = error instanceof StoreUnreachableError;
      const tellsOfStore = operation === "status" && (isLoss(error) || error instanceof StoreRefusedError);
      const isReplaced = error instanceof StoreReplacedError;
      if (tellsOfStore || isReplaced || error instanceof StoreUnreachableError) this.noteUnreachable(error, startedMs);
      // One value, or everything.
      if (isLoss(error) && operation !== "status") this.status().catch(() => undefined);
      throw error;
    } finally {
      this.observer.operation(operation, outcome, (this.clock.monotonicMs() - startedMs) / 1000);
    }
  }

  private noteReachable(): void {
    this.answeredMs = this.clock.monotonicMs();
    if (this.unreachableSinceMs === undefined || this.isLost) return;
    const { kind } = this;
    const unreachableMs = Math.round(this.clock.monotonicMs() - this.unreachableSinceMs);
    this.unreachableSinceMs = undefined;
    this.observer.reachable(true);
    this.onChange(true);
    this.logger.info({ event: "store_reachable", kind, unreachableMs }, "the store answers");
  }

  private noteUnreachable(error: StoreError, askedMs: number): void {
    const isNews = this.unreachableSinceMs === undefined || this.error === "not asked yet";
    this.error = error.message;
    this.isLost = isLoss(error);
    this.isReplaced = error instanceof StoreReplacedError;
    if (!isNews) return;
    // The outage is as old as the call that found it, and no older than the last answer.
    this.unreachableSinceMs ??= Math.max(askedMs, this.answeredMs);
    this.observer.reachable(false);
    this.onChange(false);
    // Whoever has found out that the store is another one has told so.
    if (this.isReplaced) return;
    this.logger.error(
      { event: "store_unreachable", kind: this.kind, err: error },
      this.isLost
        ? "the data of the store is damaged or gone; this process must be started again once it is back"
        : "the store does not answer; trying again until it does",
    );
  }
}

function isLoss(error: unknown): error is StoreDataLossError {
  return error instanceof StoreDataLossError;
}
