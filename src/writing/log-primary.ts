import { NotPrimaryError, NotReadyError, OplogError, ShuttingDownError } from "../oplog/errors.js";
import { StoreError } from "../oplog/kv-store.js";
import { decodeHead } from "../stored/decode.js";
import { readPrimary } from "../stored/leadership.js";
import type { Primary } from "../stored/primary.js";
import { toOplogError } from "../stored/store-failures.js";
import {
  type Candidacy,
  type Claim,
  claimElectedTerm,
  claimTerm,
  confirmClaim,
  type Ground,
  type Identity,
  type Turn,
} from "./claim.js";
import { LogWriter, type WriterParts } from "./log-writer.js";
import { WindowReader } from "./window-restore.js";

/** Told of what comes to be known of the log, and of who leads it. */
export interface PrimarySightings {
  noteLog(logId: Uint8Array, head: bigint): void;
  /** `isVacant`: if it is known whether the leader is gone. */
  noteLeader(primary: Primary, isVacant?: boolean): void;
}

export interface LogPrimaryParts extends Omit<WriterParts, "claim" | "window"> {
  readonly identity: Identity;
  /** Whether an append claims a log that nobody was elected for. */
  readonly claimsByAppend: boolean;
  readonly sightings: PrimarySightings;
  /** Aborts what cannot be written any more; a drain comes first. */
  readonly signal: AbortSignal;
  /** A term has been claimed, so the log exists; or the writer of it has ended. */
  readonly onLeading: (isLeading: boolean) => void;
  /** A broken invariant: the process must end. */
  readonly onBroken: (error: unknown) => void;
}

const NOBODY = new NotPrimaryError("", "", 0n);

type State =
  | { readonly kind: "idle" }
  | { readonly kind: "claiming"; readonly writer: Promise<LogWriter> }
  | { readonly kind: "preparing"; readonly claim: Claim; readonly candidate: string }
  | { readonly kind: "leading"; readonly writer: LogWriter }
  /** Refuses appends: the term is somebody else's. Whether it has ever been ours, `heldTerm` tells. */
  | { readonly kind: "fenced"; readonly error: OplogError };

/**
 * Whether this sidecar may write the log, on one of three grounds. By itself it claims the next term when the first
 * append arrives, and loses it for good to whoever claims after. It claims by the token of an election elsewhere when it
 * is told to. And a candidate here that has won claims, prepares itself, and leads until it steps down.
 *
 *   idle ──lead──▶ claiming ──claimed──▶ leading ──higher term──▶ fenced
 *                     └──store away──▶ idle ◀──stalled──┘
 *
 *   any ──claimElected──▶ preparing ──open──▶ leading ──stepDown──▶ fenced
 *
 * After a stall, or when ResolveAppend elsewhere has ruled out what was in flight, the term is claimed again, unless
 * someone else has claimed one meanwhile; an elected one by its candidate.
 */
export class LogPrimary {
  private state: State = { kind: "idle" };
  /** The highest term this process has held; 0n = none yet, then any other's term may be followed by ours. */
  private heldTerm = 0n;
  private isDraining = false;
  /** A claim that does not wait for an append. */
  private forcedClaim: Promise<unknown> | undefined;
  /** What has been read for a term that may come. */
  private reader: WindowReader | undefined;
  /** Who leads is being asked. */
  private refusal: Promise<never> | undefined;
  private identity: Identity;
  /** Of writers that have not ended, that of an earlier term among them. */
  private readonly running = new Set<Promise<void>>();

  constructor(private readonly parts: LogPrimaryParts) {
    this.identity = parts.identity;
  }

  get role(): "primary" | "preparing" | "standby" | "fenced" {
    const { state } = this;
    switch (state.kind) {
      case "preparing":
        return "preparing";
      case "fenced":
        return this.heldTerm === 0n ? "standby" : "fenced";
      case "leading":
        if (state.writer.end === undefined) return "primary";
        return state.writer.end.kind === "fenced" ? "fenced" : "standby";
      default:
        return "standby";
    }
  }

  /** The term that it writes under, or will once the candidate is ready. */
  get term(): bigint | undefined {
    return this.state.kind === "preparing" ? this.state.claim.term : this.writer?.term;
  }

  /** Nothing would be forgotten if this were made anew. */
  get isIdle(): boolean {
    return !this.isClaiming && (this.state.kind === "idle" || this.state.kind === "fenced") && this.heldTerm === 0n;
  }

  /** Appends may be waiting for the term. */
  get isClaiming(): boolean {
    return this.state.kind === "claiming" || this.forcedClaim !== undefined;
  }

  /** A candidate here has won the term, and does not lead yet: what appends are refused with. */
  get preparing(): NotReadyError | undefined {
    const { state } = this;
    return state.kind === "preparing" ? new NotReadyError(state.candidate, state.claim.term) : undefined;
  }

  /** The writer, if this sidecar leads. */
  get writer(): LogWriter | undefined {
    return this.state.kind === "leading" && this.state.writer.end === undefined ? this.state.writer : undefined;
  }

  /** The writer of a term that is ours, claimed if need be. Rejects with OplogError. */
  lead(): Promise<LogWriter> {
    if (this.isDraining) return Promise.reject(new ShuttingDownError());
    if (this.forcedClaim !== undefined && this.writer === undefined) return this.claimEnded().then(() => this.lead());
    const { state } = this;
    switch (state.kind) {
      case "idle":
        return this.parts.claimsByAppend || this.heldTerm !== 0n ? this.claim() : this.refuse(NOBODY);
      case "claiming":
        return state.writer;
      case "preparing":
        return Promise.reject(this.preparing);
      case "fenced":
        return this.refuse(state.error);
      case "leading": {
        const { end, claim } = state.writer;
        if (end === undefined) return Promise.resolve(state.writer);
        if (end.kind === "stalled" && claim.leaderRevision === undefined) return this.claim();
        return end.kind === "fenced" ? this.refuse(end.error) : Promise.reject(end.error);
      }
    }
  }

  /**
   * Leads under the next term on the ground of a token; an own writer of an earlier term is fenced like everyone's.
   * Rejects with OplogError; what led before then still does.
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
   * Takes the term for a candidate whose turn it is; an own writer of an earlier term is fenced like everyone's. Appends
   * are refused until `open`. Undefined: it was not its turn any more. Rejects with OplogError and StoreError; after a
   * StoreError the claim may have been made.
   */
  claimElected(
    candidate: { readonly id: string; readonly endpoint: string },
    candidacy: Candidacy,
    turn: Turn,
  ): Promise<Claim | undefined> {
    const { store, keys } = this.parts;
    const identity = this.identityOf(candidate);
    return this.force(async () => {
      const claim = await claimElectedTerm(store, keys, identity, candidacy, turn);
      if (claim === undefined) return undefined;
      this.supersede(this.writer, identity, claim.term);
      this.noteClaim(identity, claim);
      this.state = { kind: "preparing", claim, candidate: candidate.id };
      return claim;
    });
  }

  /** Reads beforehand most of what `open` would have to read: to be called shortly before. Rejects with StoreError. */
  async warmUp(): Promise<void> {
    const { pair } = await this.parts.store.get(this.parts.keys.head);
    if (pair === undefined) return;
    this.reader ??= this.newReader();
    await this.reader.read(decodeHead(pair));
  }

  /** Nothing is going to be opened: forgets what `warmUp` has read. */
  coolDown(): void {
    this.reader = undefined;
  }

  /**
   * The same claim, with the head as it is now; `open` takes either. Undefined: it does not hold any more. Rejects with
   * OplogError and StoreError.
   */
  async confirm(claim: Claim): Promise<Claim | undefined> {
    const { store, keys } = this.parts;
    const confirmed = await confirmClaim(store, keys, claim);
    if (confirmed === undefined || !this.isPreparingFor(claim)) return undefined;
    this.state = { kind: "preparing", claim: confirmed, candidate: this.identity.id };
    return confirmed;
  }

  /** Leads under a term that `claimElected` has taken. `ended` resolves when its writer has. */
  async open(claim: Claim): Promise<{ readonly writer: LogWriter; readonly ended: Promise<void> }> {
    const { reader } = this;
    this.reader = undefined;
    const window = await (reader ?? this.newReader()).read(claim.head);
    if (this.isDraining) throw new ShuttingDownError();
    if (!this.isPreparingFor(claim)) {
      throw new NotPrimaryError(this.identity.id, this.identity.endpoint, this.heldTerm);
    }
    const writer = new LogWriter({ ...this.parts, claim, window });
    return { writer, ended: this.start(writer) };
  }

  /** Appends of this term are refused from now on, those that wait included. Of another term: nothing. */
  stepDown(claim: Claim, refusal: OplogError): void {
    if (refusal instanceof NotPrimaryError) this.noteTaken(refusal);
    if (this.isPreparingFor(claim)) this.state = { kind: "fenced", error: refusal };
    if (this.state.kind !== "leading" || this.state.writer.term !== claim.term) return;
    this.state.writer.retire(refusal);
    this.state = { kind: "fenced", error: refusal };
  }

  /** No further appends; resolves once all that were accepted have been settled. */
  async drain(): Promise<void> {
    this.isDraining = true;
    while (this.isClaiming) await this.claimEnded();
    if (this.state.kind === "leading") this.state.writer.drain();
    await Promise.all(this.running);
  }

  private noteClaim(identity: Identity, { term, head }: Claim): void {
    this.heldTerm = term;
    this.identity = identity;
    this.parts.sightings.noteLog(head.logId, head.lastSequenceId);
    this.parts.sightings.noteLeader({ owner: identity.id, endpoint: identity.endpoint, term }, false);
  }

  private noteTaken({ primary, endpoint, term }: NotPrimaryError): void {
    this.parts.sightings.noteLeader({ owner: primary, endpoint, term });
  }

  private noteLeading(isLeading: boolean): void {
    this.parts.observer.leading(this.parts.keys.log, isLeading);
    this.parts.onLeading(isLeading);
  }

  /** Resolves when the claim that is being made has been decided. */
  private async claimEnded(): Promise<void> {
    const claim = this.state.kind === "claiming" ? this.state.writer : this.forcedClaim;
    await claim?.catch(() => undefined);
  }

  private isPreparingFor({ term }: Claim): boolean {
    return this.state.kind === "preparing" && this.state.claim.term === term;
  }

  /** A writer of this sidecar finds out at once what the store would tell it. */
  private supersede(writer: LogWriter | undefined, { id, endpoint }: Identity, term: bigint): void {
    writer?.retire(new NotPrimaryError(id, endpoint, term), { owner: id, endpoint, term });
  }

  private newReader(): WindowReader {
    return new WindowReader(this.parts.store, this.parts.keys);
  }

  /** One claim at a time. */
  private async force<T>(claim: () => Promise<T>): Promise<T> {
    while (this.isClaiming) await this.claimEnded();
    if (this.isDraining) throw new ShuttingDownError();
    const claiming = claim();
    this.forcedClaim = claiming;
    try {
      return await claiming;
    } finally {
      this.forcedClaim = undefined;
    }
  }

  private identityOf({ id, endpoint }: { readonly id: string; readonly endpoint: string }): Identity {
    const own = this.parts.identity;
    return { id, endpoint: endpoint === "" ? own.endpoint : endpoint, instance: own.instance };
  }

  /** Rejects with who leads now: that may have changed since this sidecar lost the log. */
  private refuse(error: OplogError): Promise<never> {
    const { store, keys } = this.parts;
    this.refusal ??= readPrimary(store, keys)
      .then(
        (primary) => {
          this.parts.sightings.noteLeader(primary);
          throw new NotPrimaryError(primary.owner, primary.endpoint, primary.term);
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
    const writer = this.openWriter(this.identity, { kind: "append", heldTerm: this.heldTerm }).catch(
      (error: unknown) => {
        const isRefused = error instanceof NotPrimaryError;
        if (isRefused) this.noteTaken(error);
        this.state = isRefused ? { kind: "fenced", error } : { kind: "idle" };
        throw error;
      },
    );
    this.state = { kind: "claiming", writer };
    return writer;
  }

  /** Claims the next term and starts its writer, which then leads; changes nothing if it fails. */
  private async openWriter(identity: Identity, ground: Ground): Promise<LogWriter> {
    const { store, keys, logger } = this.parts;
    const startedMs = this.parts.clock.monotonicMs();
    try {
      const claim = await claimTerm(store, keys, identity, ground);
      this.noteClaim(identity, claim);
      const writer = new LogWriter({ ...this.parts, claim, window: await this.newReader().read(claim.head) });
      this.start(writer);
      logger.info(
        { event: "term_claimed", log: keys.log, term: String(claim.term), head: String(claim.head.lastSequenceId) },
        "leading the log",
      );
      return writer;
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      logger.warn({ event: "claim_failed", log: keys.log, err: error }, "could not claim the log; to be tried again");
      throw toOplogError(error, Math.round(this.parts.clock.monotonicMs() - startedMs), "nothing was written");
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
        if (this.state.kind !== "leading" || this.state.writer === writer) this.noteLeading(false);
      });
    this.running.add(done);
    this.state = { kind: "leading", writer };
    if (this.isDraining) writer.drain();
    this.noteLeading(true);
    return done;
  }
}
