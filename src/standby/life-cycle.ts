/**
 * The life of a view. Decided here alone, from what has happened and what is seen; no time and no store.
 *
 *   connecting ──▶ bootstrapping ──▶ catching up ◀──▶ following
 *                        ▲                ▲               ▲
 *                        └────────────────┴───────────────┴──▶ reconnecting        unconfirmed, and back
 *
 *   any of these ── won ──▶ promoting ── leads ──▶ promoted
 *   promoting, promoted ── stepped down ──▶ catching up; connecting, if the log has not been reached yet
 *   any at all ── failed ──▶ failed, for good
 *
 * While promoting and promoted the store is the concern of the campaign: what is seen changes nothing.
 */
export type LifeState =
  | { readonly kind: "connecting" }
  /** `loadTo`: the head when the log was reached. Below it the first load is not over, whatever came in between. */
  | { readonly kind: "bootstrapping" | "catching up" | "following" | "reconnecting"; readonly loadTo: bigint }
  /** Without `loadTo` the log has not been reached. */
  | { readonly kind: "promoting"; readonly final: bigint; readonly loadTo: bigint | undefined }
  | { readonly kind: "promoted"; readonly loadTo: bigint | undefined }
  /** `isOtherHistory`: what was applied is not in the log, which has another history or is another log. */
  | { readonly kind: "failed"; readonly because: string; readonly isOtherHistory: boolean };

export type Phase = LifeState["kind"];

export const PHASES = [
  "connecting",
  "bootstrapping",
  "catching up",
  "following",
  "reconnecting",
  "promoting",
  "promoted",
  "failed",
] as const satisfies readonly Phase[];

export type LifeEvent =
  /** The store has confirmed the head in time, and everything up to it has been applied. */
  | { readonly kind: "level"; readonly head: bigint }
  /** The store has confirmed the head in time, and there is more to apply. */
  | { readonly kind: "behind"; readonly applied: bigint; readonly head: bigint }
  /** The store has not confirmed the head in time. */
  | { readonly kind: "unconfirmed"; readonly ageMs: number }
  /** A candidate here is to lead, after `final` has been applied. */
  | { readonly kind: "won"; readonly final: bigint }
  | { readonly kind: "leads" }
  /** The promotion was abandoned, or the leadership is over. */
  | { readonly kind: "stepped down" }
  | { readonly kind: "failed"; readonly because: string; readonly isOtherHistory: boolean };

export const BEGINNING: LifeState = { kind: "connecting" };

/** How a view and the log stand to each other at one moment. */
export interface Sight {
  /** Whether the head has been read at all. */
  readonly isReached: boolean;
  readonly applied: bigint;
  readonly head: bigint;
  /** How long ago the store was asked for the head and answered. */
  readonly headAgeMs: number;
}

/** `heartbeatMs`: a head that was confirmed longer ago says nothing any more. */
export function seen(sight: Sight, heartbeatMs: number): LifeEvent {
  const { isReached, applied, head, headAgeMs } = sight;
  if (!isReached || headAgeMs > heartbeatMs) return { kind: "unconfirmed", ageMs: headAgeMs };
  return applied >= head ? { kind: "level", head } : { kind: "behind", applied, head };
}

export function next(state: LifeState, event: LifeEvent): LifeState {
  if (state.kind === "failed") return state;
  const loadTo = state.kind === "connecting" ? undefined : state.loadTo;
  const isInCampaign = state.kind === "promoting" || state.kind === "promoted";
  switch (event.kind) {
    case "failed":
      return event;
    case "won":
      return { kind: "promoting", final: event.final, loadTo };
    case "leads":
      return state.kind === "promoting" ? { kind: "promoted", loadTo } : state;
    case "stepped down":
      if (!isInCampaign) return state;
      return loadTo === undefined ? BEGINNING : { kind: "catching up", loadTo };
    case "unconfirmed":
      return isInCampaign || loadTo === undefined ? state : { kind: "reconnecting", loadTo };
    case "level":
      return isInCampaign ? state : { kind: "following", loadTo: loadTo ?? event.head };
    case "behind": {
      if (isInCampaign) return state;
      const target = loadTo ?? event.head;
      return { kind: event.applied < target ? "bootstrapping" : "catching up", loadTo: target };
    }
  }
}

/** Why the event led from one phase to another, for people. */
export function reasonOf(from: Phase, event: LifeEvent): string {
  switch (event.kind) {
    case "level":
      return `everything up to ${event.head} has been applied`;
    case "behind":
      return from === "connecting"
        ? `the log has been reached: 1 to ${event.head} is to be loaded`
        : `${event.applied} of ${event.head} has been applied`;
    case "unconfirmed":
      return `the store has not confirmed the head for ${event.ageMs} ms`;
    case "won":
      return `a candidate here is to lead after ${event.final}`;
    case "leads":
      return "a candidate here leads";
    case "stepped down":
      return from === "promoting" ? "the promotion was abandoned" : "the candidate here leads no longer";
    case "failed":
      return event.because;
  }
}
