import {
  type CallOptions,
  CompactedError,
  type GetResult,
  type KvStore,
  type Lease,
  type Page,
  type PageRequest,
  type StoreError,
  type StoreInfo,
  StoreRefusedError,
  StoreUnreachableError,
  type TxnRequest,
  type TxnResult,
  type WatchBatch,
  WatchLostError,
  type WatchRequest,
} from "../../src/oplog/kv-store.js";

/** Picks the transactions that a fault is meant for; others pass untouched and leave the fault waiting. */
export type TxnFilter = (request: TxnRequest) => boolean;

/** A transaction that was taken off the wire. */
export interface HeldTxn {
  /** Resolves when the transaction has been made. */
  readonly arrived: Promise<TxnRequest>;
  /** Applies it in the store, as a late packet would; its caller learns nothing of it. */
  applyNow(): Promise<TxnResult>;
}

/** A transaction whose caller is kept waiting. */
export interface HungTxn extends HeldTxn {
  /** The caller's deadline passes: StoreUnreachableError. */
  timeOut(): void;
  /** Applies it, unless that happened, and the caller gets the answer. */
  answer(): Promise<void>;
}

type TxnFault = (request: TxnRequest, options?: CallOptions) => Promise<TxnResult>;

interface OpenWatch {
  readonly abort: AbortController;
  brokenBy?: StoreError;
}

const ANY: TxnFilter = () => true;

/**
 * Any store, with faults on demand. Faults on transactions are used up in the order they were set, each by the first
 * transaction that its filter picks; faults on everything else stay until they are lifted.
 *
 *     const store = new FaultyKvStore(new MemoryKvStore({ clock }));
 *     store.loseNextReplies(1);             // applied, and the caller will never know
 *     const late = store.holdNextTxn();     // the caller fails at once,
 *     await late.applyNow();                // … and then it is applied after all
 */
export class FaultyKvStore implements KvStore {
  readonly kind: string;
  readonly txnBytesMax: number;
  /** Calls that arrived here, whatever became of them. */
  readonly calls = { txns: 0, reads: 0, leases: 0, watches: 0 };
  private readonly txnFaults: { readonly filter: TxnFilter; readonly fault: TxnFault }[] = [];
  private readonly watches = new Set<OpenWatch>();
  private isAway = false;
  private readsFail = false;
  private leasesFail = false;
  private watchesAreDeaf = false;
  private readonly past = new Map<string, GetResult[]>();

  constructor(private readonly inner: KvStore) {
    this.kind = inner.kind;
    this.txnBytesMax = inner.txnBytesMax;
  }

  /** The next transactions do not arrive; their callers get StoreUnreachableError. */
  failNextTxns(count: number, filter = ANY): void {
    this.onNextTxns(count, filter, () => Promise.reject(lost("the transaction was lost on its way to the store")));
  }

  /** The next transactions are applied; their callers get StoreUnreachableError all the same. */
  loseNextReplies(count: number, filter = ANY): void {
    this.onNextTxns(count, filter, async (request, options) => {
      await this.inner.txn(request, options);
      throw lost("the reply of the store was lost");
    });
  }

  /** The next transactions are not applied; their callers get StoreRefusedError. */
  refuseNextTxns(count: number, filter = ANY): void {
    this.onNextTxns(count, filter, () => Promise.reject(new StoreRefusedError("the store refuses: out of space")));
  }

  /** The next transactions pass, before the faults that are set after this. */
  passNextTxns(count: number, filter = ANY): void {
    this.onNextTxns(count, filter, (request, options) => this.inner.txn(request, options));
  }

  /** The caller of the next transaction gets StoreUnreachableError at once; it is applied when the test says so. */
  holdNextTxn(filter = ANY): HeldTxn {
    const hung = this.hangNextTxn(filter);
    hung.arrived.then(() => hung.timeOut());
    return hung;
  }

  /** The caller of the next transaction waits until the test lets its deadline pass, or gives it the answer. */
  hangNextTxn(filter = ANY): HungTxn {
    const arrival = deferred<TxnRequest>();
    const reply = deferred<TxnResult>();
    let applied: Promise<TxnResult> | undefined;
    const applyNow = async () => {
      const request = await arrival.promise;
      applied ??= this.inner.txn(request);
      return applied;
    };
    this.onNextTxns(1, filter, (request) => {
      arrival.resolve(request);
      return reply.promise;
    });
    return {
      arrived: arrival.promise,
      applyNow,
      timeOut: () => reply.reject(lost("no answer within the deadline")),
      answer: () => applyNow().then(reply.resolve, reply.reject),
    };
  }

  /** Nothing arrives any more: calls fail, and watches are lost. */
  goAway(): void {
    this.isAway = true;
    this.breakWatches();
  }

  comeBack(): void {
    this.isAway = false;
  }

  failReads(fail = true): void {
    this.readsFail = fail;
  }

  /** Granting, keeping alive, asking and revoking fail; the leases themselves run on. */
  failLeases(fail = true): void {
    this.leasesFail = fail;
  }

  breakWatches(): void {
    this.endWatches(() => new WatchLostError("the watch was lost"));
  }

  /** Ends the watches as if what they still had to read was compacted. */
  compactUnderWatches(): void {
    this.endWatches(() => new CompactedError("the revision that the watch had to read next was compacted"));
  }

  /** Watches stay open, and what happens meanwhile is lost to them without a sign. */
  dropWatchEvents(drop = true): void {
    this.watchesAreDeaf = drop;
  }

  /** The next reads of this key are answered as it was answered once (etcd #20418). */
  answerFromPast(key: string, answer: GetResult, count = 1): void {
    this.past.set(
      key,
      Array.from({ length: count }, () => answer),
    );
  }

  /** Reads of this key that are to be answered from the past, and have not come. */
  pastAnswersLeft(key: string): number {
    return this.past.get(key)?.length ?? 0;
  }

  forgetPast(): void {
    this.past.clear();
  }

  get(key: string, options?: CallOptions): Promise<GetResult> {
    this.calls.reads++;
    const past = this.past.get(key)?.shift();
    if (past !== undefined) return Promise.resolve(past);
    return this.pass(this.readsFail, () => this.inner.get(key, options));
  }

  page(request: PageRequest, options?: CallOptions): Promise<Page> {
    this.calls.reads++;
    return this.pass(this.readsFail, () => this.inner.page(request, options));
  }

  txn(request: TxnRequest, options?: CallOptions): Promise<TxnResult> {
    this.calls.txns++;
    return this.pass(false, () => {
      const index = this.txnFaults.findIndex(({ filter }) => filter(request));
      const [taken] = index < 0 ? [] : this.txnFaults.splice(index, 1);
      return taken ? taken.fault(request, options) : this.inner.txn(request, options);
    });
  }

  async *watch(request: WatchRequest, signal: AbortSignal): AsyncGenerator<WatchBatch, void> {
    this.calls.watches++;
    if (this.isAway) throw new WatchLostError("the store is away");
    const watch: OpenWatch = { abort: new AbortController() };
    this.watches.add(watch);
    try {
      for await (const batch of this.inner.watch(request, AbortSignal.any([signal, watch.abort.signal]))) {
        if (watch.brokenBy) break;
        if (this.watchesAreDeaf && batch.events.length > 0) continue;
        yield batch;
      }
      if (watch.brokenBy && !signal.aborted) throw watch.brokenBy;
    } finally {
      this.watches.delete(watch);
    }
  }

  grantLease(ttlMs: number, options?: CallOptions): Promise<Lease> {
    this.calls.leases++;
    return this.pass(this.leasesFail, () => this.inner.grantLease(ttlMs, options));
  }

  keepLeaseAlive(leaseId: bigint, options?: CallOptions): Promise<Lease> {
    this.calls.leases++;
    return this.pass(this.leasesFail, () => this.inner.keepLeaseAlive(leaseId, options));
  }

  leaseTimeLeft(leaseId: bigint, options?: CallOptions): Promise<number | undefined> {
    this.calls.leases++;
    return this.pass(this.leasesFail, () => this.inner.leaseTimeLeft(leaseId, options));
  }

  revokeLease(leaseId: bigint, options?: CallOptions): Promise<void> {
    this.calls.leases++;
    return this.pass(this.leasesFail, () => this.inner.revokeLease(leaseId, options));
  }

  status(options?: CallOptions): Promise<StoreInfo> {
    return this.pass(this.readsFail, () => this.inner.status(options));
  }

  close(): Promise<void> {
    return this.inner.close();
  }

  private onNextTxns(count: number, filter: TxnFilter, fault: TxnFault): void {
    for (let index = 0; index < count; index++) this.txnFaults.push({ filter, fault });
  }

  private endWatches(error: () => StoreError): void {
    for (const watch of this.watches) {
      watch.brokenBy = error();
      watch.abort.abort();
    }
  }

  private async pass<T>(fails: boolean, call: () => Promise<T>): Promise<T> {
    if (this.isAway) throw lost("the store is away");
    if (fails) throw lost("the call was lost on its way to the store");
    return call();
  }
}

function lost(message: string): StoreUnreachableError {
  return new StoreUnreachableError(message);
}

function deferred<T>() {
  let resolve!: (value: T) => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
}
