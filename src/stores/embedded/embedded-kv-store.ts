import { randomBytes } from "node:crypto";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { type Clock, systemClock } from "../../oplog/clock.js";
import { requireKey, requirePage, requireTtl, requireTxn } from "../../oplog/kv-requests.js";
import {
  type CallOptions,
  type GetResult,
  type KvStore,
  type Lease,
  LeaseNotFoundError,
  type Page,
  type PageRequest,
  type StoreDataLossError,
  StoreError,
  type StoreInfo,
  StoreRefusedError,
  StoreUnreachableError,
  type TxnRequest,
  type TxnResult,
  type WatchBatch,
  type WatchEvent,
  type WatchRequest,
} from "../../oplog/kv-store.js";
import { LeaseTable } from "../../oplog/lease-table.js";
import { type Logger, silentLogger } from "../../oplog/logger.js";
import { WatchHistory } from "../../oplog/watch-history.js";
import { type Database, LMDB_VERSION } from "./database.js";
import { openDirectory, requireFormat, writeFormat } from "./directory.js";
import { damaged, isDamaged, isStructureDamaged, lostAfterWrite, messageOf, unreadable } from "./failures.js";
import { DATA_FILE } from "./file-names.js";
import { noteOpen } from "./file-state.js";
import { refusalForWantOfSpace } from "./free-space.js";
import { GroupCommit, type Job } from "./group-commit.js";
import { HeldFiles } from "./held-files.js";
import { LeaseExpiry } from "./lease-expiry.js";
import { Ownership } from "./ownership.js";

const TXN_BYTES_MAX = 16 * 1024 * 1024;
const HISTORY_BYTES_MAX = 64 * 1024 * 1024;
const DEADLINE_MS = 10_000;
const DEAD_READERS_MS = 10_000;

export interface EmbeddedKvStoreOptions {
  /** Made if absent. On a local file system. */
  readonly directory: string;
  readonly clock?: Clock;
  readonly logger?: Logger;
  /** What watches can look back on, and so the most that one may lag behind. */
  readonly historyBytesMax?: number;
}

/**
 * The store of a single machine, in this process, on LMDB. Every write passes through here, so that watches are served
 * from memory; the history does not outlive the process. Leases do, and start their TTL again when the store is opened.
 *
 * Reads are synchronous inside: a page that is not in memory holds up the event loop until the disk has it.
 *
 * After each commit, and at each `status`, the names of the files are compared with the files that are open. Once they
 * differ every write is refused, since it would be lost when this process ends. Reads go on, because only this process can
 * still read what it has acknowledged.
 */
export class EmbeddedKvStore implements KvStore {
  readonly kind = "embedded";
  readonly txnBytesMax = TXN_BYTES_MAX;
  private readonly writes = new GroupCommit((jobs) => this.commit(jobs), DEADLINE_MS);
  private readonly history: WatchHistory;
  private readonly leases: LeaseTable;
  private readonly expiry: LeaseExpiry;
  /** Of the last commit that is known to be on disk. */
  private revision: bigint;
  private unusable: StoreError | undefined;
  private readonly files: HeldFiles;
  private readersCheckedMs = 0;
  private closing: Promise<void> | undefined;
  /** Inside a commit: what it has changed so far. */
  private pending: WatchBatch[] = [];

  private constructor(
    private readonly directory: string,
    private readonly database: Database,
    private readonly ownership: Ownership,
    /** As it was named. */
    path: string,
    private readonly logger: Logger,
    private readonly clock: Clock,
    historyBytesMax: number,
  ) {
    this.revision = database.revision;
    this.history = new WatchHistory(this.revision, historyBytesMax);
    this.leases = new LeaseTable(clock);
    for (const { leaseId, ttlMs } of database.allLeases()) this.leases.grant(leaseId, ttlMs);
    this.expiry = new LeaseExpiry(this.leases, (leaseId) => this.revokeLease(leaseId), logger);
    this.files = new HeldFiles(path, directory, clock, logger, (loss, isReadable) => this.onLost(loss, isReadable));
    this.expiry.schedule();
  }

  /**
   * Rejects with DataDirectoryInUseError while another process, or this one, has the directory open, and with
   * StoreDataLossError when its file is damaged.
   */
  static async open(options: EmbeddedKvStoreOptions): Promise<EmbeddedKvStore> {
    const { clock = systemClock, logger = silentLogger, historyBytesMax = HISTORY_BYTES_MAX } = options;
    const { directory, database } = await openDirectory(options.directory, logger);
    try {
      requireFormat(database, directory);
      const ownership = await Ownership.claim(database, directory, () => {
        requireFormat(database, directory);
        noteOpen(directory);
        writeFormat(database);
      });
      return new EmbeddedKvStore(directory, database, ownership, options.directory, logger, clock, historyBytesMax);
    } catch (error) {
      await database.close();
      throw isDamaged(error) ? damaged(directory, error) : error;
    }
  }

  async get(key: string): Promise<GetResult> {
    this.requireUsable();
    requireKey(key);
    return this.read(() => ({ pair: this.database.get(key), revision: this.database.revision }));
  }

  async page(request: PageRequest): Promise<Page> {
    this.requireUsable();
    requirePage(request);
    return this.read(() => this.database.page(request));
  }

  async txn(request: TxnRequest, options?: CallOptions): Promise<TxnResult> {
    this.requireUsable();
    const bytes = requireTxn(request, this.txnBytesMax);
    return this.writes.submit(bytes, () => this.applyTxn(request), options);
  }

  async *watch(request: WatchRequest, signal: AbortSignal): AsyncGenerator<WatchBatch, void> {
    yield* this.history.watch(request, signal);
  }

  async grantLease(ttlMs: number, options?: CallOptions): Promise<Lease> {
    this.requireUsable();
    requireTtl(ttlMs);
    const leaseId = newLeaseId();
    await this.writes.submit(0, () => this.database.putLease(leaseId, ttlMs), options);
    const lease = this.leases.grant(leaseId, ttlMs);
    this.expiry.schedule();
    return lease;
  }

  async keepLeaseAlive(leaseId: bigint): Promise<Lease> {
    this.requireUsable();
    if (this.files.loss !== undefined) throw this.files.loss;
    return this.leases.renew(leaseId);
  }

  async leaseTimeLeft(leaseId: bigint): Promise<number | undefined> {
    this.requireUsable();
    return this.leases.timeLeftMs(leaseId);
  }

  async revokeLease(leaseId: bigint, options?: CallOptions): Promise<void> {
    this.requireUsable();
    const revoke = () => {
      const keys = this.database.removeLease(leaseId);
      this.applyWrites(keys.map((key) => ({ kind: "delete", key })));
    };
    await this.writes.submit(0, revoke, options);
    this.leases.remove(leaseId);
  }

  async status(): Promise<StoreInfo> {
    this.requireUsable();
    const loss = this.files.look();
    if (loss !== undefined) throw loss;
    this.read(() => this.database.revision);
    this.forgetDeadReaders();
    const { size } = await stat(join(this.directory, DATA_FILE));
    const refusal = await refusalForWantOfSpace(this.directory);
    return { version: LMDB_VERSION, sizeBytes: size, ...(refusal === undefined ? {} : { refusal }) };
  }

  close(): Promise<void> {
    this.closing ??= this.closeOnce();
    return this.closing;
  }

  private async closeOnce(): Promise<void> {
    const hasFailed = this.unusable !== undefined;
    this.unusable ??= new StoreUnreachableError("the store is closed");
    this.expiry.stop();
    this.history.close();
    await this.writes.stop(this.unusable);
    this.files.look();
    // The database first: a successor must not find the directory free while this process still has it open.
    await this.database.close();
    if (!hasFailed && this.files.loss === undefined) this.files.noteClosed();
    await this.ownership.release();
  }

  /** Of processes that were killed while they read: what they saw would be kept for ever. */
  private forgetDeadReaders(): void {
    const nowMs = this.clock.monotonicMs();
    if (nowMs - this.readersCheckedMs < DEAD_READERS_MS) return;
    this.readersCheckedMs = nowMs;
    this.database.forgetDeadReaders();
  }

  /** Reads go on where they can, and then watches stay open. */
  private onLost(loss: StoreDataLossError, isReadable: boolean): void {
    this.expiry.stop();
    void this.writes.stop(loss);
    if (!isReadable) this.fail(loss);
  }

  private requireUsable(): void {
    if (this.unusable !== undefined) throw this.unusable;
  }

  private read<T>(read: () => T): T {
    this.files.lookBeforeReading();
    this.requireUsable();
    try {
      return read();
    } catch (error) {
      if (isStructureDamaged(error)) throw this.files.lose(damaged(this.directory, error));
      throw unreadable(this.directory, error);
    }
  }

  private applyTxn({ compares, writes, readOnFailure = [] }: TxnRequest): TxnResult {
    if (!this.read(() => compares.every(({ key, modRevision }) => this.database.modRevision(key) === modRevision))) {
      return {
        succeeded: false,
        revision: this.revisionSoFar(),
        reads: this.read(() => readOnFailure.map((key) => this.database.get(key))),
      };
    }
    for (const write of writes) {
      if (write.kind === "put" && write.leaseId) this.requireLease(write.leaseId);
    }
    this.applyWrites(writes);
    return { succeeded: true, revision: this.revisionSoFar() };
  }

  /** The table knows of the clock, the database of revocations that are not on disk yet. */
  private requireLease(leaseId: bigint): void {
    this.leases.requireRunning(leaseId);
    if (!this.database.hasLease(leaseId)) throw new LeaseNotFoundError(`lease ${leaseId} was revoked`);
  }

  private applyWrites(writes: TxnRequest["writes"]): void {
    const revision = this.revisionSoFar() + 1n;
    const events: WatchEvent[] = writes.flatMap((write) => this.database.write(write, revision));
    // As in etcd, what changes nothing takes no revision.
    if (events.length > 0) this.pending.push({ revision, events });
  }

  private revisionSoFar(): bigint {
    return this.pending.at(-1)?.revision ?? this.revision;
  }

  private async commit(jobs: readonly Job[]): Promise<void> {
    let applied: Job[] = [];
    const loss = this.files.look();
    if (loss !== undefined) {
      for (const job of jobs) job.failed(loss);
      return;
    }
    try {
      await this.database.commit(() => {
        this.pending = [];
        applied = [];
        if (!this.ownership.isHeld()) throw new StoreRefusedError(`another process took over ${this.directory}`);
        for (const job of jobs) if (this.isApplied(job)) applied.push(job);
        if (this.pending.length > 0) this.database.revision = this.revisionSoFar();
      });
    } catch (error) {
      this.pending = [];
      const failure = this.judge(error);
      for (const job of jobs) job.failed(failure);
      return;
    }
    const changes = this.pending;
    this.pending = [];
    const lossMeanwhile = this.files.look();
    if (lossMeanwhile !== undefined) {
      for (const job of applied) job.failed(lostAfterWrite(lossMeanwhile));
      return;
    }
    this.revision = changes.at(-1)?.revision ?? this.revision;
    for (const change of changes) this.history.publish(change);
    for (const job of applied) job.committed();
  }

  /** A refusal concerns this job alone; anything else, like an error of LMDB, undoes the whole commit. */
  private isApplied(job: Job): boolean {
    try {
      job.apply();
      return true;
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      job.failed(error);
      return false;
    }
  }

  /**
   * What a failed commit means. LMDB writes new pages beside the old ones and switches over with the last write, so that
   * a disk that is full, or fails before that, has changed nothing; then LMDB can still start a transaction, and shows
   * the old revision in it. Otherwise the switch itself failed: what a crash would leave is unknown, and so is the rest
   * until the directory is opened again.
   */
  private judge(error: unknown): StoreError {
    const why = messageOf(error);
    this.logger.error({ directory: this.directory, err: error }, `a commit failed: ${why}`);
    if (error instanceof StoreError) {
      this.fail(new StoreUnreachableError(`${why}; this one has stopped writing`, { cause: error }));
      return error;
    }
    if (isDamaged(error)) return lostAfterWrite(this.files.lose(damaged(this.directory, error)));
    try {
      if (this.database.commitSync(() => this.database.revision) === this.revision) {
        const advice = "free space on its file system or repair it";
        return new StoreRefusedError(`cannot write ${this.directory}: ${why}; nothing was written; ${advice}`, {
          cause: error,
        });
      }
    } catch (second) {
      this.logger.error(
        { directory: this.directory, err: second },
        "the database does not accept transactions any more",
      );
    }
    this.fail(new StoreUnreachableError(`${this.directory} failed: ${why}; it must be opened again`, { cause: error }));
    return this.unusable!;
  }

  /** The watches end, and no call is served any more, until the directory is opened again. */
  private fail(error: StoreError): void {
    this.unusable ??= error;
    this.expiry.stop();
    this.history.close();
    void this.writes.stop(this.unusable);
  }
}

/** Random, so that the id of a lease that was lost with its grant is never given to another. */
function newLeaseId(): bigint {
  return (randomBytes(8).readBigUInt64BE() >> 1n) | 1n;
}
