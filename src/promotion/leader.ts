import type { Log } from "../log/log.js";
import type { Clock } from "../oplog/clock.js";
import type { KvStore } from "../oplog/kv-store.js";
import { HandOverRunningError, NotPrimaryError } from "../oplog/leadership-errors.js";
import { LogDeletedError } from "../oplog/log-errors.js";
import type { Logger } from "../oplog/logger.js";
import { settledOrAborted } from "../oplog/timing.js";
import { deletedIn } from "../stored/deletion.js";
import { awaitChange } from "../stored/leader-watch.js";
import { primaryIn } from "../stored/leadership.js";
import { type LeaderView, NOBODY } from "../stored/primary.js";
import type { Claim } from "../writing/claim.js";
import type { LogWriter } from "../writing/log-writer.js";
import { goneBack } from "../writing/writer-end.js";
import type { CampaignLife } from "./campaign-life.js";
import type { CampaignEvent } from "./campaign-state.js";
import { type HandedOver, handOver } from "./hand-over.js";
import { type HandOverObserver, HandOverReport } from "./hand-over-report.js";
import type { LeaseKeeper } from "./lease-keeper.js";
import type { Candidate } from "./messages.js";
import type { Promises } from "./promises.js";

export interface LeaderParts {
  readonly store: KvStore;
  readonly log: Log;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly observer: HandOverObserver;
  readonly candidate: Candidate;
  readonly storeUnreachableMs: () => number;
  readonly keeper: LeaseKeeper;
  readonly life: CampaignLife;
  readonly promises: Promises;
}

/** One term that a candidate leads, from the opening of its writer to its end. */
export class Leader {
  /** Who leads instead, once that is known. */
  private instead: LeaderView;
  private handingOverTo: string | undefined;
  private readonly whileWriting: AbortSignal;
  private readonly untilOver: AbortSignal;

  /** The state is "leading". */
  constructor(
    private readonly parts: LeaderParts,
    readonly claim: Claim,
    readonly writer: LogWriter,
    private readonly writerEnded: Promise<void>,
  ) {
    const { life, log } = parts;
    this.instead = { ...NOBODY, term: claim.term };
    this.whileWriting = life.during("leading", "finishing");
    this.untilOver = life.during("leading", "finishing", "outlasting");
    const stepDown = () => log.primary.stepDown(claim, refusal(this.instead));
    this.whileWriting.addEventListener("abort", stepDown, { once: true });
  }

  /** Whether more may be promised. */
  get isWriting(): boolean {
    return !this.whileWriting.aborted;
  }

  get isOver(): boolean {
    return this.untilOver.aborted;
  }

  /**
   * Returns when the term has ended; nothing is written under it any more. Throws what ends the log itself: then the
   * state is still that of a leader.
   */
  async run(): Promise<void> {
    const { life, promises } = this.parts;
    const leading = life.during("leading");
    const watching = this.watch();
    // It may be in the middle of a read that takes long; nobody waits for that.
    watching.catch(() => undefined);
    await Promise.race([settledOrAborted(this.writerEnded, leading), watching]);
    if (life.kind === "leading") this.judgeWriter();
    if (life.kind === "finishing") await this.finish();
    await promises.outlast(life);
  }

  async handOver(target: string, timeoutMs: number): Promise<HandedOver> {
    if (this.handingOverTo !== undefined) throw new HandOverRunningError(this.handingOverTo);
    const { store, clock, keeper, log, life, candidate, storeUnreachableMs } = this.parts;
    const { term } = this.claim;
    const report = new HandOverReport({ ...this.parts, log: log.name, candidate: candidate.id, term, target });
    this.handingOverTo = target;
    try {
      const { claim, writer } = this;
      const { leaseId } = keeper;
      const onTaken = (primary: LeaderView) => this.noteTaken(primary);
      const whyGone = () => life.lost?.message;
      const found = { claim, leaseId, writer, report, whyGone, onTaken };
      const givesUp = life.during("leading");
      const parts = { store, keys: log.keys, clock, storeUnreachableMs, ...found };
      const handedOver = await handOver(parts, target, timeoutMs, this.untilOver, givesUp);
      report.taken(handedOver.term, handedOver.finalSequenceId);
      return handedOver;
    } catch (error) {
      report.failed(error);
      throw error;
    } finally {
      this.handingOverTo = undefined;
    }
  }

  private noteTaken(primary: LeaderView, because?: string): void {
    const isPlanned = this.handingOverTo !== undefined && primary.id === this.handingOverTo;
    const { term } = this.claim;
    const isBack = primary.term < term;
    const message = because ?? (isBack ? goneBack(term, primary) : takenBy(primary));
    const instead = isBack ? this.instead : primary;
    this.end({ kind: "taken", reason: isPlanned ? "handed over" : "fenced", message }, instead);
  }

  /** What is found out too late says nothing about a further term of the same candidate. */
  private end(event: CampaignEvent, primary: LeaderView): void {
    if (this.isOver) return;
    this.instead = primary;
    this.parts.life.take(event);
  }

  /** Somebody may take the term without an append of ours to notice it. */
  private async watch(): Promise<void> {
    const { store, log, clock, keeper } = this.parts;
    const { claim } = this;
    const leadership = await awaitChange({ store, keys: log.keys, clock }, claim, keeper.ttlMs / 2, this.untilOver);
    if (leadership === undefined) return;
    const primary = primaryIn(leadership);
    const isTaken = leadership.termRevision !== claim.termRevision || leadership.leader !== undefined;
    const isDeleted = deletedIn(leadership.term) !== undefined;
    if (isTaken) this.noteTaken(primary, isDeleted ? `log "${log.name}" was deleted` : undefined);
    else this.end({ kind: "vacated" }, primary);
  }

  /** What has been accepted is written first, for as long as the lease allows. */
  private async finish(): Promise<void> {
    const { life } = this.parts;
    this.writer.drain(refusal(this.instead));
    await settledOrAborted(this.writerEnded, life.during("finishing"));
    life.take({ kind: "settled" });
  }

  private judgeWriter(): void {
    const { life } = this.parts;
    const { end } = this.writer;
    if (end === undefined || end.kind === "stalled") life.take({ kind: "stalled" });
    else if (end.kind === "data loss") throw end.error;
    else if (end.kind === "stopped") life.take({ kind: "stopped", why: end.error.message });
    else if (end.error instanceof LogDeletedError) this.noteTaken(end.by ?? this.instead, end.error.message);
    else if (end.by === undefined || end.by.term === this.claim.term) life.take({ kind: "vacated" });
    else this.noteTaken(end.by);
  }
}

function takenBy({ id, term }: LeaderView): string {
  return id === "" ? `term ${term} has been taken, and nobody leads it` : `"${id}" leads term ${term}`;
}

function refusal({ id, endpoint, term }: LeaderView): NotPrimaryError {
  return new NotPrimaryError(id, endpoint, term);
}
