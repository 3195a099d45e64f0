import { randomBytes } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { type StoreAnchor, StoreAnchorSchema } from "../gen/oplog/store/v1/store_pb.js";
import type { Clock } from "../oplog/clock.js";
import {
  type CallOptions,
  type GetResult,
  type KvStore,
  type PageRequest,
  StoreError,
  type StoreInfo,
  StoreReplacedError,
  StoreUnreachableError,
  type TxnRequest,
  type WatchBatch,
  type WatchRequest,
} from "../oplog/kv-store.js";
import type { Logger } from "../oplog/logger.js";
import { decodeState } from "./decode.js";

export interface AnchorParts {
  /** A store that remembers the identity of whoever answers first, and rejects others with StoreReplacedError. */
  readonly open: () => KvStore;
  /** Where the anchor is kept. */
  readonly key: string;
  readonly sidecarId: string;
  readonly clock: Clock;
  readonly logger: Logger;
}

const ERAS_MAX = 32;
const REMEDY = 'If this is meant, say so with "oplogctl adopt" at each sidecar; if not, bring the right store back';
const BEFORE_ADOPTION = "the data of the store was replaced by data from before it was adopted";
const BEGUN_ANEW = "the store is another one of the same identity: it was begun anew";

/**
 * Uses a store only while it is known to be the one whose logs were seen. The anchor in the store names the identity of
 * the store that it was written to. So a copy at another place is noticed, also by a sidecar that has just started. A store
 * that is replaced while a sidecar runs is noticed by the inner store. In both cases every call is refused until the right
 * store is back, or an operator adopts this one, here or at another sidecar that knew the same store.
 */
export class AnchoredKvStore implements KvStore {
  readonly kind: string;
  readonly txnBytesMax: number;
  private inner: KvStore;
  /** As it was last found to be ours. */
  private anchor: StoreAnchor | undefined;
  private isAnchored = false;
  private anchoring: Promise<void> | undefined;
  private refusal: StoreReplacedError | undefined;
  /** What has shown that its data is older, which a second look cannot show. */
  private older: string | undefined;
  /** The refusal that was logged last. */
  private told: string | undefined;
  private isClosed = false;
  /** Called when the store has been adopted: what was seen of its logs before is no longer valid. */
  onAdopted: () => void = () => undefined;

  constructor(private readonly parts: AnchorParts) {
    this.inner = parts.open();
    this.kind = this.inner.kind;
    this.txnBytesMax = this.inner.txnBytesMax;
  }

  get(key: string, options?: CallOptions): Promise<GetResult> {
    return this.through((store) => store.get(key, options));
  }

  page(request: PageRequest, options?: CallOptions) {
    return this.through((store) => store.page(request, options));
  }

  txn(request: TxnRequest, options?: CallOptions) {
    return this.through((store) => store.txn(request, options));
  }

  async *watch(request: WatchRequest, signal: AbortSignal): AsyncGenerator<WatchBatch, void> {
    yield* (await this.usable()).watch(request, signal);
  }

  grantLease(ttlMs: number, options?: CallOptions) {
    return this.through((store) => store.grantLease(ttlMs, options));
  }

  keepLeaseAlive(leaseId: bigint, options?: CallOptions) {
    return this.through((store) => store.keepLeaseAlive(leaseId, options));
  }

  leaseTimeLeft(leaseId: bigint, options?: CallOptions) {
    return this.through((store) => store.leaseTimeLeft(leaseId, options));
  }

  revokeLease(leaseId: bigint, options?: CallOptions) {
    return this.through((store) => store.revokeLease(leaseId, options));
  }

  /** Also finds out whether the store is still the right one, and whether one that was refused has become so. */
  async status(options?: CallOptions): Promise<StoreInfo> {
    try {
      if (this.refusal === undefined) {
        const info = await (await this.usable()).status(options);
        await this.lookAgain(options);
        this.told = undefined;
        return info;
      }
    } catch (error) {
      if (!(error instanceof StoreReplacedError)) throw error;
      if (error !== this.refusal) this.refuse(error);
    }
    await this.reconsider(options);
    return this.inner.status(options);
  }

  /** For reading what is in the store although it is refused: an operator wants to know before it is adopted. */
  async inspect<T>(read: (store: KvStore) => Promise<T>): Promise<T> {
    const candidate = this.parts.open();
    try {
      return await read(candidate);
    } finally {
      await candidate.close();
    }
  }

  /** Accepts the store as it is now. Resolves to its identity. */
  async adopt(): Promise<string> {
    const { parts } = this;
    const candidate = parts.open();
    try {
      const identity = await identityOf(candidate);
      for (;;) {
        const { pair } = await candidate.get(parts.key);
        const found = pair && decodeState(StoreAnchorSchema, pair);
        const eras = [...(found?.pastEras ?? []), ...[found?.era, this.anchor?.era].filter((era) => era !== undefined)];
        const adopted = create(StoreAnchorSchema, {
          identity,
          era: randomBytes(16),
          pastEras: eras.slice(-ERAS_MAX),
          adoptedAtMs: BigInt(parts.clock.wallMs()),
          adoptedBy: parts.sidecarId,
        });
        if (!(await putAnchor(candidate, parts.key, adopted, pair?.modRevision))) continue;
        parts.logger.warn({ event: "store_adopted", identity, before: found?.identity }, "the store has been adopted");
        await this.take(candidate, adopted);
        return identity;
      }
    } catch (error) {
      if (candidate !== this.inner) await candidate.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    this.isClosed = true;
    await this.inner.close();
  }

  /** One call may have met a stranger: `status` decides whether the store is refused from then on. */
  private async through<T>(call: (store: KvStore) => Promise<T>): Promise<T> {
    const store = await this.usable();
    try {
      return await call(store);
    } catch (error) {
      if (!(error instanceof StoreReplacedError)) throw error;
      const refusal = withRemedy(error);
      if (this.told === undefined) this.tell(refusal);
      throw refusal;
    }
  }

  private async usable(): Promise<KvStore> {
    if (this.refusal !== undefined) throw this.refusal;
    if (!this.isAnchored) {
      this.anchoring ??= this.drop().finally(() => {
        this.anchoring = undefined;
      });
      await this.anchoring;
    }
    return this.inner;
  }

  /** The first contact: reads the anchor, or writes one. */
  private async drop(): Promise<void> {
    const { key, logger } = this.parts;
    const identity = await identityOf(this.inner);
    for (;;) {
      const { pair } = await this.inner.get(key);
      if (pair !== undefined) {
        const found = decodeState(StoreAnchorSchema, pair);
        if (found.identity !== identity) throw this.refuse(foreign(found.identity, identity));
        this.anchor = found;
        this.isAnchored = true;
        return;
      }
      const anchor = create(StoreAnchorSchema, { identity, era: randomBytes(16) });
      if (await putAnchor(this.inner, key, anchor, undefined)) {
        logger.info({ event: "store_anchored", identity }, "the store is known by this identity from now on");
      }
    }
  }

  /**
   * All that was in the store may have been deleted, or the store begun anew, without a revision that tells. An answer may
   * come out of the past (etcd #20418), so a transaction confirms it.
   */
  private async lookAgain(options?: CallOptions): Promise<void> {
    const { key } = this.parts;
    const { inner: store, anchor: known } = this;
    if (known === undefined) return;
    try {
      const { pair } = await store.get(key, options);
      const found = pair && decodeState(StoreAnchorSchema, pair);
      if (found !== undefined && isOneOf(found.era, [known.era])) return;
      const compares = [{ key, modRevision: pair?.modRevision ?? 0n }];
      // Without a write it would be answered from the past too; nothing is stored under this key.
      const { succeeded } = await store.txn({ compares, writes: [{ kind: "delete", key: `${key}/nothing` }] }, options);
      if (!succeeded || this.inner !== store) return;
      if (found === undefined) throw emptied(this.older);
      if (isOneOf(found.era, known.pastEras)) throw new StoreReplacedError(BEFORE_ADOPTION, { isOlder: true });
      if (!isOneOf(known.era, found.pastEras)) throw new StoreReplacedError(BEGUN_ANEW);
      this.anchor = found;
    } catch (error) {
      // Whether the store answers at all is for others to tell.
      if (error instanceof StoreReplacedError || !(error instanceof StoreError)) throw error;
    }
  }

  private async reconsider(options?: CallOptions): Promise<void> {
    const candidate = this.parts.open();
    try {
      const identity = await identityOf(candidate, options);
      const { pair } = await candidate.get(this.parts.key, options);
      const found = pair && decodeState(StoreAnchorSchema, pair);
      const known = this.anchor;
      if (found !== undefined && found.identity === identity && this.isContinued(found, identity)) {
        await this.take(candidate, found);
        return;
      }
      if (found === undefined) throw this.refuse(emptied(this.older));
      if (found.identity !== identity) throw this.refuse(foreign(found.identity, identity));
      if (known !== undefined && known.identity !== identity) throw this.refuse(foreign(known.identity, identity));
      throw this.refusal;
    } finally {
      if (candidate !== this.inner) await candidate.close();
    }
  }

  /** The store has been adopted since, or is the right one again. A second look cannot show that it held older data. */
  private isContinued(found: StoreAnchor, identity: string): boolean {
    const { anchor: known } = this;
    if (known === undefined) return true;
    const isSame = isOneOf(known.era, [found.era]);
    return isOneOf(known.era, found.pastEras) || (isSame && identity === known.identity && this.older === undefined);
  }

  private async take(candidate: KvStore, anchor: StoreAnchor): Promise<void> {
    const before = this.inner;
    const isAdopted = this.anchor === undefined || Buffer.compare(this.anchor.era, anchor.era) !== 0;
    if (this.isClosed) throw new StoreUnreachableError("the store is closed");
    this.inner = candidate;
    this.anchor = anchor;
    this.isAnchored = true;
    this.refusal = undefined;
    this.older = undefined;
    this.told = undefined;
    if (isAdopted) this.onAdopted();
    await before.close();
  }

  private refuse(error: StoreReplacedError): StoreReplacedError {
    if (error.isOlder) this.older ??= error.message;
    this.refusal = withRemedy(error);
    if (this.told !== this.refusal.message) this.tell(this.refusal);
    return this.refusal;
  }

  /** To whoever is on call. */
  private tell({ message }: StoreReplacedError): void {
    this.told = message;
    this.parts.logger.error({ event: "store_replaced" }, message);
  }
}

async function identityOf(store: KvStore, options?: CallOptions): Promise<string> {
  return (await store.status(options)).identity ?? "";
}

async function putAnchor(store: KvStore, key: string, anchor: StoreAnchor, modRevision = 0n): Promise<boolean> {
  const { succeeded } = await store.txn({
    compares: [{ key, modRevision }],
    writes: [{ kind: "put", key, value: toBinary(StoreAnchorSchema, anchor) }],
  });
  return succeeded;
}

function withRemedy(error: StoreReplacedError): StoreReplacedError {
  const message = `${error.message}. Nothing is read or written. ${REMEDY}`;
  return new StoreReplacedError(message, { cause: error, isOlder: error.isOlder });
}

function isOneOf(era: Uint8Array, eras: readonly Uint8Array[]): boolean {
  return eras.some((each) => Buffer.compare(each, era) === 0);
}

function emptied(older: string | undefined): StoreReplacedError {
  const sign = older === undefined ? "" : ` (${older})`;
  return new StoreReplacedError(`the store is empty, or another one: it holds none of the logs${sign}`);
}

function foreign(recorded: string, identity: string): StoreReplacedError {
  return new StoreReplacedError(`the logs were written in store ${recorded}, and the one that answers is ${identity}`);
}
