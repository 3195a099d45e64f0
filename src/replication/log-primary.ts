import { type Claim, claimTerm, type Ground, type Identity } from "../leadership/claim.js";
import { NotPrimaryError, type OplogError, ShuttingDownError } from "../oplog/errors.js";
import { StoreError } from "../oplog/kv-store.js";
import { LogWriter, type WriterParts } from "./log-writer.js";
import { toOplogError } from "./store-failures.js";
import { restoreWindow } from "./window-restore.js";

export interface LogPrimaryParts extends Omit<WriterParts, "claim" | "window"> {
  readonly identity: Identity;
  /** Aborts what cannot be written any more; a drain comes first. */
  readonly signal: AbortSignal;
  /** A term has been claimed, so the log exists; or the writer of it has ended. */
  readonly onLeading: (isLeading: boolean) => void;
  /** A broken invariant: the process must end. */
  readonly onBroken: (error: unknown) => void;
}

type State =
  | { readonly kind: "idle" }
  | { readonly kind: "claiming"; readonly writer: Promise<LogWriter> }
  | { readonly kind: "leading"; readonly writer: LogWriter }
  | { readonly kind: "fenced"; readonly error: OplogError };

/**
 * Leadership without an election here. By itself it claims the next term when the first append arrives, and loses it for
 * good to whoever claims after; or it claims when it is told to, by the token of an election elsewhere.
 *
 *   idle ──lead──▶ claiming ──claimed──▶ leading ──higher term──▶ fenced
 *                     └──store away──▶ idle ◀──stalled──┘
 *
 * After a stall, or when ResolveAppend elsewhere has ruled out what was in flight, the term is claimed again, unless
 * someone else has claimed one meanwhile.
 */
export class LogPrimary {
  private state: State = { kind: "idle" };
  /** The highest term this process has held; 0n = none yet, then any other's term may be followed by ours. */
  private heldTerm = 0n;
  private isDraining = false;
  private tokenClaim: Promise<LogWriter> | undefined;
  private identity: Identity;
  /** Of writers that have not ended, that of an earlier term among them. */
  private readonly running = new Set<Promise<void>>();

  constructor(private readonly parts: LogPrimaryParts) {
    this.identity = parts.identity;
  }

  get role(): "primary" | "standby" | "fenced" {
    if (this.state.kind === "fenced" || (this.state.kind === "leading" && this.state.writer.end?.kind === "fenced"))
      return "fenced";
    return this.state.kind === "leading" && this.state.writer.end === undefined ? "primary" : "standby";
  }

  /** Nothing would be forgotten if this were made anew. */
  get isIdle(): boolean {
    return this.state.kind === "idle" && this.heldTerm === 0n;
  }

  /** Appends may be waiting for the term. */
  get isClaiming(): boolean {
    return this.state.kind === "claiming" || this.tokenClaim !== undefined;
  }

  /** The writer, if this sidecar leads. */
  get writer(): LogWriter | undefined {
    return this.state.kind === "leading" && this.state.writer.end === undefined ? this.state.writer : undefined;
  }

  /** The writer of a term that is ours, claimed if need be. Rejects with OplogError. */
  lead(): Promise<LogWriter> {
    if (this.isDraining) return Promise.reject(new ShuttingDownError());
    if (this.tokenClaim !== undefined && this.writer === undefined) return this.claimEnded().then(() => this.lead());
    const { state } = this;
    switch (state.kind) {
      case "idle":
        return this.claim();
      case "claiming":
        return state.writer;
      case "fenced":
        return Promise.reject(state.error);
      case "leading": {
        const { end } = state.writer;
        if (end === undefined) return Promise.resolve(state.writer);
        if (end.kind === "stalled") return this.claim();
        return Promise.reject(end.error);
      }
    }
  }

  /**
   * Leads under the next term on the ground of a token; an own writer of an earlier term is fenced like everyone's.
   * Rejects with OplogError; what led before then still does.
   */
  async claimByToken(token: bigint, claimant: { readonly id: string; readonly endpoint: string }): Promise<Claim> {
    while (this.isClaiming) await this.claimEnded();
    if (this.isDraining) throw new ShuttingDownError();
    const { endpoint, instance } = this.parts.identity;
    const identity = { id: claimant.id, endpoint: claimant.endpoint === "" ? endpoint : claimant.endpoint, instance };
    const before = this.writer;
    this.tokenClaim = this.openWriter(identity, { kind: "token", token });
    try {
      const writer = await this.tokenClaim;
      before?.drain();
      return writer.claim;
    } finally {
      this.tokenClaim = undefined;
    }
  }

  /** No further appends; resolves once all that were accepted have been settled. */
  async drain(): Promise<void> {
    this.isDraining = true;
    while (this.isClaiming) await this.claimEnded();
    if (this.state.kind === "leading") this.state.writer.drain();
    await Promise.all(this.running);
  }

  private noteLeading(isLeading: boolean): void {
    this.parts.observer.leading(this.parts.keys.log, isLeading);
    this.parts.onLeading(isLeading);
  }

  /** Resolves when the claim that is being made has been decided. */
  private async claimEnded(): Promise<void> {
    const claim = this.state.kind === "claiming" ? this.state.writer : this.tokenClaim;
    await claim?.catch(() => undefined);
  }

  private claim(): Promise<LogWriter> {
    const writer = this.openWriter(this.identity, { kind: "append", heldTerm: this.heldTerm }).catch(
      (error: unknown) => {
        this.state = error instanceof NotPrimaryError ? { kind: "fenced", error } : { kind: "idle" };
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
      this.heldTerm = claim.term;
      this.identity = identity;
      const writer = new LogWriter({ ...this.parts, claim, window: await restoreWindow(store, keys, claim.head) });
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

  private start(writer: LogWriter): void {
    const done = writer
      .run(this.parts.signal)
      .catch(this.parts.onBroken)
      .finally(() => {
        this.running.delete(done);
        // A writer of an earlier term may end after the next one has begun.
        if (this.state.kind !== "leading" || this.state.writer === writer) this.noteLeading(false);
      });
    this.running.add(done);
    this.state = { kind: "leading", writer };
    if (this.isDraining) writer.drain();
    this.noteLeading(true);
  }
}
