import type { Clock } from "../../src/oplog/clock.js";
import {
  type CallOptions,
  type KeyValue,
  type KvStore,
  type PageRequest,
  type TxnRequest,
  type WatchBatch,
  WatchLostError,
  type WatchRequest,
} from "../../src/oplog/kv-store.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { linkSignals } from "../../src/oplog/timing.js";

export type Backup = readonly KeyValue[];

/** A store that can be put back to what it was: with lower revisions, as etcd is without --bump-revision. */
export class RestorableKvStore implements KvStore {
  readonly kind = "memory";
  readonly txnBytesMax: number;
  private inner: MemoryKvStore;
  private era = new AbortController();

  constructor(private readonly clock: Clock) {
    this.inner = new MemoryKvStore({ clock });
    this.txnBytesMax = this.inner.txnBytesMax;
  }

  async backup(): Promise<Backup> {
    const pairs: KeyValue[] = [];
    for (let from = "\0", more = true; more; from = `${pairs.at(-1)?.key}\0`) {
      const page = await this.inner.page({ from, to: "~", limit: 1000, bytesMax: 1024 * 1024 });
      pairs.push(...page.pairs);
      more = page.more;
    }
    return pairs;
  }

  /** Whatever is kept by a lease is gone, as it is soon after a restore. */
  async restore(backup: Backup): Promise<void> {
    const restored = new MemoryKvStore({ clock: this.clock });
    const kept = backup.filter(({ leaseId }) => leaseId === 0n);
    for (const { key, value } of kept.toSorted((a, b) => Number(a.modRevision - b.modRevision))) {
      await restored.txn({ compares: [], writes: [{ kind: "put", key, value }] });
    }
    this.inner = restored;
    this.era.abort();
    this.era = new AbortController();
  }

  async *watch(request: WatchRequest, signal: AbortSignal): AsyncGenerator<WatchBatch> {
    const { signal: era } = this.era;
    const { signal: both, unlink } = linkSignals(signal, era);
    try {
      yield* this.inner.watch(request, both);
      if (era.aborted && !signal.aborted) throw new WatchLostError("the store has been restarted");
    } finally {
      unlink();
    }
  }

  get(key: string) {
    return this.inner.get(key);
  }

  page(request: PageRequest) {
    return this.inner.page(request);
  }

  txn(request: TxnRequest) {
    return this.inner.txn(request);
  }

  grantLease(ttlMs: number) {
    return this.inner.grantLease(ttlMs);
  }

  keepLeaseAlive(leaseId: bigint) {
    return this.inner.keepLeaseAlive(leaseId);
  }

  leaseTimeLeft(leaseId: bigint) {
    return this.inner.leaseTimeLeft(leaseId);
  }

  revokeLease(leaseId: bigint) {
    return this.inner.revokeLease(leaseId);
  }

  status(_options?: CallOptions) {
    return this.inner.status();
  }

  async close(): Promise<void> {
    await this.inner.close();
  }
}
