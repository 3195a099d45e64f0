import type {
  ILeaseGrantResponse,
  ILeaseRevokeResponse,
  ILeaseTimeToLiveResponse,
  IRangeRequest,
  IRangeResponse,
  ITxnResponse,
} from "etcd3";
import { requirePage } from "../../oplog/kv-requests.js";
import {
  type CallOptions,
  type GetResult,
  type KeyValue,
  type KvStore,
  type Lease,
  LeaseNotFoundError,
  type Page,
  type PageRequest,
  StoreError,
  type StoreInfo,
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
/** With values; without, a message has room for as many as may be asked for. */
const PAIRS_AT_FIRST = 16;
const PAIRS_MAX = 256;
const KEYS_MAX = 10_000;

/** KvStore on etcd 3.4 or newer. Connects with the first call, and again by itself. */
export class EtcdKvStore implements KvStore {
  readonly kind = "etcd";
  readonly txnBytesMax = TXN_BYTES_MAX;
  private readonly cluster: Cluster;
  private readonly requestTimeoutMs: number;
  private readonly pageSize = new PageSize(PAIRS_AT_FIRST, PAIRS_MAX);
  private readonly keysPageSize = new PageSize(KEYS_MAX, KEYS_MAX);

  constructor(options: EtcdOptions) {
    this.cluster = new Cluster(options);
    this.requestTimeoutMs = options.requestTimeoutMs ?? REQUEST_TIMEOUT_MS;
  }

  async get(key: string, options?: CallOptions): Promise<GetResult> {
    const { kvs, header } = await this.read({ key: encodeKey(key) }, options);
    return { pair: kvs[0] && decodePair(kvs[0]), revision: decodeInteger(header.revision) };
  }

  /** etcd knows no bound in bytes: what comes beyond it is dropped here, and asked for again with the next page. */
  async page(request: PageRequest, options?: CallOptions): Promise<Page> {
    requirePage(request);
    const { from, to, limit, bytesMax, keysOnly = false } = request;
    const range = { ...encodeRange(from, to), keys_only: keysOnly };
    const size = keysOnly ? this.keysPageSize : this.pageSize;
    for (;;) {
      const asked = size.pairsFor(to, limit);
      try {
        const page = decodePage(await this.read({ ...range, limit: asked }, options));
        const bytes = page.pairs.reduce((sum, pair) => sum + bytesOf(pair), 0);
        size.came(to, page.pairs.length, bytes, bytesMax);
        return cut(page, bytesMax);
      } catch (error) {
        const tooLarge = error instanceof StoreError && isAnswerTooLarge(error);
        if (!tooLarge || !size.shrinkFrom(to, asked)) throw error;
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
    const { identity } = this.cluster;
    return { version, sizeBytes: Number(decodeInteger(dbSize)), ...(identity === undefined ? {} : { identity }) };
  }

  async close(): Promise<void> {
    await this.cluster.close();
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

function decodePage({ kvs, more, header }: IRangeResponse): Page {
  return { pairs: kvs.map(decodePair), more, revision: decodeInteger(header.revision) };
}

function bytesOf({ key, value }: KeyValue): number {
  return key.length + value.length;
}

/** The values of a page that is cut are copied: each of them would keep the whole message alive. */
function cut(page: Page, bytesMax: number): Page {
  let bytes = 0;
  const end = page.pairs.findIndex((pair, index) => {
    bytes += bytesOf(pair);
    return index > 0 && bytes > bytesMax;
  });
  if (end < 0) return page;
  const pairs = page.pairs.slice(0, end).map((pair) => ({ ...pair, value: Buffer.from(pair.value) }));
  return { ...page, pairs, more: true };
}
