import type { Clock } from "./clock.js";
import { requireKey, requirePage, requireTxn } from "./kv-requests.js";
import {
  type GetResult,
  type KeyValue,
  type KvStore,
  type Lease,
  type Page,
  type PageRequest,
  type StoreInfo,
  StoreUnreachableError,
  type TxnRequest,
  type TxnResult,
  type WatchBatch,
  type WatchEvent,
  type WatchRequest,
  type Write,
} from "./kv-store.js";
import { LeaseTable } from "./lease-table.js";
import { WatchHistory } from "./watch-history.js";

export interface MemoryKvStoreOptions {
  readonly clock: Clock;
  readonly txnBytesMax?: number;
  /** No page holds more bytes of keys and values, whatever is asked for. */
  readonly pageBytesMax?: number;
  readonly historyBytesMax?: number;
}

/**
 * The twin of a real store, for tests and simulations: no I/O and no timers, so that what happens depends on the calls
 * and the clock alone. A call takes effect when it is made. Leases expire at the first call after their time, or when
 * `expireLeases` is called.
 */
export class MemoryKvStore implements KvStore {
  readonly kind = "memory";
  readonly txnBytesMax: number;
  private readonly pageBytesMax: number;
  private readonly pairs = new Map<string, KeyValue>();
  /** The keys of `pairs`, sorted. */
  private keys: string[] = [];
  private revision = 0n;
  private lastLeaseId = 0n;
  private readonly leases: LeaseTable;
  private readonly history: WatchHistory;
  private isClosed = false;

  constructor(options: MemoryKvStoreOptions) {
    this.txnBytesMax = options.txnBytesMax ?? 1_536 * 1_024;
    this.pageBytesMax = options.pageBytesMax ?? Number.POSITIVE_INFINITY;
    this.leases = new LeaseTable(options.clock);
    this.history = new WatchHistory(this.revision, options.historyBytesMax ?? 256 * 1_024 * 1_024);
  }

  async get(key: string): Promise<GetResult> {
    this.enter();
    requireKey(key);
    return { pair: this.read(key), revision: this.revision };
  }

  async page(request: PageRequest): Promise<Page> {
    this.enter();
    requirePage(request);
    const end = this.indexOf(request.to);
    const pairs: KeyValue[] = [];
    const bytesMax = Math.min(request.bytesMax, this.pageBytesMax);
    let index = this.indexOf(request.from);
    for (let bytes = 0; index < end && pairs.length < request.limit; index++) {
      const read = this.read(this.keys[index]!)!;
      const pair = request.keysOnly ? { ...read, value: Buffer.alloc(0) } : read;
      bytes += pair.key.length + pair.value.length;
      if (pairs.length > 0 && bytes > bytesMax) break;
      pairs.push(pair);
    }
    return { pairs, more: index < end, revision: this.revision };
  }

  async txn(request: TxnRequest): Promise<TxnResult> {
    this.enter();
    requireTxn(request, this.txnBytesMax);
    const { compares, writes, readOnFailure = [] } = request;
    if (!compares.every(({ key, modRevision }) => (this.pairs.get(key)?.modRevision ?? 0n) === modRevision)) {
      return { succeeded: false, revision: this.revision, reads: readOnFailure.map((key) => this.read(key)) };
    }
    for (const write of writes) {
      if (write.kind === "put" && write.leaseId) this.leases.requireRunning(write.leaseId);
    }
    this.apply(writes);
    return { succeeded: true, revision: this.revision };
  }

  async *watch(request: WatchRequest, signal: AbortSignal): AsyncGenerator<WatchBatch, void> {
    yield* this.history.watch(request, signal);
  }

  async grantLease(ttlMs: number): Promise<Lease> {
    this.enter();
    const lease = this.leases.grant(this.lastLeaseId + 1n, ttlMs);
    this.lastLeaseId = lease.leaseId;
    return lease;
  }

  async keepLeaseAlive(leaseId: bigint): Promise<Lease> {
    this.enter();
    return this.leases.renew(leaseId);
  }

  async leaseTimeLeft(leaseId: bigint): Promise<number | undefined> {
    this.enter();
    return this.leases.timeLeftMs(leaseId);
  }

  async revokeLease(leaseId: bigint): Promise<void> {
    this.enter();
    this.endLease(leaseId);
  }

  async status(): Promise<StoreInfo> {
    this.enter();
    let sizeBytes = 0;
    for (const { key, value } of this.pairs.values()) sizeBytes += key.length + value.length;
    return { version: "1", sizeBytes };
  }

  async close(): Promise<void> {
    this.isClosed = true;
    this.history.close();
  }

  /** Deletes the keys of the leases that have run out by now. */
  expireLeases(): void {
    for (const leaseId of this.leases.expired()) this.endLease(leaseId);
  }

  /** Forgets the changes before `revision`, as far as watches are concerned. */
  compact(revision: bigint): void {
    this.history.compact(revision);
  }

  private enter(): void {
    if (this.isClosed) throw new StoreUnreachableError("the store is closed");
    this.expireLeases();
  }

  private endLease(leaseId: bigint): void {
    this.leases.remove(leaseId);
    const leased = this.keys.filter((key) => this.pairs.get(key)?.leaseId === leaseId);
    this.apply(leased.map((key) => ({ kind: "delete", key })));
  }

  /** Writes that change nothing, like the deletion of an absent key, take no revision. */
  private apply(writes: readonly Write[]): void {
    const revision = this.revision + 1n;
    const events = writes.flatMap((write) => this.applyOne(write, revision));
    if (events.length === 0) return;
    this.revision = revision;
    this.history.publish({ revision, events });
  }

  private applyOne(write: Write, modRevision: bigint): WatchEvent[] {
    switch (write.kind) {
      case "put": {
        const { key, leaseId = 0n } = write;
        const pair: KeyValue = { key, value: Buffer.from(write.value), modRevision, leaseId };
        if (!this.pairs.has(key)) this.keys.splice(this.indexOf(key), 0, key);
        this.pairs.set(key, pair);
        return [{ kind: "put", pair: copyOf(pair) }];
      }
      case "delete": {
        if (!this.pairs.delete(write.key)) return [];
        this.keys.splice(this.indexOf(write.key), 1);
        return [{ kind: "delete", key: write.key, modRevision }];
      }
      case "delete-range": {
        const from = this.indexOf(write.from);
        const removed = this.keys.splice(from, Math.max(0, this.indexOf(write.to) - from));
        for (const key of removed) this.pairs.delete(key);
        return removed.map((key) => ({ kind: "delete", key, modRevision }));
      }
    }
  }

  private read(key: string): KeyValue | undefined {
    const pair = this.pairs.get(key);
    return pair && copyOf(pair);
  }

  /** Index of the first key at or after this one. */
  private indexOf(key: string): number {
    let low = 0;
    let high = this.keys.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.keys[middle]! < key) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** What the store hands out belongs to the receiver. */
function copyOf(pair: KeyValue): KeyValue {
  return { ...pair, value: Buffer.from(pair.value) };
}
