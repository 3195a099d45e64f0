import {
  type CallOptions,
  type GetResult,
  type KvStore,
  type Lease,
  type Page,
  type PageRequest,
  type StoreInfo,
  StoreUnreachableError,
  type TxnRequest,
  type TxnResult,
  type WatchBatch,
  WatchLostError,
  type WatchRequest,
} from "../../src/oplog/kv-store.js";
import { linkSignals, sleep } from "../../src/oplog/timing.js";
import type { Dice } from "../log/support.js";
import type { Machine, VirtualTime } from "../support/virtual-time.js";

/** How likely each fault is, per call. */
export interface Weather {
  readonly lostRequest: number;
  readonly lostReply: number;
  /** The request arrives long after its caller has given up. */
  readonly lateRequest: number;
  readonly latencyMsMax: number;
  /** A watch hears nothing any more, without a sign. */
  readonly deafWatch: number;
}

export const FAIR: Weather = { lostRequest: 0, lostReply: 0, lateRequest: 0, latencyMsMax: 3, deafWatch: 0 };
export const STORM: Weather = { lostRequest: 0.1, lostReply: 0.1, lateRequest: 0.15, latencyMsMax: 60, deafWatch: 0.3 };
export const DRIZZLE: Weather = { ...STORM, lostRequest: 0.02, lostReply: 0.03, lateRequest: 0.02, latencyMsMax: 20 };
/** Nothing is lost, but an answer takes up to 800 ms; leases have 1 to 3 s. */
export const SWAMP: Weather = { ...FAIR, latencyMsMax: 400 };

const DEADLINE_MS = 800;
const LATE_MS_MAX = 5000;

/** The way from one machine to the store: every call takes time, and may be lost, there or back, or come late. */
export class Network implements KvStore {
  readonly kind = "memory";
  readonly txnBytesMax: number;
  weather = FAIR;
  /** Nothing gets through. */
  isAway = false;
  openWatches = 0;
  private readonly breaking = new Set<AbortController>();

  constructor(
    private readonly store: KvStore,
    private readonly time: VirtualTime,
    private readonly dice: Dice,
    private readonly machine: Machine,
  ) {
    this.txnBytesMax = store.txnBytesMax;
  }

  get(key: string, options?: CallOptions): Promise<GetResult> {
    return this.call(options, () => this.store.get(key));
  }

  page(request: PageRequest, options?: CallOptions): Promise<Page> {
    return this.call(options, () => this.store.page(request));
  }

  txn(request: TxnRequest, options?: CallOptions): Promise<TxnResult> {
    return this.call(options, () => this.store.txn(request));
  }

  grantLease(ttlMs: number, options?: CallOptions): Promise<Lease> {
    return this.call(options, () => this.store.grantLease(ttlMs));
  }

  keepLeaseAlive(leaseId: bigint, options?: CallOptions): Promise<Lease> {
    return this.call(options, () => this.store.keepLeaseAlive(leaseId));
  }

  leaseTimeLeft(leaseId: bigint, options?: CallOptions): Promise<number | undefined> {
    return this.call(options, () => this.store.leaseTimeLeft(leaseId));
  }

  revokeLease(leaseId: bigint, options?: CallOptions): Promise<void> {
    return this.call(options, () => this.store.revokeLease(leaseId));
  }

  status(options?: CallOptions): Promise<StoreInfo> {
    return this.call(options, () => this.store.status());
  }

  async close(): Promise<void> {}

  breakWatches(): void {
    for (const each of this.breaking) each.abort();
  }

  async *watch(request: WatchRequest, signal: AbortSignal): AsyncGenerator<WatchBatch, void> {
    this.openWatches++;
    const broken = new AbortController();
    const { signal: both, unlink } = linkSignals(signal, broken.signal);
    this.breaking.add(broken);
    const clock = this.time.clockOf(this.machine);
    const isDeaf = this.dice.chance(this.weather.deafWatch);
    try {
      await sleep(clock, this.latencyMs(), both);
      if (this.isAway) throw new WatchLostError("the store is away");
      for await (const batch of this.store.watch(request, both)) {
        await sleep(clock, this.latencyMs(), both);
        if (both.aborted) break;
        if (isDeaf && batch.events.length > 0) continue;
        yield batch;
      }
      if (broken.signal.aborted && !signal.aborted) throw new WatchLostError("the watch was lost");
    } finally {
      unlink();
      this.breaking.delete(broken);
      this.openWatches--;
    }
  }

  private latencyMs(): number {
    return 1 + this.dice.below(this.weather.latencyMsMax);
  }

  private call<T>(options: CallOptions | undefined, apply: () => Promise<T>): Promise<T> {
    const { time, machine, dice, weather } = this;
    return new Promise<T>((resolve, reject) => {
      let isLate = false;
      const deadline = time.clockOf(machine).setTimer(options?.deadlineMs ?? DEADLINE_MS, () => {
        isLate = true;
        reject(new StoreUnreachableError("no answer within the deadline"));
      });
      const answer = (settle: () => void) => {
        if (isLate) return;
        time.at(machine, this.latencyMs(), () => {
          deadline.cancel();
          settle();
        });
      };
      if (this.isAway) {
        if (dice.chance(0.5)) answer(() => reject(new StoreUnreachableError("the store is away")));
        return;
      }
      if (dice.chance(weather.lostRequest)) return;
      const delayMs = dice.chance(weather.lateRequest) ? dice.below(LATE_MS_MAX) : this.latencyMs();
      // On the wire nothing is paused, and nothing dies with its sender.
      time.at(undefined, delayMs, () => {
        apply().then(
          (result) => {
            if (!this.isAway && !dice.chance(weather.lostReply)) answer(() => resolve(result));
          },
          (error: unknown) => answer(() => reject(error)),
        );
      });
    });
  }
}
