import { isSameLog } from "../stored/deletion.js";
import type { Leadership } from "../stored/leadership.js";
import type { LogState } from "../stored/log-state.js";
import { claimantOf, type LeaderView, NOBODY } from "../stored/primary.js";
import type { EntrySeen } from "../writing/known-history.js";

/**
 * What this sidecar has seen of one log: by reading its state, by following, by claiming and writing it, or by being
 * refused. A status tells this while the store is away. Head, floor and term only ever rise.
 */
export class LastKnown {
  /** Undefined: it has not been seen. */
  logId: Uint8Array | undefined;
  private head = 0n;
  private floor = 1n;
  private term = 0n;
  private leader = NOBODY;
  /** Nobody holds the lease of that leader any more. */
  private isVacant = false;
  private reading: LogState | undefined;
  private newest: EntrySeen | undefined;

  /** `onTerm` is called with each term that is higher than all before. */
  constructor(private readonly onTerm: (term: bigint) => void) {}

  /** All of the log, as the store has just told it. */
  noteReading(state: LogState): void {
    this.noteLog(state.logId, state.head, state.floor);
    this.noteLeader(state.leader, state.isVacant);
    this.reading = state;
  }

  noteLeadership({ term, leader }: Leadership): void {
    if (term !== undefined) this.noteLeader(claimantOf(term), term.elected && leader === undefined);
    if (leader !== undefined) this.noteLeader(leader, false);
  }

  noteLog(logId: Uint8Array, head: bigint, floor = 1n): void {
    if (this.logId !== undefined && !isSameLog(this.logId, logId)) this.forget();
    this.logId = logId;
    this.noteHead(head);
    if (floor > this.floor) this.floor = floor;
  }

  noteEntry({ logId, id, chain }: EntrySeen): void {
    // The writer of a log that was deleted may be told late.
    if (this.logId === undefined || !isSameLog(this.logId, logId)) return;
    this.noteHead(id);
    if (chain !== "" && (this.newest === undefined || id >= this.newest.id)) this.newest = { logId, id, chain };
  }

  /** The highest entry whose chain is known. It proves later that the store still has the same history. */
  get lastSeen(): EntrySeen | undefined {
    return this.newest;
  }

  /** The reading is the largest part of what is known, and the first to be out of date. */
  forgetReading(): void {
    this.reading = undefined;
  }

  noteHead(head: bigint): void {
    if (head > this.head) this.head = head;
  }

  /** Without an id: the term has ended, and nobody was named. `isVacant`: if that is known. */
  noteLeader({ id, endpoint, term }: LeaderView, isVacant?: boolean): void {
    if (id !== "" && term > this.leader.term) {
      this.leader = { id, endpoint, term };
      this.isVacant = false;
    }
    if (term === this.leader.term) this.isVacant = isVacant ?? this.isVacant;
    if (term <= this.term) return;
    this.term = term;
    this.onTerm(term);
  }

  /** Undefined: the log has not been seen. */
  recall(): LogState | undefined {
    const { logId, head, floor, leader, isVacant, reading } = this;
    if (logId === undefined) return undefined;
    return {
      logId,
      head,
      headChain: "",
      floor,
      leader,
      isVacant,
      leaseLeftMs: undefined,
      cursors: reading?.cursors ?? [],
      damagedCursors: reading?.damagedCursors ?? [],
      isDeleting: reading?.isDeleting ?? false,
      problems: [],
      observedWallMs: reading?.observedWallMs,
    };
  }

  /** Another log has come by the same name, or another history. */
  forget(): void {
    this.logId = undefined;
    this.newest = undefined;
    this.head = 0n;
    this.floor = 1n;
    this.term = 0n;
    this.leader = NOBODY;
    this.isVacant = false;
    this.reading = undefined;
  }
}
