import { randomBytes } from "node:crypto";
import type { Codec, Head } from "../gen/oplog/store/v1/store_pb.js";
import type { Clock } from "../oplog/clock.js";
import { DataLossError, type OplogError, QueueFullError, ShuttingDownError } from "../oplog/errors.js";
import type { LogKeys } from "../oplog/keys.js";
import { type KvStore, StoreDataLossError, StoreError, StoreRefusedError } from "../oplog/kv-store.js";
import type { Logger } from "../oplog/logger.js";
import type { ReplicationObserver } from "../oplog/observer.js";
import type { OperationWindow } from "../oplog/operation-window.js";
import type { CommittedRun } from "../oplog/record.js";
import { Backoff, Change, sleep } from "../oplog/timing.js";
import type { Primary } from "../stored/primary.js";
import { type AppendItem, QUEUE_RETRY_MS, type QueueBudget } from "./append-item.js";
import type { Claim } from "./claim.js";
import { attemptCommit } from "./commit.js";
import { costOf, type RecordLimits, type Sealed, type SealedRecord, seal } from "./seal.js";
import {
  type EndedWriter,
  type Ending,
  endDataLoss,
  endFenced,
  endRuledOut,
  endStalled,
  endStoreLost,
  type Failure,
  unknownFor,
  type WriterEnd,
} from "./writer-end.js";

export interface WriterSettings {
  readonly record: RecordLimits;
  /** How long one record may be tried before the writer gives up. */
  readonly writeDeadlineMs: number;
  readonly codec: Codec;
}

export interface WriterParts {
  readonly store: KvStore;
  readonly keys: LogKeys;
  readonly claim: Claim;
  readonly window: OperationWindow;
  readonly budget: QueueBudget;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly observer: ReplicationObserver;
  readonly settings: WriterSettings;
  /** Told of every record as soon as it is durable, in order. */
  readonly onCommitted: (run: CommittedRun) => void;
  /** Told once, as soon as nothing further will be written. */
  readonly onEnded: (end: WriterEnd) => void;
}

const RETRY_FIRST_MS = 10;
const RETRY_MAX_MS = 1000;

/**
 * Writes one log under one term. Seals whatever has queued up each time the line is free; one transaction is in flight.
 *
 * Invariant: head, its revision and the window describe the last durable record, or, from seal to commit, the one in
 * flight. A record that is not committed ends the writer, so nothing sealed is ever taken back.
 */
export class LogWriter {
  private line: AppendItem[] = [];
  private lineBytes = 0;
  private inFlight: Sealed | undefined;
  private head: Head;
  private headRevision: bigint;
  private records = 0n;
  private readonly noncePrefix = randomBytes(8);
  private readonly work = new Change();
  /** Why nothing further is accepted, though what was accepted is still written. */
  private draining: OplogError | undefined;
  /** Nothing further is written either. */
  private retired: WriterEnd | undefined;
  private holders = 0;
  private ended: WriterEnd | undefined;
  private failingSince: { readonly wallMs: number; readonly monotonicMs: number } | undefined;

  constructor(private readonly parts: WriterParts) {
    this.head = parts.claim.head;
    this.headRevision = parts.claim.headRevision;
  }

  get term(): bigint {
    return this.parts.claim.term;
  }

  /** Of the last durable record. */
  get lastSequenceId(): bigint {
    return this.head.lastSequenceId;
  }

  get isElected(): boolean {
    return this.parts.claim.leaderRevision !== undefined;
  }

  get claim(): Claim {
    return this.parts.claim;
  }

  get window(): OperationWindow {
    return this.parts.window;
  }

  /** Set as soon as nothing further will be written. */
  get end(): WriterEnd | undefined {
    return this.retired ?? this.ended;
  }

  get status(): { queuedAppends: number; queuedBytes: number; stalledSinceMs: number | undefined } {
    return { queuedAppends: this.line.length, queuedBytes: this.lineBytes, stalledSinceMs: this.failingSince?.wallMs };
  }

  /** Whether an append of this writer has been accepted and not been settled yet. */
  hasUnsettled(writerId: string): boolean {
    const isIt = (item: AppendItem) => item.writerId === writerId;
    return this.line.some(isIt) || (this.inFlight?.settlements.some(({ item }) => isIt(item)) ?? false);
  }

  hasRoomFor(item: AppendItem): boolean {
    return this.parts.budget.hasRoomFor(costOf(item));
  }

  /** Resolves once something has left the queue. */
  roomMade(): Promise<void> {
    return this.parts.budget.released();
  }

  /**
   * Resolves once nothing is in flight; nothing further is sealed until the function it returns has been called. Appends
   * queue meanwhile. Throws why, if the writer ends first.
   */
  async hold(): Promise<() => void> {
    this.holders++;
    let isReleased = false;
    const release = () => {
      if (isReleased) return;
      isReleased = true;
      this.holders--;
      this.work.notify();
    };
    while (this.inFlight !== undefined && this.end === undefined) {
      await this.work.wait(this.work.version);
    }
    if (this.end === undefined) return release;
    release();
    throw this.end.error;
  }

  /** Queues the append or throws. What is queued is settled, always. */
  append(item: AppendItem): void {
    this.requireOpen();
    const { budget } = this.parts;
    const cost = costOf(item);
    if (!budget.hasRoomFor(cost)) {
      throw budget.appends < budget.appendsMax
        ? new QueueFullError("bytes", cost, budget.bytesMax, QUEUE_RETRY_MS)
        : new QueueFullError("appends", 1, budget.appendsMax, QUEUE_RETRY_MS);
    }
    this.account(item);
    this.line.push(item);
    this.work.notify();
  }

  /**
   * The same, before all that wait and beyond what the queue takes: for the sidecar's own appends, which come one at a
   * time, and which a queue that masters keep full would shut out.
   */
  appendFirst(item: AppendItem): void {
    this.requireOpen();
    this.account(item);
    this.line.unshift(item);
    this.work.notify();
  }

  private requireOpen(): void {
    if (this.end !== undefined) throw this.end.error;
    if (this.draining !== undefined) throw this.draining;
  }

  private account(item: AppendItem): void {
    const cost = costOf(item);
    this.parts.budget.take(cost);
    this.lineBytes += cost;
  }

  /** No further appends; `run` ends once all that are queued have been settled. */
  drain(refusal: OplogError = new ShuttingDownError()): void {
    this.draining ??= refusal;
    this.work.notify();
  }

  /**
   * Refuses what waits and all that comes. What is in flight is settled by its outcome, and not attempted again.
   * `by`: who is known to lead now.
   */
  retire(refusal: OplogError, by?: Primary): void {
    if (this.end !== undefined) return;
    this.retired = by === undefined ? { kind: "stopped", error: refusal } : { kind: "fenced", error: refusal, by };
    this.parts.onEnded(this.retired);
    this.abandonLine();
    this.work.notify();
  }

  /** Writes until the writer ends. Abort gives up what cannot be written at once. */
  async run(signal: AbortSignal): Promise<void> {
    try {
      while (this.ended === undefined) {
        const seen = this.work.version;
        if (this.retired !== undefined) this.ended = this.retired;
        else if (this.line.length > 0 && (this.holders === 0 || signal.aborted)) await this.writeNext(signal);
        else if (this.line.length === 0 && (this.draining !== undefined || signal.aborted)) this.endAs(this.stopped);
        else await this.work.wait(seen, signal);
      }
    } catch (error) {
      // A broken invariant of ours: nothing further may be written, and nobody may be left waiting.
      const lost = new DataLossError(this.parts.keys.log, this.head.lastSequenceId + 1n, String(error));
      this.endAs({ kind: "data loss", error: lost });
      if (this.inFlight !== undefined) this.settle(this.inFlight, unknownFor("the writer has failed"));
      throw error;
    } finally {
      this.abandonLine();
    }
  }

  private async writeNext(signal: AbortSignal): Promise<void> {
    const { parts } = this;
    const sealed = seal(this.line, {
      head: this.head,
      term: this.term,
      window: parts.window,
      limits: parts.settings.record,
      codec: parts.settings.codec,
      wallMs: parts.clock.wallMs(),
      nonce: this.nextNonce(),
    });
    this.inFlight = sealed;
    this.line.splice(0, sealed.settlements.length);
    for (const { item } of sealed.settlements) this.lineBytes -= costOf(item);
    const failure = sealed.record === undefined ? undefined : await this.commit(sealed.record, signal);
    if (sealed.record !== undefined && failure === undefined) this.publish(sealed.record);
    this.settle(sealed, failure);
  }

  /** Tries until the record is durable or the writer has ended; then answers what its appends are told. */
  private async commit(record: SealedRecord, signal: AbortSignal): Promise<Failure | undefined> {
    const { store, keys, claim, clock, observer } = this.parts;
    const startedMs = clock.monotonicMs();
    const backoff = new Backoff(clock, RETRY_FIRST_MS, RETRY_MAX_MS);
    let mayHaveBeenApplied = false;
    let lastError: StoreError | undefined;
    for (;;) {
      try {
        const verdict = await attemptCommit(
          store,
          keys,
          claim,
          { head: this.head, headRevision: this.headRevision },
          record,
        );
        this.noteWritable();
        switch (verdict.kind) {
          case "committed":
            this.head = record.head;
            this.headRevision = verdict.headRevision;
            observer.committed(
              keys.log,
              Number(record.last - record.first) + 1,
              (clock.monotonicMs() - startedMs) / 1000,
            );
            return undefined;
          case "ruled out":
            return this.finish(endRuledOut(this.self));
          case "committed, then fenced":
            this.head = record.head;
            this.finish(endFenced(this.self, verdict.primary, false));
            return undefined;
          case "fenced":
            return this.finish(endFenced(this.self, verdict.primary, false));
          case "fenced, outcome lost":
            return this.finish(endFenced(this.self, verdict.primary, mayHaveBeenApplied));
          case "foreign head":
            return this.finish(endDataLoss(this.self, verdict.problem));
        }
      } catch (error) {
        if (error instanceof DataLossError) return this.finish(endDataLoss(this.self, error.message));
        if (!(error instanceof StoreError)) throw error;
        if (error instanceof StoreDataLossError) {
          return this.finish(endStoreLost(this.self, error, mayHaveBeenApplied || !error.isCertainlyNotApplied));
        }
        if (!(error instanceof StoreRefusedError)) mayHaveBeenApplied = true;
        lastError = error;
        this.noteUnwritable(error);
        observer.writeRetried(keys.log);
      }
      const failedMs = clock.monotonicMs() - this.failingSince!.monotonicMs;
      const isStopping = signal.aborted || this.retired !== undefined;
      if (failedMs >= this.parts.settings.writeDeadlineMs || isStopping) {
        const stall = {
          failedMs: Math.round(failedMs),
          mayHaveBeenApplied,
          cause: lastError,
          stoppedBy: isStopping ? this.stopped.error : undefined,
        };
        return this.finish(endStalled(this.self, stall));
      }
      await sleep(clock, backoff.delayMs(), signal);
    }
  }

  private publish(record: SealedRecord): void {
    const { keys, observer, onCommitted } = this.parts;
    observer.headMoved(keys.log, record.last);
    onCommitted(record);
  }

  private settle({ settlements, record }: Sealed, failure: Failure | undefined): void {
    const { budget, observer, keys } = this.parts;
    let appends = 0;
    let entries = 0;
    let bytes = 0;
    for (const { item, outcome } of settlements) {
      budget.give(costOf(item));
      const isOfRecord = record !== undefined && "appended" in outcome && outcome.appended.last >= record.first;
      if (failure !== undefined && isOfRecord) {
        const error = failure(item);
        observer.refused(keys.log, error.reason);
        item.settle({ error });
      } else {
        if ("error" in outcome) observer.refused(keys.log, outcome.error.reason);
        else if (!outcome.appended.isDuplicate) {
          appends++;
          entries += item.entries.count;
          bytes += item.entries.costBytes;
        }
        item.settle(outcome);
      }
    }
    this.inFlight = undefined;
    if (this.holders > 0) this.work.notify();
    observer.appended(keys.log, appends, entries, bytes);
  }

  private abandonLine(): void {
    const { budget, observer, keys } = this.parts;
    const line = this.line;
    this.line = [];
    this.lineBytes = 0;
    const { error } = this.end ?? this.stopped;
    for (const item of line) {
      budget.give(costOf(item));
      observer.refused(keys.log, error.reason);
      item.settle({ error });
    }
  }

  private finish({ end, failure }: Ending): Failure {
    this.endAs(end);
    return failure;
  }

  private endAs(end: WriterEnd): void {
    const isNew = this.end === undefined;
    this.ended = end;
    if (isNew) this.parts.onEnded(end);
  }

  private get stopped(): WriterEnd {
    return this.retired ?? { kind: "stopped", error: this.draining ?? new ShuttingDownError() };
  }

  private get self(): EndedWriter {
    const { logger, keys } = this.parts;
    return { logger, log: keys.log, term: this.term, head: this.head.lastSequenceId };
  }

  private noteWritable(): void {
    if (this.failingSince === undefined) return;
    this.failingSince = undefined;
    this.parts.logger.info({ event: "writer_recovered", log: this.parts.keys.log }, "the store takes writes again");
  }

  private noteUnwritable(error: StoreError): void {
    if (this.failingSince !== undefined) return;
    const { clock, logger, keys } = this.parts;
    this.failingSince = { wallMs: clock.wallMs(), monotonicMs: clock.monotonicMs() };
    logger.warn({ event: "write_failed", log: keys.log, err: error }, "a record could not be written; trying again");
  }

  /** A random prefix and a counter: unique, without drawing randomness for every record. */
  private nextNonce(): Buffer {
    const nonce = Buffer.alloc(16);
    this.noncePrefix.copy(nonce);
    nonce.writeBigUInt64BE(++this.records, 8);
    return nonce;
  }
}
