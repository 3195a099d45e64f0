import { claimTerm, type Identity } from "../leadership/claim.js";
import {
  NotPrimaryError,
  type OplogError,
  ShuttingDownError,
  StoreRefusalError,
  StoreUnavailableError,
} from "../oplog/errors.js";
import { StoreError, StoreRefusedError } from "../oplog/kv-store.js";
import { LogWriter, type WriterParts } from "./log-writer.js";
import { restoreWindow } from "./window-restore.js";

export interface AutoPrimaryParts extends Omit<WriterParts, "claim" | "window"> {
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
  | { readonly kind: "leading"; readonly writer: LogWriter; readonly done: Promise<void> }
  | { readonly kind: "fenced"; readonly error: OplogError };

/**
 * Leadership without an election: claims the next term when the first append arrives, and loses it for good to whoever
 * claims after.
 *
 *   idle ──lead──▶ claiming ──claimed──▶ leading ──higher term──▶ fenced
 *                     └──store away──▶ idle ◀──stalled──┘
 *
 * After a stall, or when ResolveAppend elsewhere has ruled out what was in flight, the term is claimed again, unless someone else has claimed one meanwhile.
 */
export class AutoPrimary {
  private state: State = { kind: "idle" };
  /** The highest term this process has held; 0n = none yet, then any other's term may be followed by ours. */
  private heldTerm = 0n;
  private isDraining = false;

  constructor(private readonly parts: AutoPrimaryParts) {}

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
    return this.state.kind === "claiming";
  }

  /** The writer, if this sidecar leads. */
  get writer(): LogWriter | undefined {
    return this.state.kind === "leading" && this.state.writer.end === undefined ? this.state.writer : undefined;
  }

  /** The writer of a term that is ours, claimed if need be. Rejects with OplogError. */
  lead(): Promise<LogWriter> {
    if (this.isDraining) return Promise.reject(new ShuttingDownError());
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

  /** No further appends; resolves once all that were accepted have been settled. */
  async drain(): Promise<void> {
    this.isDraining = true;
    if (this.state.kind === "claiming") await this.state.writer.catch(() => undefined);
    if (this.state.kind === "leading") {
      this.state.writer.drain();
      await this.state.done;
    }
  }

  private noteLeading(isLeading: boolean): void {
    this.parts.observer.leading(this.parts.keys.log, isLeading);
    this.parts.onLeading(isLeading);
  }

  private claim(): Promise<LogWriter> {
    const writer = this.claimWriter();
    this.state = { kind: "claiming", writer };
    return writer;
  }

  private async claimWriter(): Promise<LogWriter> {
    const { store, keys, identity, logger } = this.parts;
    const startedMs = this.parts.clock.monotonicMs();
    try {
      const claim = await claimTerm(store, keys, identity, this.heldTerm === 0n ? undefined : this.heldTerm);
      this.heldTerm = claim.term;
      const window = await restoreWindow(store, keys, claim.head);
      const writer = new LogWriter({ ...this.parts, claim, window });
      const done = writer
        .run(this.parts.signal)
        .catch(this.parts.onBroken)
        .finally(() => this.noteLeading(false));
      this.state = { kind: "leading", writer, done };
      if (this.isDraining) writer.drain();
      this.noteLeading(true);
      logger.info(
        { event: "term_claimed", log: keys.log, term: String(claim.term), head: String(claim.head.lastSequenceId) },
        "leading the log",
      );
      return writer;
    } catch (error) {
      if (error instanceof NotPrimaryError) {
        this.state = { kind: "fenced", error };
        throw error;
      }
      this.state = { kind: "idle" };
      if (!(error instanceof StoreError)) throw error;
      logger.warn(
        { event: "claim_failed", log: keys.log, err: error },
        "could not claim the log; the next append tries again",
      );
      if (error instanceof StoreRefusedError) throw new StoreRefusalError(error.message);
      throw new StoreUnavailableError(Math.round(this.parts.clock.monotonicMs() - startedMs), "nothing was written");
    }
  }
}
