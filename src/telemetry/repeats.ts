export interface RepeatLimits {
  /** Lines of one kind that pass at once. */
  readonly lines: number;
  readonly withinMs: number;
  /** Of which the lines are counted apart; others pass. */
  readonly kindsMax: number;
}

export const REPEAT_LIMITS: RepeatLimits = { lines: 5, withinMs: 10_000, kindsMax: 500 };

interface Kind {
  passed: number;
  heldBack: number;
}

/**
 * Holds back what is said again and again: of each kind of line a few pass in a while, and of the others the number is
 * told at its end.
 */
export class Repeats {
  private readonly kinds = new Map<string, Kind>();

  constructor(private readonly limits: RepeatLimits = REPEAT_LIMITS) {}

  /** Whether this line passes. `tell` is called later if it was one of those that did not. */
  passes(kind: string, tell: (heldBack: number) => void): boolean {
    const { lines, withinMs, kindsMax } = this.limits;
    const known = this.kinds.get(kind);
    if (known === undefined) {
      if (this.kinds.size >= kindsMax) return true;
      const fresh: Kind = { passed: 1, heldBack: 0 };
      this.kinds.set(kind, fresh);
      setTimeout(() => {
        this.kinds.delete(kind);
        if (fresh.heldBack > 0) tell(fresh.heldBack);
      }, withinMs).unref();
      return true;
    }
    if (known.passed < lines) {
      known.passed++;
      return true;
    }
    known.heldBack++;
    return false;
  }
}
