/** A page may have so many times as many pairs as the one before. */
const GROWTH_MAX = 4;
const RANGES_MAX = 1_000;

/**
 * How many pairs to ask for at once. etcd bounds an answer by count alone, and builds it whole in memory. So the count
 * follows the size of what was read last of the same range. A range is known by its end.
 */
export class PageSize {
  /** By the end of the range; those used last come last. */
  private readonly known = new Map<string, number>();

  /** `pairsMax`: whatever is known, for larger ones may follow. */
  constructor(
    private readonly pairsAtFirst: number,
    private readonly pairsMax: number,
  ) {}

  pairsFor(rangeEnd: string, limit: number): number {
    return Math.min(limit, this.known.get(rangeEnd) ?? this.pairsAtFirst);
  }

  /** So many pairs came, of so many bytes. `bytesWanted`: of a page. */
  came(rangeEnd: string, pairs: number, bytes: number, bytesWanted: number): void {
    if (pairs === 0) return;
    const fitting = Math.floor(bytesWanted / (bytes / pairs + 1));
    const grown = Math.max(pairs * GROWTH_MAX, this.pairsFor(rangeEnd, this.pairsMax));
    this.note(rangeEnd, Math.min(fitting, grown, this.pairsMax));
  }

  /** A page of so many pairs is too much for a message. False when it cannot be made smaller. */
  shrinkFrom(rangeEnd: string, pairs: number): boolean {
    if (pairs <= 1) return false;
    this.note(rangeEnd, Math.floor(pairs / 8));
    return true;
  }

  private note(rangeEnd: string, pairs: number): void {
    this.known.delete(rangeEnd);
    this.known.set(rangeEnd, Math.max(1, pairs));
    for (const oldest of this.known.keys()) {
      if (this.known.size <= RANGES_MAX) break;
      this.known.delete(oldest);
    }
  }
}
