/**
 * The port to a store: a small, strictly serialisable key-value store with revisions, transactions, watches and leases.
 * Everything about the log is built above it; adapters stay thin and all pass test/stores/contract.ts.
 *
 * Keys are ASCII. Ranges are half-open, [from, to), in byte order. A revision is the store-wide number of the
 * transaction that wrote; it only rises. All calls may run concurrently; calls of one caller are not ordered among
 * each other unless awaited.
 */
export interface KvStore {
  /** "etcd", "embedded" or "memory". */
  readonly kind: string;
  /** Most bytes of keys and values that one transaction may write; a larger one rejects with StoreRefusedError. */
  readonly txnBytesMax: number;

  /** Linearizable read of one key. */
  get(key: string, options?: CallOptions): Promise<GetResult>;

  /**
   * The first pairs of [from, to) in key order, as of `revision`: at most `limit`, and at most `bytesMax` bytes of keys
   * and values unless the first pair alone is larger. The store may return fewer, but at least one if there is one. Only
   * `more` tells whether that was all: whoever wants all of a range uses `pagesOf` (kv-pages.ts).
   */
  page(request: PageRequest, options?: CallOptions): Promise<Page>;

  /**
   * All writes or none, if every compare holds at one point in time. A successful one is durable when it resolves.
   * Otherwise the keys in `readOnFailure` are read at that same point. No key may be written twice.
   */
  txn(request: TxnRequest, options?: CallOptions): Promise<TxnResult>;

  /**
   * Changes of [from, to) since startRevision, in order of revision, those of one revision together, and first an empty
   * batch once the watch is established. Completeness is best effort: the reader must check that what it reads has no
   * holes. Ends quietly when `signal` aborts or the consumer breaks out; rejects with CompactedError when the revision
   * is gone, with WatchLostError when anything else broke it or the consumer was too slow for the store's buffer, with
   * StoreUnreachableError or StoreRefusedError when it could not be begun.
   */
  watch(request: WatchRequest, signal: AbortSignal): AsyncIterable<WatchBatch>;

  /** A lease; the keys put under it are deleted when it expires. The store may grant a longer TTL than asked for. */
  grantLease(ttlMs: number, options?: CallOptions): Promise<Lease>;
  /** Starts the TTL again. Rejects with LeaseNotFoundError when the lease is gone. */
  keepLeaseAlive(leaseId: bigint, options?: CallOptions): Promise<Lease>;
  /**
   * Whole milliseconds until the lease runs out if nobody renews it, as the store counts them; undefined = it is gone.
   * A store that counts in seconds tells up to a second less.
   */
  leaseTimeLeft(leaseId: bigint, options?: CallOptions): Promise<number | undefined>;
  /** Deletes the lease and its keys. Revoking an unknown lease is no error. */
  revokeLease(leaseId: bigint, options?: CallOptions): Promise<void>;

  /** One round trip to the store, for health. */
  status(options?: CallOptions): Promise<StoreInfo>;

  /** Ends watches and pending calls (StoreUnreachableError), releases files and connections. Idempotent. */
  close(): Promise<void>;
}

export interface CallOptions {
  /** The call rejects with StoreUnreachableError after this long; each store has a default. */
  readonly deadlineMs?: number;
}

export interface KeyValue {
  readonly key: string;
  /** May be shared: never to be written into. Empty when only keys were asked for. */
  readonly value: Buffer;
  readonly modRevision: bigint;
  /** 0n = none. */
  readonly leaseId: bigint;
}

export interface GetResult {
  readonly pair: KeyValue | undefined;
  readonly revision: bigint;
}

export interface PageRequest {
  readonly from: string;
  readonly to: string;
  /** 1 to 10,000. */
  readonly limit: number;
  /** At least 1. */
  readonly bytesMax: number;
  readonly keysOnly?: boolean;
}

export interface Page {
  readonly pairs: KeyValue[];
  /** There are further pairs after the last one returned. */
  readonly more: boolean;
  readonly revision: bigint;
}

export interface TxnRequest {
  readonly compares: readonly Compare[];
  readonly writes: readonly Write[];
  readonly readOnFailure?: readonly string[];
}

/** Holds when the key was last written at exactly this revision; 0n = when it does not exist. */
export interface Compare {
  readonly key: string;
  readonly modRevision: bigint;
}

export type Write =
  | { readonly kind: "put"; readonly key: string; readonly value: Uint8Array; readonly leaseId?: bigint }
  | { readonly kind: "delete"; readonly key: string }
  | { readonly kind: "delete-range"; readonly from: string; readonly to: string };

export type TxnResult =
  | { readonly succeeded: true; readonly revision: bigint }
  /** `reads` has one element per key of readOnFailure. */
  | { readonly succeeded: false; readonly revision: bigint; readonly reads: (KeyValue | undefined)[] };

export interface WatchRequest {
  readonly from: string;
  readonly to: string;
  /** First revision wanted. */
  readonly startRevision: bigint;
}

export interface WatchBatch {
  readonly revision: bigint;
  readonly events: readonly WatchEvent[];
}

export type WatchEvent =
  | { readonly kind: "put"; readonly pair: KeyValue }
  | { readonly kind: "delete"; readonly key: string; readonly modRevision: bigint };

export interface Lease {
  readonly leaseId: bigint;
  /** As granted. */
  readonly ttlMs: number;
}

export interface StoreInfo {
  readonly version: string;
  /** Bytes on disk. */
  readonly sizeBytes: number;
  /** Of etcd: the id of the cluster, in hex. */
  readonly identity?: string;
  /** Why the store is about to refuse writes, where it knows that before one is tried. */
  readonly refusal?: string;
}

/** Base of what the calls above reject with. */
export class StoreError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** No answer, or one that leaves it open. A read may be tried again; a write may have been applied, or may yet be. */
export class StoreUnreachableError extends StoreError {}

/** The store said no, and nothing was applied: too large, no space, no permission. Trying again will not help soon. */
export class StoreRefusedError extends StoreError {}

/** What the store keeps is damaged, or its files are gone; the message says where, and what to do. Trying again does not help. */
export class StoreDataLossError extends StoreError {
  /** Of a write. False: it may have been applied to what is lost. */
  readonly isCertainlyNotApplied: boolean;

  constructor(message: string, options: ErrorOptions & { readonly isCertainlyNotApplied?: boolean } = {}) {
    super(message, options);
    this.isCertainlyNotApplied = options.isCertainlyNotApplied ?? false;
  }
}

/**
 * Another store answers than the one whose logs were seen: another cluster, or the same one with older data. Refused until
 * an operator adopts it.
 */
export class StoreReplacedError extends StoreRefusedError {
  /** It answers as the store that it was, and holds older data. */
  readonly isOlder: boolean;

  constructor(message: string, options: ErrorOptions & { readonly isOlder?: boolean } = {}) {
    super(message, options);
    this.isOlder = options.isOlder ?? false;
  }
}

/** A watch wanted revisions that the store no longer has. */
export class CompactedError extends StoreError {}

/** A watch broke. Read the range again, then watch from there. */
export class WatchLostError extends StoreError {}

export class LeaseNotFoundError extends StoreError {}
