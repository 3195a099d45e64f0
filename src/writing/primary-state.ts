import { type OplogError, ShuttingDownError } from "../oplog/errors.js";
import { NotPrimaryError, NotReadyError } from "../oplog/leadership-errors.js";
import type { WriterEnd } from "./writer-end.js";

/** What is decided about a writer: a LogWriter. */
export interface Reign {
  readonly term: bigint;
  /** Its term was won by a candidate, who claims the next one too. */
  readonly isElected: boolean;
}

/**
 * By what right this sidecar writes a log, or why it does not.
 *
 *   none ── claimed by append or token, opened ──▶ leading ── stalled ──▶ none: the next append claims again
 *   any ── claimed by a candidate ──▶ preparing ── opened ──▶ leading ── stalled ──▶ ended: its candidate claims again
 *   leading ── a higher term ──▶ fenced          leading ── drained, or the log is broken ──▶ ended, for good
 *   preparing, leading, ended ── stepped down ──▶ fenced
 *   none ── a claim by append was refused ──▶ fenced          ended ── the store was adopted ──▶ none
 *   ended, fenced ── the log was deleted ──▶ none: what comes by its name is another log
 */
export type Standing<W extends Reign> =
  | { readonly kind: "none" }
  | { readonly kind: "preparing"; readonly term: bigint; readonly candidate: string }
  | { readonly kind: "leading"; readonly writer: W }
  /** Its writer has ended, and nobody is known to have taken the term. */
  | { readonly kind: "ended"; readonly term: bigint; readonly error: OplogError }
  /** The term is somebody else's. Whether it has ever been ours, `heldTerm` tells. */
  | { readonly kind: "fenced"; readonly error: OplogError };

export interface PrimaryState<W extends Reign> {
  readonly standing: Standing<W>;
  /** The claim that is being made: because an append waits for it, or outright, by a token or a candidate. */
  readonly claiming: "no" | "by append" | "outright";
  /** The highest term this process has held; 0n = none yet, then any other's term may be followed by ours. */
  readonly heldTerm: bigint;
  readonly isDraining: boolean;
}

export type PrimaryEvent<W extends Reign> =
  | { readonly kind: "claim begun"; readonly by: "append" | "outright" }
  /** The store has given the term. */
  | { readonly kind: "claimed"; readonly term: bigint }
  /** The same, for a candidate that is to prepare itself first. */
  | { readonly kind: "won"; readonly term: bigint; readonly candidate: string }
  | { readonly kind: "opened"; readonly writer: W }
  /** `refusal`: the term is another's. */
  | { readonly kind: "claim over"; readonly refusal: OplogError | undefined }
  | { readonly kind: "writer ended"; readonly writer: W; readonly end: WriterEnd }
  | { readonly kind: "stepped down"; readonly term: bigint; readonly refusal: OplogError }
  /** The store has been adopted as it is: what was found out in it before holds no more. */
  | { readonly kind: "adopted" }
  | { readonly kind: "log deleted" }
  | { readonly kind: "draining" };

export const UNCLAIMED = {
  standing: { kind: "none" },
  claiming: "no",
  heldTerm: 0n,
  isDraining: false,
} as const satisfies PrimaryState<Reign>;

export function next<W extends Reign>(state: PrimaryState<W>, event: PrimaryEvent<W>): PrimaryState<W> {
  const { standing, claiming } = state;
  switch (event.kind) {
    case "claim begun":
      return { ...state, claiming: event.by === "append" ? "by append" : "outright" };
    case "claimed":
      return { ...state, heldTerm: event.term };
    case "won":
      return {
        ...state,
        heldTerm: event.term,
        standing: { kind: "preparing", term: event.term, candidate: event.candidate },
      };
    case "opened":
      return {
        ...state,
        standing: { kind: "leading", writer: event.writer },
        claiming: claiming === "by append" ? "no" : claiming,
      };
    case "claim over":
      if (claiming !== "by append" || event.refusal === undefined) return { ...state, claiming: "no" };
      return { ...state, claiming: "no", standing: { kind: "fenced", error: event.refusal } };
    case "writer ended":
      // A writer of an earlier term may end after the next one has begun.
      if (standing.kind !== "leading" || standing.writer !== event.writer) return state;
      return { ...state, standing: afterEnd(event.writer, event.end) };
    case "stepped down":
      return termOf(standing) === event.term ? { ...state, standing: { kind: "fenced", error: event.refusal } } : state;
    case "adopted": {
      const isBroken = standing.kind === "ended" && !state.isDraining;
      return { ...state, heldTerm: 0n, standing: isBroken ? UNCLAIMED.standing : standing };
    }
    case "log deleted":
      // Who leads, or is about to, finds out by itself: it is fenced.
      if (standing.kind === "leading" || standing.kind === "preparing") return state;
      return { ...state, standing: { kind: "none" }, heldTerm: 0n };
    case "draining":
      return { ...state, isDraining: true };
  }
}

function afterEnd<W extends Reign>({ term, isElected }: W, { kind, error }: WriterEnd): Standing<W> {
  if (kind === "fenced") return { kind: "fenced", error };
  return kind === "stalled" && !isElected ? { kind: "none" } : { kind: "ended", term, error };
}

function termOf<W extends Reign>(standing: Standing<W>): bigint | undefined {
  if (standing.kind === "leading") return standing.writer.term;
  return standing.kind === "preparing" || standing.kind === "ended" ? standing.term : undefined;
}

/** What is to be done with an append. */
export type Course<W extends Reign> =
  | { readonly kind: "write"; readonly writer: W }
  | { readonly kind: "claim" }
  /** All that wait get what the claim gets. */
  | { readonly kind: "join the claim" }
  /** Then decide again. */
  | { readonly kind: "await the claim" }
  | { readonly kind: "refuse"; readonly error: OplogError }
  /** Who leads may have changed; without an answer of the store, refuse with this. */
  | { readonly kind: "refuse by who leads"; readonly error: OplogError };

const LED_BY_NOBODY = new NotPrimaryError("", "", 0n);

/** `claimsByAppend`: whether an append claims a log that nobody was elected for. */
export function courseOf<W extends Reign>(state: PrimaryState<W>, claimsByAppend: boolean): Course<W> {
  const { standing, claiming, heldTerm } = state;
  if (state.isDraining) return { kind: "refuse", error: new ShuttingDownError() };
  if (standing.kind === "leading") return { kind: "write", writer: standing.writer };
  if (claiming !== "no") return { kind: claiming === "outright" ? "await the claim" : "join the claim" };
  switch (standing.kind) {
    case "none":
      return claimsByAppend || heldTerm !== 0n
        ? { kind: "claim" }
        : { kind: "refuse by who leads", error: LED_BY_NOBODY };
    case "preparing":
      return { kind: "refuse", error: new NotReadyError(standing.candidate, standing.term) };
    case "ended":
      return { kind: "refuse", error: standing.error };
    case "fenced":
      return { kind: "refuse by who leads", error: standing.error };
  }
}

export type PrimaryRole = "primary" | "preparing" | "standby" | "fenced";

export function roleOf({ standing, heldTerm }: PrimaryState<Reign>): PrimaryRole {
  switch (standing.kind) {
    case "leading":
      return "primary";
    case "preparing":
      return "preparing";
    case "fenced":
      return heldTerm === 0n ? "standby" : "fenced";
    default:
      return "standby";
  }
}

/** Nothing would be forgotten if this were made anew. */
export function isForgettable({ standing, claiming, heldTerm }: PrimaryState<Reign>): boolean {
  return claiming === "no" && heldTerm === 0n && (standing.kind === "none" || standing.kind === "fenced");
}
