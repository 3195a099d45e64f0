import type { Divergence } from "./hash-comparison.js";
import type { LifeState, Phase } from "./life-cycle.js";

/** What a verdict rests on. What could not be found out is undefined, and `unread` tells why. */
export interface ReadinessFacts {
  readonly life: LifeState;
  readonly applied: bigint;
  /** As last seen by the view. */
  readonly headSeen: bigint;
  /** Since the view last had the head confirmed. */
  readonly headAgeMs: number;
  readonly appliedPerSecond: number | undefined;
  /** Read for this answer. */
  readonly head: bigint | undefined;
  /** Something was not read for this answer. */
  readonly unread: { readonly because: string; readonly elapsedMs: number } | undefined;
  /** Why the store does not take what a candidate needs: it answers, and refuses. */
  readonly refusal: string | undefined;
  /** What was read is damaged. */
  readonly damage: string | undefined;
  /** What was read cannot be of the history that the view holds. */
  readonly contradiction: string | undefined;
  readonly missing: { readonly first: bigint; readonly last: bigint } | undefined;
  /** Set when the watch has brought nothing while the head was beyond what it had brought, which was first seen so long ago. */
  readonly silence: { readonly delivered: bigint; readonly elapsedMs: number } | undefined;
  readonly lease: { readonly holder: string; readonly leftMs: number | undefined } | undefined;
  /** Consumers whose states are not that of the view. */
  readonly divergences: readonly Divergence[];
  /** The log is claimed by tokens. */
  readonly claim: { readonly holder: string; readonly token: bigint } | undefined;
}

/** The worst first; as in standby.proto. */
export type BlockerKind =
  | "failed"
  | "history diverged"
  | "state diverged"
  | "store unreachable"
  | "store refuses"
  | "gap"
  | "tail silent"
  | "bootstrapping"
  | "not caught up"
  | "promoted"
  | "lease held"
  | "leadership by token";

export interface Blocker {
  readonly kind: BlockerKind;
  readonly message: string;
  readonly applied?: bigint;
  readonly head?: bigint;
  readonly missing?: { readonly first: bigint; readonly last: bigint };
  readonly elapsedMs?: number;
  readonly leftMs?: number;
  readonly holder?: string;
}

export type Verdict = "leading" | "promotable" | "standing by" | "not promotable";

export interface Assessment {
  readonly verdict: Verdict;
  readonly blockers: readonly Blocker[];
}

/** Nothing is promotable that is not known to be: each fact that is missing is in the way. */
export function assess(facts: ReadinessFacts): Assessment {
  const blockers = [
    failed(facts),
    historyDiverged(facts),
    stateDiverged(facts),
    storeUnreachable(facts),
    storeRefuses(facts),
    gap(facts),
    tailSilent(facts),
    behind(facts),
    promoted(facts),
    leaseHeld(facts),
    leadershipByToken(facts),
  ].filter((blocker) => blocker !== undefined);
  return { verdict: verdictOf(facts, blockers), blockers };
}

/** To a leader its own leadership is no blocker, nor are entries that it is just writing. */
const OF_A_LEADER: readonly BlockerKind[] = ["promoted", "lease held", "not caught up"];

function verdictOf({ life }: ReadinessFacts, blockers: readonly Blocker[]): Verdict {
  if (life.kind === "promoted" && blockers.every(({ kind }) => OF_A_LEADER.includes(kind))) return "leading";
  if (blockers.length === 0) return "promotable";
  return blockers.every(({ kind }) => kind === "lease held") ? "standing by" : "not promotable";
}

function failed({ life, applied, damage }: ReadinessFacts): Blocker | undefined {
  const because = life.kind === "failed" && !life.isOtherHistory ? life.because : damage;
  if (because === undefined) return undefined;
  return { kind: "failed", message: `the view can be relied on no more, at ${applied}: ${because}` };
}

function historyDiverged({ life, applied, head, contradiction }: ReadinessFacts): Blocker | undefined {
  const because = life.kind === "failed" && life.isOtherHistory ? life.because : contradiction;
  if (because === undefined) return undefined;
  const message = `the view has applied entries of another history, up to ${applied}: ${because}`;
  return { kind: "history diverged", message, applied, ...(head === undefined ? {} : { head }) };
}

function stateDiverged({ divergences }: ReadinessFacts): Blocker | undefined {
  const [first] = divergences;
  if (first === undefined) return undefined;
  const { consumer, sequenceId, theirs, ours } = first;
  const others = divergences.length === 1 ? "" : `, and those of ${divergences.length - 1} others are not either`;
  return {
    kind: "state diverged",
    message: `the state of "${consumer}" at ${sequenceId} is not that of the view (${theirs}, here ${ours})${others}`,
    applied: BigInt(sequenceId),
    holder: consumer,
  };
}

const UNCONFIRMED: readonly Phase[] = ["connecting", "reconnecting"];

function storeUnreachable({ life, headAgeMs, unread }: ReadinessFacts): Blocker | undefined {
  if (unread !== undefined) {
    const { because, elapsedMs } = unread;
    return { kind: "store unreachable", message: `${because} (${inSeconds(elapsedMs)} by now)`, elapsedMs };
  }
  if (!UNCONFIRMED.includes(life.kind)) return undefined;
  return {
    kind: "store unreachable",
    message: `the store answers, but has not confirmed the head to the view for ${inSeconds(headAgeMs)}`,
    elapsedMs: headAgeMs,
  };
}

function storeRefuses({ refusal }: ReadinessFacts): Blocker | undefined {
  return refusal === undefined ? undefined : { kind: "store refuses", message: `the store refuses: ${refusal}` };
}

function gap({ missing, applied }: ReadinessFacts): Blocker | undefined {
  if (missing === undefined) return undefined;
  const { first, last } = missing;
  return {
    kind: "gap",
    message: `${first} to ${last} are missing after ${applied}, and there are later ones`,
    missing,
  };
}

/** While entries are missing the log is read, and nobody watches. */
function tailSilent({ silence, missing, applied, headSeen, head = headSeen }: ReadinessFacts): Blocker | undefined {
  if (silence === undefined || missing !== undefined) return undefined;
  const { delivered, elapsedMs } = silence;
  return {
    kind: "tail silent",
    message: `the watch has brought nothing new for ${inSeconds(elapsedMs)}: it stands at ${delivered}, and the head is ${head}`,
    applied,
    head,
    elapsedMs,
  };
}

function behind(facts: ReadinessFacts): Blocker | undefined {
  const { life, applied, headSeen } = facts;
  const head = facts.head ?? headSeen;
  const left = (to: bigint) => timeLeft(to - applied, facts.appliedPerSecond);
  if (life.kind === "bootstrapping") {
    const percent = (applied * 100n) / life.loadTo;
    const message = `the first load is at ${percent} %: applied ${applied} of ${life.loadTo}, the head is ${head}`;
    return { kind: "bootstrapping", message, applied, head, ...left(head > life.loadTo ? head : life.loadTo) };
  }
  if (applied >= head) return undefined;
  return { kind: "not caught up", message: `applied ${applied} < head ${head}`, applied, head, ...left(head) };
}

function timeLeft(entries: bigint, perSecond: number | undefined): { leftMs?: number } {
  return perSecond === undefined ? {} : { leftMs: Math.ceil((Number(entries) * 1000) / perSecond) };
}

function promoted({ life }: ReadinessFacts): Blocker | undefined {
  if (life.kind === "promoted") return { kind: "promoted", message: "a candidate here leads already" };
  if (life.kind !== "promoting") return undefined;
  return { kind: "promoted", message: `a candidate here is about to lead, after ${life.final}` };
}

function leaseHeld({ lease }: ReadinessFacts): Blocker | undefined {
  if (lease === undefined) return undefined;
  const { holder, leftMs } = lease;
  const left = leftMs === undefined ? "for good" : `for ${inSeconds(leftMs)} more unless it is renewed`;
  return {
    kind: "lease held",
    message: `"${holder}" holds the lease of the leader ${left}`,
    holder,
    ...(leftMs === undefined ? {} : { leftMs }),
  };
}

function leadershipByToken({ claim }: ReadinessFacts): Blocker | undefined {
  if (claim === undefined) return undefined;
  const { holder, token } = claim;
  return {
    kind: "leadership by token",
    message: `the log is claimed by tokens, the last one ${token} of "${holder}": nobody is elected`,
    holder,
  };
}

function inSeconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
