import type { LeaseLoss } from "./lease-keeper.js";
import type { Lost } from "./messages.js";

/** How a candidacy ends. "failed": by an error, which is thrown. */
export type CampaignEnding = Lost | "failed";

/**
 * The life of one candidate of one log. Decided here alone, from what has happened; no time and no store.
 *
 *   entering ── granted ──▶ waiting ── won ─────────────▶ won ── leads ──▶ leading ── stalled ──▶ stalled
 *      ▲                     │   ▲                         ▲                  ▲                      │
 *      │             invited ▼   │ late, not its turn      │                  └──────── leads ───────┘
 *      └──── lease lost ──── invited ── won ───────────────┘
 *
 *   leading ── resigned ──▶ finishing ── settled: what was accepted is written ──▶ over
 *   leading, stalled ── silent, failed; stalled ── late ──▶ outlasting ── settled: no promise is left ──▶ over
 *   any other ── resigned, silent, failed ──▶ over
 *   whoever has a term ── lease lost, taken, vacated ──▶ over
 *
 * The first cause stands.
 */
export type CampaignState =
  /** It has no lease. `after`: how the one before was lost. */
  | { readonly kind: "entering"; readonly after: LeaseLoss | undefined }
  | { readonly kind: "waiting" }
  /** It prepares itself, and the other one leads still. */
  | { readonly kind: "invited" }
  /** It has a term, and does not lead it yet. */
  | { readonly kind: "won" }
  | { readonly kind: "leading" }
  /** Its writer has ended, and the place is its own still: the next term is to be claimed. */
  | { readonly kind: "stalled" }
  /** What was accepted is being written. */
  | { readonly kind: "finishing"; readonly why: string }
  /** The candidate may rely on what it was promised: the place is held until that has run out. */
  | { readonly kind: "outlasting"; readonly ending: CampaignEnding }
  | { readonly kind: "over"; readonly ending: CampaignEnding };

export type CampaignKind = CampaignState["kind"];

export const CAMPAIGN_KINDS = [
  "entering",
  "waiting",
  "invited",
  "won",
  "leading",
  "stalled",
  "finishing",
  "outlasting",
  "over",
] as const satisfies readonly CampaignKind[];

export type CampaignEvent =
  | { readonly kind: "granted" }
  | { readonly kind: "lease lost"; readonly loss: LeaseLoss }
  | { readonly kind: "invited" }
  /** Or that cannot be told now. */
  | { readonly kind: "not its turn" }
  | { readonly kind: "won" }
  /** Not everything was applied in time. */
  | { readonly kind: "late"; readonly missing: string }
  | { readonly kind: "leads" }
  | { readonly kind: "stalled" }
  /** Its writer was stopped from elsewhere. */
  | { readonly kind: "stopped"; readonly why: string }
  /** Somebody else has the term. */
  | { readonly kind: "taken"; readonly reason: "fenced" | "handed over"; readonly message: string }
  /** The place is not its own any more, and nobody else's. */
  | { readonly kind: "vacated" }
  | { readonly kind: "resigned"; readonly why: string }
  | { readonly kind: "silent"; readonly why: string }
  /** What was waited for at the end has come. */
  | { readonly kind: "settled" }
  | { readonly kind: "failed" };

export const BEGINNING: CampaignState = { kind: "entering", after: undefined };

export function next(state: CampaignState, event: CampaignEvent): CampaignState {
  if (state.kind === "over") return state;
  switch (event.kind) {
    case "granted":
      return state.kind === "entering" ? { kind: "waiting" } : state;
    case "invited":
      return state.kind === "waiting" ? { kind: "invited" } : state;
    case "not its turn":
      return state.kind === "invited" ? { kind: "waiting" } : state;
    case "won":
      if (state.kind === "waiting" || state.kind === "invited") return { kind: "won" };
      // The lease was lost while the claim was on its way.
      return state.kind === "entering" ? over(lostUnled(state.after ?? "expired")) : state;
    case "leads":
      return state.kind === "won" || state.kind === "stalled" ? { kind: "leading" } : state;
    case "stalled":
      return state.kind === "leading" ? { kind: "stalled" } : state;
    case "stopped":
      return state.kind === "leading" ? over(resigned(event.why)) : state;
    case "late":
      return afterLate(state, { reason: "not ready", message: event.missing });
    case "lease lost":
      return afterLeaseLost(state, event.loss);
    case "taken":
      return withoutPlace(state, { reason: event.reason, message: event.message });
    case "vacated":
      return withoutPlace(state, lostLeading("expired"));
    case "resigned":
      return afterResigned(state, event.why);
    case "silent":
      if (state.kind === "finishing" || state.kind === "outlasting") return state;
      return mayHavePromised(state, { reason: "silent", message: event.why });
    case "failed":
      return mayHavePromised(state, "failed");
    case "settled":
      if (state.kind === "finishing") return over(resigned(state.why));
      return state.kind === "outlasting" ? over(state.ending) : state;
  }
}

/** Why it does not go on; undefined: it does, in a further term perhaps, or an error says why. */
export function lostIn(state: CampaignState): Lost | undefined {
  if (state.kind === "finishing") return resigned(state.why);
  if (state.kind !== "outlasting" && state.kind !== "over") return undefined;
  return state.ending === "failed" ? undefined : state.ending;
}

function afterLate(state: CampaignState, lost: Lost): CampaignState {
  if (state.kind === "invited") return { kind: "waiting" };
  if (state.kind === "stalled") return { kind: "outlasting", ending: lost };
  return state.kind === "won" ? over(lost) : state;
}

function afterLeaseLost(state: CampaignState, loss: LeaseLoss): CampaignState {
  switch (state.kind) {
    case "waiting":
    case "invited":
      return { kind: "entering", after: loss };
    case "won":
    case "stalled":
      return over(lostUnled(loss));
    case "leading":
    case "finishing":
      return over(lostLeading(loss));
    case "outlasting":
      return over(state.ending);
    default:
      return state;
  }
}

function withoutPlace(state: CampaignState, lost: Lost): CampaignState {
  if (state.kind === "entering" || state.kind === "waiting" || state.kind === "invited") return state;
  return over(state.kind === "outlasting" && state.ending === "failed" ? "failed" : lost);
}

/** One that resigns relies on no promise. */
function afterResigned(state: CampaignState, why: string): CampaignState {
  if (state.kind === "finishing") return state;
  if (state.kind === "leading") return { kind: "finishing", why };
  return over(state.kind === "outlasting" ? state.ending : resigned(why));
}

function mayHavePromised(state: CampaignState, ending: CampaignEnding): CampaignState {
  const mayHave = state.kind === "leading" || state.kind === "stalled" || state.kind === "outlasting";
  return mayHave ? { kind: "outlasting", ending } : over(ending);
}

function over(ending: CampaignEnding): CampaignState {
  return { kind: "over", ending };
}

function resigned(why: string): Lost {
  return { reason: "resigned", message: why };
}

function lostUnled(loss: LeaseLoss): Lost {
  return { reason: loss, message: "the lease was lost before the candidate could lead" };
}

function lostLeading(loss: LeaseLoss): Lost {
  const message = loss === "expired" ? "the lease has run out" : "the store could not be reached to renew the lease";
  return { reason: loss, message };
}
