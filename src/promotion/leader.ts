import type { Log } from "../log/log.js";
import type { Clock } from "../oplog/clock.js";
import type { KvStore } from "../oplog/kv-store.js";
import { HandOverRunningError, NotPrimaryError } from "../oplog/leadership-errors.js";
import type { Logger } from "../oplog/logger.js";
import { aborted, linkSignals, sleep } from "../oplog/timing.js";
import { awaitChange } from "../stored/leader-watch.js";
import { primaryIn } from "../stored/leadership.js";
import { type LeaderView, NOBODY } from "../stored/primary.js";
import type { Claim } from "../writing/claim.js";
import type { LogWriter } from "../writing/log-writer.js";
import { type HandedOver, handOver } from "./hand-over.js";
import { type HandOverObserver, HandOverReport } from "./hand-over-report.js";
import type { LeaseKeeper, LeaseLoss } from "./lease-keeper.js";
import type { Candidate, Lost } from "./messages.js";

export interface LeaderParts {
  readonly store: KvStore;
  readonly log: Log;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly observer: HandOverObserver;
  readonly candidate: Candidate;
  readonly storeUnreachableMs: () => number;
  readonly keeper: LeaseKeeper;
  /** Aborts, with why, when the leadership is to be given up. */
  readonly resigning: AbortSignal;
  /** Aborts when the candidate is no longer heard of. */
  readonly silent: AbortSignal;
  /** For how long from now the candidate relies on it that nobody else leads. */
  readonly promisedLeftMs: () => number;
}

/** How one term has ended. "stalled": its writer has, and the leadership stands. */
export type TermEnd = { readonly kind: "lost"; readonly lost: Lost } | { readonly kind: "stalled" };

/** One term that a candidate leads, from the opening of its writer to its end. */
export class Leader {
  private verdict: Lost | undefined;
  private handingOverTo: string | undefined;
  /** The term is over, for whatever reason. */
  private readonly over = new AbortController();

  constructor(
    private readonly parts: LeaderParts,
    readonly claim: Claim,
    readonly writer: LogWriter,
    private readonly writerEnded: Promise<void>,
  ) {}

  /** Nothing may be promised any more. */
  get isOver(): boolean {
    return this.over.signal.aborted;
  }

  /** Returns when the term has ended; nothing is written under it any more. Throws what ends the log itself. */
  async run(): Promise<TermEnd> {
    const { keeper, resigning, silent } = this.parts;
    const expire = () => this.end(expiry(keeper.lost.reason), this.nobody);
    keeper.lost.addEventListener("abort", expire);
    if (keeper.lost.aborted) expire();
    const { signal, unlink } = linkSignals(resigning, silent, this.over.signal);
    const watching = this.watch();
    // It may be in the middle of a read that takes long; nobody waits for that.
    watching.catch(() => undefined);
    try {
      await Promise.race([this.writerEnded, watching, aborted(signal)]);
      if (this.verdict === undefined && resigning.aborted) await this.resign(String(resigning.reason));
      else if (this.verdict === undefined && silent.aborted) await this.abandon();
      if (this.verdict === undefined) this.judgeWriter();
      return this.verdict === undefined ? { kind: "stalled" } : { kind: "lost", lost: this.verdict };
    } finally {
      this.over.abort();
      unlink();
      keeper.lost.removeEventListener("abort", expire);
    }
  }

  async handOver(target: string, timeoutMs: number): Promise<HandedOver> {
    if (this.handingOverTo !== undefined) throw new HandOverRunningError(this.handingOverTo);
    const { store, clock, keeper, log, resigning, silent, candidate, storeUnreachableMs } = this.parts;
    const { term } = this.claim;
    const report = new HandOverReport({ ...this.parts, log: log.name, candidate: candidate.id, term, target });
    const isOver = linkSignals(keeper.lost, this.over.signal);
    const givesUp = linkSignals(isOver.signal, resigning, silent);
    this.handingOverTo = target;
    try {
      const { claim, writer } = this;
      const { leaseId } = keeper;
      const onTaken = (primary: LeaderView) => this.noteTaken(primary);
      const whyGone = () => this.whyGone();
      const found = { claim, leaseId, writer, report, whyGone, onTaken };
      const parts = { store, keys: log.keys, clock, storeUnreachableMs, ...found };
      const handedOver = await handOver(parts, target, timeoutMs, isOver.signal, givesUp.signal);
      report.taken(handedOver.term, handedOver.finalSequenceId);
      return handedOver;
    } catch (error) {
      report.failed(error);
      throw error;
    } finally {
      isOver.unlink();
      givesUp.unlink();
      this.handingOverTo = undefined;
    }
  }

  /** Undefined: it goes on, in a further term perhaps. */
  private whyGone(): string | undefined {
    const { resigning, silent, keeper } = this.parts;
    if (this.verdict !== undefined) return this.verdict.message;
    if (resigning.aborted) return String(resigning.reason);
    if (silent.aborted) return String(silent.reason);
    return keeper.lost.aborted ? expiry(keeper.lost.reason).message : undefined;
  }

  private get nobody(): LeaderView {
    return { ...NOBODY, term: this.claim.term };
  }

  /** The first cause stands. */
  private end(lost: Lost, primary: LeaderView): void {
    if (this.verdict !== undefined) return;
    this.verdict = lost;
    this.parts.log.primary.stepDown(this.claim, refusal(primary));
    this.over.abort();
  }

  private noteTaken(primary: LeaderView): void {
    const isPlanned = this.handingOverTo !== undefined && primary.id === this.handingOverTo;
    const who = `"${primary.id}" leads term ${primary.term}`;
    this.end({ reason: isPlanned ? "handed over" : "fenced", message: who }, primary);
  }

  /** Somebody may take the term without an append of ours to notice it. */
  private async watch(): Promise<void> {
    const { store, log, clock, keeper } = this.parts;
    const { claim } = this;
    const leadership = await awaitChange({ store, keys: log.keys, clock }, claim, keeper.ttlMs / 2, this.over.signal);
    if (leadership === undefined) return;
    const primary = primaryIn(leadership);
    const isTaken = leadership.termRevision !== claim.termRevision || leadership.leader !== undefined;
    if (isTaken) this.noteTaken(primary);
    else this.end(expiry("expired"), primary);
  }

  /** What has been accepted is written first, for as long as the lease allows. */
  private async resign(why: string): Promise<void> {
    const { keeper } = this.parts;
    this.writer.drain(refusal(this.nobody));
    await Promise.race([this.writerEnded, aborted(keeper.lost)]);
    this.end({ reason: "resigned", message: why }, this.nobody);
  }

  /** The candidate may live and rely on what it was told last: nobody else leads before that is over. */
  private async abandon(): Promise<void> {
    const { keeper, promisedLeftMs, log } = this.parts;
    log.primary.stepDown(this.claim, refusal(this.nobody));
    const { signal, unlink } = linkSignals(keeper.lost, this.parts.resigning);
    await sleep(this.parts.clock, promisedLeftMs(), signal);
    unlink();
    this.end({ reason: "silent", message: String(this.parts.silent.reason) }, this.nobody);
  }

  private judgeWriter(): void {
    const { end } = this.writer;
    if (end === undefined || end.kind === "stalled") return;
    if (end.kind === "data loss") throw end.error;
    if (end.kind === "stopped") this.end({ reason: "resigned", message: end.error.message }, this.nobody);
    else if (end.by === undefined || end.by.term === this.claim.term) this.end(expiry("expired"), this.nobody);
    else this.noteTaken(end.by);
  }
}

function expiry(loss: LeaseLoss): Lost {
  const message = loss === "expired" ? "the lease has run out" : "the store could not be reached to renew the lease";
  return { reason: loss, message };
}

function refusal({ id, endpoint, term }: LeaderView): NotPrimaryError {
  return new NotPrimaryError(id, endpoint, term);
}
