import { OplogError, ShuttingDownError } from "../oplog/errors.js";
import { StoreError } from "../oplog/kv-store.js";
import { NotPrimaryError, NotReadyError } from "../oplog/leadership-errors.js";
import { LogDeletedError } from "../oplog/log-errors.js";
import type { OperationWindow } from "../oplog/operation-window.js";
import type { CommittedRun } from "../oplog/record.js";
import { StoreAdoptedError } from "../oplog/store-errors.js";
import { hex, isSameLog, readDeletion } from "../stored/deletion.js";
import { readPrimary } from "../stored/leadership.js";
import { type LeaderView, NOBODY } from "../stored/primary.js";
import { type CandidateIdentity, type Claim, confirmClaim, type Ground, type Identity, type Turn } from "./claim.js";
import { Claimant, type HistorySightings } from "./claimant.js";
import { LogWriter, type WriterParts } from "./log-writer.js";
import {
  courseOf,
  isForgettable,
  next,
  type PrimaryEvent,
  type PrimaryRole,
  type PrimaryState,
  roleOf,
  UNCLAIMED,
} from "./primary-state.js";

/** Told of what comes to be known of the log, and of who leads it. */
export interface PrimarySightings extends HistorySightings {
  noteClaim(claim: Claim): void;
  /** `isVacant`: if it is known whether the leader is gone. */
  noteLeader(primary: LeaderView, isVacant?: boolean): void;
}

/** What outlives a primary that nobody uses, for the next one of the same log. */
export interface PrimaryRest {
  readonly identity: Identity;
  readonly state: PrimaryState<LogWriter>;
  /** A term that is ours, with nothing unsettled. */
  readonly held: Claim | undefined;
}

/** What is left of it when the store has been adopted as it is. */
export function forgotten({ identity, state }: PrimaryRest): PrimaryRest {
  return { identity, state: next(state, { kind: "adopted" }), held: undefined };
}

export interface LogPrimaryParts extends Omit<WriterParts, "claim" | "window" | "onCommitted" | "onEnded"> {
  readonly identity: Identity;
  /** Of the one before it, if there was one. */
  readonly rest?: PrimaryRest | undefined;
  /** Whether an append claims a log that nobody was elected for. */
  readonly claimsByAppend: boolean;
  readonly sightings: PrimarySightings;
  /** How long the store has not answered by now. */
  readonly storeUnreachableMs: () => number;
  /** Aborts what cannot be written any more; a drain comes first. */
  readonly signal: AbortSignal;
  /** A term has been claimed, so the log exists; or the writer of it has ended. */
  readonly onLeading: (isLeading: boolean) => void;
  readonly onCommitted: (run: CommittedRun, logId: Uint8Array) => void;
  /** A broken invariant: the process must end. */
  readonly onBroken: (error: unknown) => void;
}

/**
 * Whether this sidecar may write the log, on one of three grounds. By append: it claims the next term when the first append
 * arrives, and loses the log for good to whoever claims later. By token: it claims when a master with an election of its
 * own tells it to. By campaign: a candidate here that has won claims, prepares itself, and leads until it steps down.
 *
 * primary-state.ts decides; this class acts on the decisions.
 */
export class LogPrimary {
  private state: PrimaryState<LogWriter> = UNCLAIMED;
  private identity: Identity;
  /** A claim of a primary before this one, to go on with. */
  private held: Claim | undefined;
  /** The newest claim by append, and the newest other one. */
  private claimRun: Promise<LogWriter> | undefined;
  private outrightRun: Promise<unknown> | undefined;
  private readonly claimant: Claimant;
  /** Who leads is being asked. */
  private refusal: Promise<void> | undefined;
  /** Of writers that have not ended, that of an earlier term among them. */
  private readonly running = new Set<Promise<void>>();

  constructor(private readonly parts: LogPrimaryParts) {
    const { rest } = parts;
    this.claimant = new Claimant(parts);
    this.identity = rest?.identity ?? parts.identity;
    this.state = rest?.state ?? UNCLAIMED;
    this.held = rest?.held;
  }

  get role(): PrimaryRole {
    return roleOf(this.state);
  }

  /** The term that it writes under, or will once the candidate is ready. */
  get term(): bigint | undefined {
    const { standing } = this.state;
    return standing.kind === "preparing" ? standing.term : this.writer?.term;
  }

  /** Nothing would be forgotten if this were made anew. */
  get isIdle(): boolean {
    return isForgettable(this.state) && this.held === undefined;
  }

  /** Nothing is under way, and what has to be known of it later fits into `rest`. */
  get canRest(): boolean {
    const { standing, claiming } = this.state;
    if (claiming !== "no" || standing.kind === "preparing") return false;
    if (standing.kind === "leading")
      return this.running.size === 1 && standing.writer.isIdle && !standing.writer.isElected;
    return this.running.size === 0;
  }

  /** To be called when it can rest: nothing can be written through this one any more. Undefined: nothing is to be known. */
  rest(): PrimaryRest | undefined {
    const { identity, held, writer, isIdle } = this;
    const state = writer === undefined ? this.state : { ...this.state, standing: UNCLAIMED.standing };
    this.take({ kind: "draining" });
    writer?.drain();
    return isIdle ? undefined : { identity, state, held: writer?.claim ?? held };
  }

  /** The store has been adopted as it is: the log may not be as it was left. Appends that wait are refused. */
  forget(): void {
    this.writer?.forsake(new StoreAdoptedError());
    this.held = undefined;
    this.claimant.coolDown();
    this.take({ kind: "adopted" });
  }

  /** Appends may be waiting for the term. */
  get isClaiming(): boolean {
    return this.state.claiming !== "no";
  }

  /** A candidate here has won the term, and does not lead yet: what appends are refused with. */
  get preparing(): NotReadyError | undefined {
    const { standing } = this.state;
    return standing.kind === "preparing" ? new NotReadyError(standing.candidate, standing.term) : undefined;
  }

  /** The writer, if this sidecar leads. */
  get writer(): LogWriter | undefined {
    const { standing } = this.state;
    return standing.kind === "leading" ? standing.writer : undefined;
  }

  /** The writer of a term that is ours, claimed if need be. Rejects with OplogError. */
  async lead(): Promise<LogWriter> {
    for (;;) {
      const course = courseOf(this.state, this.parts.claimsByAppend);
      switch (course.kind) {
        case "write":
          return course.writer;
        case "claim":
          return this.claim();
        case "join the claim":
          return this.claimRun!;
        case "await the claim":
          await this.claimEnded();
          break;
        case "refuse":
          throw course.error;
        case "refuse by who leads":
          await this.refuse(course.error);
      }
    }
  }

  /**
   * Leads under the next term on the ground of a token. A writer of this sidecar with an earlier term is fenced like any
   * other. Rejects with OplogError; then whoever led before still leads.
   */
  async claimByToken(token: bigint, claimant: { readonly id: string; readonly endpoint: string }): Promise<Claim> {
    return this.force(async () => {
      const before = this.writer;
      const identity = this.identityOf(claimant);
      const { claim } = await this.openWriter(identity, { kind: "token", token });
      this.supersede(before, identity, claim.term);
      return claim;
    });
  }

  /**
   * Takes the term for a candidate whose turn it is. A writer of this sidecar with an earlier term is fenced like any other.
   * Appends are refused until `open`. Undefined: it was not its turn any more. Rejects with OplogError and StoreError; after a
   * StoreError the claim may have been made.
   */
  claimElected(
    candidate: { readonly id: string; readonly endpoint: string },
    candidacy: CandidateIdentity,
    turn: Turn,
  ): Promise<Claim | undefined> {
    const identity = this.identityOf(candidate);
    return this.force(async () => {
      const claim = await this.claimant.claimElected(identity, candidacy, turn);
      if (claim === undefined) return undefined;
      this.supersede(this.writer, identity, claim.term);
      this.noteClaim(identity, claim);
      this.take({ kind: "won", term: claim.term, candidate: candidate.id });
      return claim;
    });
  }

  /** Reads beforehand most of what `open` would have to read: to be called shortly before. Rejects with StoreError. */
  warmUp(): Promise<void> {
    return this.claimant.warmUp();
  }

  /** Nothing is going to be opened: forgets what `warmUp` has read. */
  coolDown(): void {
    this.claimant.coolDown();
  }

  /**
   * The same claim, with the head as it is now; `open` takes either. Undefined: it does not hold any more. Rejects with
   * OplogError and StoreError.
   */
  async confirm(claim: Claim): Promise<Claim | undefined> {
    const { store, keys } = this.parts;
    const confirmed = await confirmClaim(store, keys, claim);
    return this.isPreparingFor(claim) ? confirmed : undefined;
  }

  /** Leads under a term that `claimElected` has taken. `ended` resolves when its writer has. */
  async open(claim: Claim): Promise<{ readonly writer: LogWriter; readonly ended: Promise<void> }> {
    const window = await this.claimant.warmWindow(claim);
    if (this.state.isDraining) throw new ShuttingDownError();
    if (!this.isPreparingFor(claim)) {
      throw new NotPrimaryError(this.identity.id, this.identity.endpoint, this.state.heldTerm);
    }
    const writer = this.newWriter(claim, window);
    return { writer, ended: this.start(writer) };
  }

  /** Appends of this term are refused from now on, those that wait included. Of another term: nothing. */
  stepDown(claim: Claim, refusal: OplogError): void {
    if (refusal instanceof NotPrimaryError) this.noteTaken(refusal);
    const { writer } = this;
    this.take({ kind: "stepped down", term: claim.term, refusal });
    if (writer?.term === claim.term) writer.retire(refusal);
  }

  /** That log is gone: nothing that was held of it counts any more. A writer of it that has not noticed yet ends. */
  logDeleted(logId: Uint8Array): void {
    const { log } = this.parts.keys;
    const { writer } = this;
    if (writer !== undefined && isSameLog(writer.claim.head.logId, logId))
      writer.retire(new LogDeletedError(log, hex(logId), "was deleted"), { ...NOBODY, term: writer.term });
    this.held = undefined;
    this.take({ kind: "log deleted" });
  }

  /** No further appends; resolves once all that were accepted have been settled. */
  async drain(): Promise<void> {
    this.take({ kind: "draining" });
    while (this.isClaiming) await this.claimEnded();
    this.writer?.drain();
    await Promise.all(this.running);
  }

  private take(event: PrimaryEvent<LogWriter>): void {
    this.state = next(this.state, event);
  }

  private noteClaim(identity: Identity, claim: Claim): void {
    const { term } = claim;
    this.take({ kind: "claimed", term });
    this.held = undefined;
    this.identity = identity;
    this.parts.sightings.noteClaim(claim);
    this.parts.sightings.noteLeader({ id: identity.id, endpoint: identity.endpoint, term }, false);
  }

  private noteTaken({ primary, endpoint, term }: NotPrimaryError): void {
    this.parts.sightings.noteLeader({ id: primary, endpoint, term });
  }

  private noteLeading(isLeading: boolean): void {
    this.parts.observer.leading(this.parts.keys.log, isLeading);
    this.parts.onLeading(isLeading);
  }

  /** Resolves when the claim that is being made has been decided. */
  private async claimEnded(): Promise<void> {
    const run = this.state.claiming === "outright" ? this.outrightRun : this.claimRun;
    await run?.catch(() => undefined);
  }

  private isPreparingFor({ term }: Claim): boolean {
    const { standing } = this.state;
    return standing.kind === "preparing" && standing.term === term;
  }

  /** A writer of this sidecar finds out at once what the store would tell it. */
  private supersede(writer: LogWriter | undefined, { id, endpoint }: Identity, term: bigint): void {
    writer?.retire(new NotPrimaryError(id, endpoint, term), { id, endpoint, term });
  }

  private newWriter(claim: Claim, window: OperationWindow): LogWriter {
    const writer: LogWriter = new LogWriter({
      ...this.parts,
      claim,
      window,
      onCommitted: (run) => this.parts.onCommitted(run, claim.head.logId),
      onEnded: (end) => this.take({ kind: "writer ended", writer, end }),
    });
    return writer;
  }

  /** One claim at a time. */
  private async force<T>(claim: () => Promise<T>): Promise<T> {
    while (this.isClaiming) await this.claimEnded();
    if (this.state.isDraining) throw new ShuttingDownError();
    this.take({ kind: "claim begun", by: "outright" });
    const run = claim();
    this.outrightRun = run;
    try {
      return await run;
    } finally {
      this.take({ kind: "claim over", refusal: undefined });
    }
  }

  private identityOf({ id, endpoint }: { readonly id: string; readonly endpoint: string }): Identity {
    const own = this.parts.identity;
    return { id, endpoint: endpoint === "" ? own.endpoint : endpoint, instance: own.instance };
  }

  /**
   * Rejects with who leads now: that may have changed since this sidecar lost the log. Resolves when the log that was lost
   * has been deleted: then it may be claimed, or not, like one that has never been.
   */
  private refuse(error: OplogError): Promise<void> {
    const { store, keys } = this.parts;
    this.refusal ??= Promise.all([readPrimary(store, keys), readDeletion(store, keys)])
      .then(
        ([primary, deletion]) => {
          if (deletion?.isOver === false) {
            throw new LogDeletedError(keys.log, hex(deletion.logId), "is being deleted");
          }
          if (deletion !== undefined && this.state.standing.kind === "fenced") return this.logDeleted(deletion.logId);
          this.parts.sightings.noteLeader(primary);
          // An answer from the past: a later term is known.
          if (error instanceof NotPrimaryError && error.term > primary.term) throw error;
          throw new NotPrimaryError(primary.id, primary.endpoint, primary.term);
        },
        (failure: unknown) => {
          throw failure instanceof StoreError || failure instanceof OplogError ? error : failure;
        },
      )
      .finally(() => {
        this.refusal = undefined;
      });
    return this.refusal;
  }

  private claim(): Promise<LogWriter> {
    this.take({ kind: "claim begun", by: "append" });
    const ground = { kind: "append", heldTerm: this.state.heldTerm, held: this.held } as const;
    this.claimRun = this.openWriter(this.identity, ground).catch((error: unknown) => {
      const refusal = error instanceof NotPrimaryError ? error : undefined;
      if (refusal !== undefined) this.noteTaken(refusal);
      this.take({ kind: "claim over", refusal });
      throw error;
    });
    return this.claimRun;
  }

  /** Claims the next term and starts its writer, which then leads; changes nothing if it fails. */
  private async openWriter(identity: Identity, ground: Ground): Promise<LogWriter> {
    const { keys, logger, clock } = this.parts;
    const startedMs = clock.monotonicMs();
    try {
      const claim = await this.claimant.claim(identity, ground);
      this.noteClaim(identity, claim);
      const window = await this.claimant.window(claim);
      const writer = this.newWriter(claim, window);
      this.start(writer);
      logger.info(
        { event: "term_claimed", log: keys.log, term: String(claim.term), head: String(claim.head.lastSequenceId) },
        "leading the log",
      );
      return writer;
    } catch (error) {
      throw this.claimant.refusalOf(error, startedMs);
    }
  }

  private start(writer: LogWriter): Promise<void> {
    const done = writer
      .run(this.parts.signal)
      .catch(this.parts.onBroken)
      .finally(() => {
        this.running.delete(done);
        if (writer.end?.by !== undefined) this.parts.sightings.noteLeader(writer.end.by);
        // A writer of an earlier term may end after the next one has begun.
        if (this.writer === undefined) this.noteLeading(false);
      });
    this.running.add(done);
    this.take({ kind: "opened", writer });
    if (this.state.isDraining) writer.drain();
    this.noteLeading(true);
    return done;
  }
}
