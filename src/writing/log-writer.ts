import { randomBytes } from "node:crypto";
import type { Codec } from "../gen/oplog/store/v1/store_pb.js";
import type { Clock } from "../oplog/clock.js";
import { type OplogError, ShuttingDownError } from "../oplog/errors.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KvStore } from "../oplog/kv-store.js";
import { DataLossError } from "../oplog/log-errors.js";
import { LOG_AHEAD_MS_MAX } from "../oplog/log-time.js";
import type { Logger } from "../oplog/logger.js";
import type { ReplicationObserver } from "../oplog/observer.js";
import type { OperationWindow, Resolution } from "../oplog/operation-window.js";
import type { CommittedRun } from "../oplog/record.js";
import { Change, sleep } from "../oplog/timing.js";
import type { LeaderView } from "../stored/primary.js";
import { type AppendItem, isDuplicate, type QueueBudget } from "./append-item.js";
import { AppendLine } from "./append-line.js";
import type { Claim } from "./claim.js";
import { Committer } from "./committer.js";
import { answerAll, type Ruling, ruleOut } from "./ruling.js";
import { type Question, Rulings } from "./rulings.js";
import { type RecordLimits, type Sealed, type SealedRecord, seal } from "./seal.js";
import { settleAll } from "./settle.js";
import { type Failure, unknownFor, type WriterEnd } from "./writer-end.js";

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

const CLOCKS_DIFFER_MS_MAX = 60_000;
/** For how long a question may wait for the store. */
const ANSWER_MS_MAX = 2000;

/**
 * Writes one log under one term. Seals whatever has queued up each time the line is free; one transaction is in flight.
 *
 * Invariant: head and window describe the last durable record. A record that is not committed ends the writer, unless
 * somebody has ruled out operations: then it is sealed again without them, under another nonce.
 */
export class LogWriter {
  private readonly line: AppendLine;
  private inFlight: Sealed | undefined;
  private readonly committer: Committer;
  private readonly rulings = new Rulings();
  private records = 0n;
  private readonly noncePrefix = randomBytes(8);
  private readonly work = new Change();
  /** Why nothing further is accepted, though what was accepted is still written. */
  private draining: OplogError | undefined;
  /** Nothing further is written either. */
  private retired: WriterEnd | undefined;
  private holders = 0;
  private hasWarnedOfClock = false;
  private ended: WriterEnd | undefined;

  constructor(private readonly parts: WriterParts) {
    this.line = new AppendLine(parts.budget);
    this.committer = new Committer({ ...parts, writeDeadlineMs: parts.settings.writeDeadlineMs });
  }

  get term(): bigint {
    return this.parts.claim.term;
  }

  /** Of the last durable record. */
  get lastSequenceId(): bigint {
    return this.committer.head.lastSequenceId;
  }

  /** Of that record. */
  get lastChain(): Uint8Array {
    return this.committer.head.recordNonce;
  }

  get isElected(): boolean {
    return this.parts.claim.leaderRevision !== undefined;
  }

  get claim(): Claim {
    return this.parts.claim;
  }

  /** Set as soon as nothing further will be written. */
  get end(): WriterEnd | undefined {
    return this.retired ?? this.ended;
  }

  get status(): { queuedAppends: number; queuedBytes: number; stalledSinceMs: number | undefined } {
    return {
      queuedAppends: this.line.length,
      queuedBytes: this.line.bytes,
      stalledSinceMs: this.committer.stalledSinceMs,
    };
  }

  /**
   * What became of an operation; 0n asks for the writer's highest. An operation that is called not committed has been ruled
   * out before, also for every later term; a queued one is not ruled out. Undefined: this writer cannot tell any more.
   * Throws TooManyError.
   */
  async resolve(writerId: string, operationId: bigint): Promise<Resolution | undefined> {
    const { window } = this.parts;
    if (operationId !== 0n) {
      const known = window.resolve(writerId, operationId);
      if (known.outcome === "committed") return known;
      if (this.hasUnsettled(writerId, operationId)) return pending(known.highest);
      // One that is not above the highest can never commit any more: ids rise.
      if (known.outcome !== "not committed" || operationId <= known.highest) return known;
    }
    if (this.end !== undefined) return undefined;
    const answer = this.rulings.ask(writerId, operationId);
    this.work.notify();
    const late = new AbortController();
    const giveUp = sleep(this.parts.clock, ANSWER_MS_MAX, late.signal).then(() => undefined);
    return Promise.race([answer, giveUp]).finally(() => late.abort());
  }

  private hasUnsettled(writerId: string, operationId: bigint): boolean {
    const isIt = (item: AppendItem) => item.operationId === operationId && item.writerId === writerId;
    return this.line.waiting.some(isIt) || (this.inFlight?.settlements.some(({ item }) => isIt(item)) ?? false);
  }

  /** Everything that was accepted is settled. */
  get isIdle(): boolean {
    return this.line.length === 0 && this.inFlight === undefined && this.holders === 0;
  }

  hasRoomFor(item: AppendItem): boolean {
    return this.line.hasRoomFor(item);
  }

  /** Resolves once something has left the queue. */
  roomMade(): Promise<void> {
    return this.line.roomMade();
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
    this.line.join(item);
    this.work.notify();
  }

  /**
   * Queues an append before all others, also when the queue is full. For the sidecar's own appends: they come one at a time,
   * and would never get in while masters keep the queue full.
   */
  appendFirst(item: AppendItem): void {
    this.requireOpen();
    this.line.joinFirst(item);
    this.work.notify();
  }

  private requireOpen(): void {
    if (this.end !== undefined) throw this.end.error;
    if (this.draining !== undefined) throw this.draining;
  }

  /** No further appends; `run` ends once all that are queued have been settled. */
  drain(refusal: OplogError = new ShuttingDownError()): void {
    this.draining ??= refusal;
    this.work.notify();
  }

  /**
   * Refuses appends that wait, and all that come. What is in flight is not attempted again, and is settled by its outcome.
   * `by`: who is known to lead now.
   */
  retire(refusal: OplogError, by?: LeaderView): void {
    this.retireAs(by === undefined ? { kind: "stopped", error: refusal } : { kind: "fenced", error: refusal, by });
  }

  /** The same when the log may not be as this writer left it: the next append claims it again. */
  forsake(refusal: OplogError): void {
    this.retireAs({ kind: "stalled", error: refusal });
  }

  private retireAs(end: WriterEnd): void {
    if (this.end !== undefined) return;
    this.retired = end;
    this.parts.onEnded(end);
    this.abandonLine();
    this.work.notify();
  }

  /** Writes until the writer ends. Abort gives up what cannot be written at once. */
  async run(signal: AbortSignal): Promise<void> {
    try {
      while (this.ended === undefined) {
        const seen = this.work.version;
        const canSeal = this.line.length > 0 && (this.holders === 0 || signal.aborted);
        const rulingDueMs = this.rulings.dueInMs(this.parts.clock);
        if (this.retired !== undefined) this.ended = this.retired;
        else if (canSeal || rulingDueMs === 0) await this.writeNext(signal, canSeal);
        else if (this.line.length === 0 && (this.draining !== undefined || signal.aborted)) this.endAs(this.stopped);
        else if (rulingDueMs === undefined) await this.work.wait(seen, signal);
        else await this.work.waitAtMost(this.parts.clock, rulingDueMs, seen, signal);
      }
    } catch (error) {
      // A broken invariant of ours: nothing further may be written, and nobody may be left waiting.
      const lost = new DataLossError(this.parts.keys.log, this.lastSequenceId + 1n, String(error));
      this.endAs({ kind: "data loss", error: lost });
      this.settleInFlight(unknownFor("the writer has failed"));
      throw error;
    } finally {
      this.abandonLine();
      this.rulings.abandon();
    }
  }

  /** The next record, if `isSealing`, and with it whatever is to be ruled out. */
  private async writeNext(signal: AbortSignal, isSealing: boolean): Promise<void> {
    const questions = this.rulings.takeDue(this.parts.clock);
    try {
      await this.write(questions, signal, isSealing);
    } finally {
      // Those that have been answered take no second answer.
      for (const { settle } of questions) settle(undefined);
    }
  }

  private async write(questions: readonly Question[], signal: AbortSignal, isSealing: boolean): Promise<void> {
    let ruling = this.ruleOut(questions);
    if (isSealing) this.takeFromLine();
    for (;;) {
      const record = this.inFlight?.record;
      if (record === undefined && questions.length === 0 && !this.isAnsweringAgain)
        return this.settleInFlight(undefined);
      const stopped = () => (signal.aborted || this.retired !== undefined ? this.stopped.error : undefined);
      const written = await this.committer.write({ record, barriers: ruling.barriers }, signal, stopped);
      if (written.kind === "barred") {
        ruling = this.ruleOut(questions);
        this.sealAgain();
        continue;
      }
      if (written.kind === "over") this.endAs(written.ending.end);
      const failure = written.kind === "over" && !written.isDurable ? written.ending.failure : undefined;
      if (record !== undefined && failure === undefined) this.publish(record);
      this.settleInFlight(failure);
      if (written.kind === "durable") answerAll(questions, ruling, this.parts.window);
      return;
    }
  }

  /**
   * A duplicate is answered as committed only if the log is still as this writer left it: the store may have been put back
   * to an older state meanwhile.
   */
  private get isAnsweringAgain(): boolean {
    return this.inFlight?.settlements.some(({ outcome }) => isDuplicate(outcome)) ?? false;
  }

  private ruleOut(questions: readonly Question[]): Ruling {
    const { window, clock } = this.parts;
    const { barriers, head } = this.committer;
    return ruleOut(questions, barriers, window, clock.wallMs(), Number(head.timestampMs));
  }

  private takeFromLine(): void {
    const sealed = this.seal(this.line.waiting);
    this.noteClock();
    this.inFlight = sealed;
    this.line.advance(sealed.settlements.length);
  }

  /** The entry before is ahead of the clock here by more than clocks differ: one of the two is wrong. */
  private noteClock(): void {
    const aheadMs = Number(this.committer.head.timestampMs) - this.parts.clock.wallMs();
    if (aheadMs < CLOCKS_DIFFER_MS_MAX || this.hasWarnedOfClock) return;
    this.hasWarnedOfClock = true;
    const isMistaken = aheadMs > LOG_AHEAD_MS_MAX;
    this.parts.logger.warn(
      { event: "log_ahead_of_clock", log: this.parts.keys.log, term: String(this.term), aheadMs },
      isMistaken
        ? "the newest entry is more than a day ahead of the clock here: entries get the time of this clock again"
        : "the newest entry is ahead of the clock here: entries get its time until the clock has reached it",
    );
  }

  /** After others have ruled operations out: the same appends without those. */
  private sealAgain(): void {
    if (!this.inFlight?.record?.operations.hasAnyOf(this.committer.barriers)) return;
    const items = this.inFlight.settlements.map(({ item }) => item);
    const sealed = this.seal(items);
    if (sealed.settlements.length !== items.length) {
      throw new Error(`sealed ${sealed.settlements.length} of ${items.length} appends that had fitted before`);
    }
    this.inFlight = sealed;
  }

  private seal(items: readonly AppendItem[]): Sealed {
    const { window, settings, clock } = this.parts;
    return seal(items, {
      head: this.committer.head,
      term: this.term,
      window,
      barriers: this.committer.barriers,
      limits: settings.record,
      codec: settings.codec,
      wallMs: clock.wallMs(),
      nonce: this.nextNonce(),
    });
  }

  private publish(record: SealedRecord): void {
    const { keys, observer, onCommitted } = this.parts;
    record.operations.enter(record);
    observer.headMoved(keys.log, record.last);
    onCommitted(record);
  }

  private settleInFlight(failure: Failure | undefined): void {
    if (this.inFlight === undefined) return;
    const { settlements, record } = this.inFlight;
    const { observer, keys } = this.parts;
    for (const { item } of settlements) this.line.giveBack(item);
    const { kind } = this.ended ?? {};
    const done = settleAll(
      settlements,
      { record, failure, isFenced: kind === "fenced", isLost: kind === "data loss" },
      (reason) => observer.refused(keys.log, reason),
    );
    this.inFlight = undefined;
    if (this.holders > 0) this.work.notify();
    observer.appended(keys.log, done.appends, done.entries, done.bytes);
  }

  private abandonLine(): void {
    const { observer, keys } = this.parts;
    const { error } = this.end ?? this.stopped;
    for (const item of this.line.abandon()) {
      this.line.giveBack(item);
      observer.refused(keys.log, error.reason);
      item.settle({ error });
    }
  }

  private endAs(end: WriterEnd): void {
    const isNew = this.end === undefined;
    this.ended = end;
    if (isNew) this.parts.onEnded(end);
  }

  private get stopped(): WriterEnd {
    return this.retired ?? { kind: "stopped", error: this.draining ?? new ShuttingDownError() };
  }

  /** A random prefix and a counter: unique, without drawing randomness for every record. */
  private nextNonce(): Buffer {
    const nonce = Buffer.alloc(16);
    this.noncePrefix.copy(nonce);
    nonce.writeBigUInt64BE(++this.records, 8);
    return nonce;
  }
}

function pending(highest: bigint): Resolution {
  return { outcome: "unknown", highest, because: "the append is being written at this moment; ask again" };
}
