import { Problems } from "./history.js";

/** What one transaction of the store, or the end of a lease, has changed in the keys of a log. */
export interface Revision {
  readonly revision: number;
  readonly term?: { readonly term: number; readonly owner: string; readonly isElected: boolean };
  /** null = deleted. */
  readonly leader?: LeaderKey | null;
  /** Who is invited to take over; null = nobody. */
  readonly successor?: string | null;
  readonly records?: readonly { readonly first: number; readonly last: number; readonly term: number }[];
}

export interface LeaderKey {
  readonly id: string;
  readonly term: number;
  /** Of one campaign. */
  readonly nonce: string;
}

/** A candidate has been told that it leads. */
export interface Leading {
  readonly candidate: string;
  readonly term: number;
  readonly atMs: number;
  /** The id that its first entry will have. */
  readonly next: number;
  /** What it had applied by then. */
  readonly applied: number;
}

interface PromisedTerm {
  readonly candidate: string;
  untilMs: number;
}

/**
 * Who led a log, as the store has it from its first revision on and as candidates were told; and whether that fits
 * together. Candidates are named by their process; all times are of one clock.
 */
export class LeadershipHistory {
  private readonly revisions: Revision[] = [];
  private readonly leadings: Leading[] = [];
  private readonly promises = new Map<number, PromisedTerm>();
  private readonly ends = new Map<string | number, number>();

  /** In the order of the store. */
  committed(revision: Revision): void {
    this.revisions.push(revision);
  }

  leading(leading: Leading): void {
    this.leadings.push(leading);
  }

  /** Until then nobody else leads. */
  promised(candidate: string, term: number, untilMs: number): void {
    const promise = this.promises.get(term);
    if (promise === undefined) this.promises.set(term, { candidate, untilMs });
    else promise.untilMs = Math.max(promise.untilMs, untilMs);
  }

  /** It has ended by itself, or was killed: what it was promised counts no more. */
  left(candidate: string, atMs: number): void {
    this.ends.set(candidate, atMs);
  }

  /** Its candidate has given this term up: what it was promised with it counts no more. */
  gaveUp(term: number, atMs: number): void {
    this.ends.set(term, atMs);
  }

  /** The newest term that a candidate was told to lead; 0 = none was. */
  get newestTold(): number {
    return Math.max(0, ...this.leadings.map(({ term }) => term));
  }

  get terms(): number[] {
    return this.revisions.flatMap(({ term }) => (term === undefined ? [] : [term.term]));
  }

  /** Empty when every invariant holds. */
  violations(): string[] {
    const problems = new Problems();
    const walk = new Walk(problems);
    for (const revision of this.revisions) walk.step(revision);
    this.checkTold(problems);
    this.checkPromises(problems);
    this.checkBeginnings(problems);
    return problems.told;
  }

  /** Every term has one candidate, and is in the store, where that has been watched. */
  private checkTold(problems: Problems): void {
    const elected = new Set(this.revisions.flatMap(({ leader }) => (leader ? [leader.term] : [])));
    const byTerm = new Map<number, string>();
    for (const { candidate, term } of this.leadings) {
      const other = byTerm.get(term) ?? candidate;
      byTerm.set(term, other);
      if (other !== candidate) problems.add("terms with two leaders", `${term} of ${other} and ${candidate}`);
      if (this.revisions.length > 0 && !elected.has(term))
        problems.add("terms that nobody was elected for", `${term} of ${candidate}`);
    }
  }

  private checkPromises(problems: Problems): void {
    for (const [term, { candidate, untilMs }] of this.promises) {
      const overMs = Math.min(untilMs, this.ends.get(candidate) ?? Infinity, this.ends.get(term) ?? Infinity);
      for (const later of this.leadings) {
        if (later.term <= term || later.candidate === candidate || later.atMs >= overMs) continue;
        const earlyMs = (overMs - later.atMs).toFixed(1);
        problems.add(
          "promises that somebody else's leading overlaps",
          `term ${later.term} of ${later.candidate} began ${earlyMs} ms before the end of term ${term} of ${candidate}`,
        );
      }
    }
  }

  /** Who leads has applied everything before, and goes on right there. */
  private checkBeginnings(problems: Problems): void {
    const firsts = new Map<number, number>();
    for (const { first, term } of this.revisions.flatMap(({ records = [] }) => records)) {
      if (!firsts.has(term)) firsts.set(term, first);
    }
    for (const { candidate, term, next, applied } of this.leadings) {
      const first = firsts.get(term) ?? next;
      if (applied === next - 1 && first === next) continue;
      problems.add(
        "leaders that began elsewhere",
        `term ${term} of ${candidate}, with ${applied} applied, was to begin at ${next} and began at ${first}`,
      );
    }
  }
}

/** Through the revisions of the store, in order. */
class Walk {
  private revision = 0;
  private term: Revision["term"];
  private leader: LeaderKey | undefined;
  private invited: string | undefined;
  private last = 0;

  constructor(private readonly problems: Problems) {}

  step(next: Revision): void {
    const { problems } = this;
    const at = `at revision ${next.revision}`;
    if (next.revision <= this.revision) problems.add("revisions out of order", `${next.revision}`);
    this.revision = next.revision;
    for (const record of next.records ?? []) this.checkRecord(record, at);
    if (next.term !== undefined && next.term.term <= (this.term?.term ?? 0)) {
      problems.add("terms that do not rise", `${next.term.term} after ${this.term?.term} ${at}`);
    }
    if (next.leader) this.checkLeader(next.leader, next, at);
    if (next.term !== undefined) this.term = next.term;
    if (next.leader !== undefined) this.leader = next.leader ?? undefined;
    if (next.successor !== undefined) this.invited = next.successor ?? undefined;
  }

  private checkRecord({ first, last, term }: { first: number; last: number; term: number }, at: string): void {
    const { problems } = this;
    if (first !== this.last + 1) problems.add("records out of order", `${first} after ${this.last} ${at}`);
    this.last = last;
    if (this.invited !== undefined) problems.add("records while somebody is invited to lead", `${first} ${at}`);
    if (term !== this.term?.term) {
      problems.add("records of a term that is not the newest", `${first} of term ${term} in ${this.term?.term} ${at}`);
    } else if (this.term.isElected && this.leader?.term !== term) {
      problems.add("records outside of their leadership", `${first} of term ${term} ${at}`);
    }
  }

  private checkLeader(leader: LeaderKey, { term, successor }: Revision, at: string): void {
    const { problems } = this;
    if (term?.term !== leader.term || term.owner !== leader.id || !term.isElected) {
      problems.add("leader keys without their term", `term ${leader.term} of ${leader.id} ${at}`);
    }
    if (this.leader === undefined || this.leader.nonce === leader.nonce) return;
    if (this.invited !== leader.id || successor !== null) {
      problems.add(
        "leader keys put over another's",
        `term ${leader.term} of ${leader.id} over term ${this.leader.term} of ${this.leader.id} ${at}`,
      );
    }
  }
}
