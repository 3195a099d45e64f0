import type {
  ILeaseGrantResponse,
  ILeaseRevokeResponse,
  ILeaseTimeToLiveResponse,
  IRangeRequest,
  IRangeResponse,
  ITxnResponse,
} from "etcd3";
import {
  type CallOptions,
  type GetResult,
  type KvStore,
  type Lease,
  LeaseNotFoundError,
  type RangeRequest,
  type RangeResult,
  StoreError,
  type StoreInfo,
  StoreRefusedError,
  type TxnRequest,
  type TxnResult,
  type WatchBatch,
  type WatchRequest,
} from "../../oplog/kv-store.js";
import { Cluster } from "./cluster.js";
import { isAnswerTooLarge } from "./failures.js";
import { keepLeaseAlive } from "./keep-alive.js";
import type { EtcdOptions } from "./options.js";
import { PageSize } from "./page-size.js";
import { watch } from "./watch.js";
import { decodeInteger, decodePair, decodeTxn, encodeKey, encodeRange, encodeTxn, TXN_BYTES_MAX } from "./wire.js";

const REQUEST_TIMEOUT_MS = 3_000;
const RANGE_LIMIT_MAX = 10_000;

/** KvStore on etcd 3.4 or newer. Connects with the first call, and again by itself. */
export class EtcdKvStore implements KvStore {
  readonly kind = "etcd";
  readonly txnBytesMax = TXN_BYTES_MAX;
  private readonly cluster: Cluster;
  private readonly requestTimeoutMs: number;
  private readonly pageSize = new PageSize();

  constructor(options: EtcdOptions) {
    this.cluster = new Cluster(options);
    this.requestTimeoutMs = options.requestTimeoutMs ?? REQUEST_TIMEOUT_MS;
  }

  async get(key: string, options?: CallOptions): Promise<GetResult> {
    const { kvs, header } = await this.read({ key: encodeKey(key) }, options);
    return { pair: kvs[0] && decodePair(kvs[0]), revision: decodeInteger(header.revision) };
  }

  async range(request: RangeRequest, options?: CallOptions): Promise<RangeResult> {
    const { limit, keysOnly = false } = request;
    if (!Number.isInteger(limit) || limit < 1 || limit > RANGE_LIMIT_MAX) {
      throw new StoreRefusedError(`a range of at most ${limit} pairs; the limit is 1 to ${RANGE_LIMIT_MAX}`);
    }
    const range = { ...encodeRange(request.from, request.to), keys_only: keysOnly };
    if (keysOnly) return this.page({ ...range, limit }, options);
    for (;;) {
      const pairs = this.pageSize.pairsFor(limit);
      try {
        const page = await this.page({ ...range, limit: pairs }, options);
        this.pageSize.came(
          page.pairs.length,
          page.pairs.reduce((sum, { value }) => sum + value.length, 0),
        );
        return page;
      } catch (error) {
        const tooLarge = error instanceof StoreError && isAnswerTooLarge(error);
        if (!tooLarge || !this.pageSize.shrinkFrom(pairs)) throw error;
      }
    }
  }

  async txn(request: TxnRequest, options?: CallOptions): Promise<TxnResult> {
    const message = encodeTxn(request);
    const response = await this.cluster.unary<"KV", ITxnResponse>({
      service: "KV",
      deadlineMs: this.deadlineMs(options),
      repeatable: false,
      start: (stub, metadata, call, done) => stub.txn(message, metadata, call, done),
    });
    return decodeTxn(response);
  }

  watch(request: WatchRequest, signal: AbortSignal): AsyncIterable<WatchBatch> {
    return watch(this.cluster, request, signal, this.requestTimeoutMs);
  }

  async grantLease(ttlMs: number, options?: CallOptions): Promise<Lease> {
    const request = { TTL: Math.max(1, Math.ceil(ttlMs / 1000)).toString() };
    const { ID, TTL } = await this.cluster.unary<"Lease", ILeaseGrantResponse>({
      service: "Lease",
      deadlineMs: this.deadlineMs(options),
      repeatable: false,
      start: (stub, metadata, call, done) => stub.leaseGrant(request, metadata, call, done),
    });
    return { leaseId: decodeInteger(ID), ttlMs: Number(decodeInteger(TTL)) * 1000 };
  }

  async keepLeaseAlive(leaseId: bigint, options?: CallOptions): Promise<Lease> {
    return keepLeaseAlive(this.cluster, leaseId, this.deadlineMs(options));
  }

  async leaseTimeLeft(leaseId: bigint, options?: CallOptions): Promise<number | undefined> {
    const request = { ID: leaseId.toString() };
    const { TTL } = await this.cluster.unary<"Lease", ILeaseTimeToLiveResponse>({
      service: "Lease",
      deadlineMs: this.deadlineMs(options),
      repeatable: true,
      start: (stub, metadata, call, done) => stub.leaseTimeToLive(request, metadata, call, done),
    });
    const seconds = Number(decodeInteger(TTL));
    return seconds < 0 ? undefined : seconds * 1000;
  }

  async revokeLease(leaseId: bigint, options?: CallOptions): Promise<void> {
    const request = { ID: leaseId.toString() };
    try {
      await this.cluster.unary<"Lease", ILeaseRevokeResponse>({
        service: "Lease",
        deadlineMs: this.deadlineMs(options),
        repeatable: true,
        start: (stub, metadata, call, done) => stub.leaseRevoke(request, metadata, call, done),
      });
    } catch (error) {
      if (!(error instanceof LeaseNotFoundError)) throw error;
    }
  }

  async status(options?: CallOptions): Promise<StoreInfo> {
    const { version, dbSize } = await this.cluster.status(this.deadlineMs(options));
    return { version, sizeBytes: Number(decodeInteger(dbSize)) };
  }

  async close(): Promise<void> {
    await this.cluster.close();
  }

  private async page(request: IRangeRequest, options: CallOptions | undefined): Promise<RangeResult> {
    const { kvs, more, header } = await this.read(request, options);
    return { pairs: kvs.map(decodePair), more, revision: decodeInteger(header.revision) };
  }

  private read(request: IRangeRequest, options: CallOptions | undefined): Promise<IRangeResponse> {
    return this.cluster.unary<"KV", IRangeResponse>({
      service: "KV",
      deadlineMs: this.deadlineMs(options),
      repeatable: true,
      start: (stub, metadata, call, done) => stub.range(request, metadata, call, done),
    });
  }

  private deadlineMs(options: CallOptions | undefined): number {
    return options?.deadlineMs ?? this.requestTimeoutMs;
  }
}
