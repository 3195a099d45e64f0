const PAIRS_AT_FIRST = 256;
const PAIRS_MAX = 10_000;
/** A page below it may grow, one above four times it shrinks. */
const BYTES_WANTED = 4 * 1024 * 1024;

/**
 * How many pairs with values to ask for at once. etcd bounds an answer by count alone, and builds it whole in memory:
 * 10,000 large records would be gigabytes. So the count follows the size of what was read last.
 */
export class PageSize {
  private pairs = PAIRS_AT_FIRST;

  pairsFor(limit: number): number {
    return Math.min(limit, this.pairs);
  }

  /** A page came in whole. */
  came(pairs: number, bytes: number): void {
    if (bytes > 4 * BYTES_WANTED) this.shrinkFrom(pairs);
    else if (pairs >= this.pairs && bytes < BYTES_WANTED) this.pairs = Math.min(PAIRS_MAX, this.pairs * 2);
  }

  /** A page of so many pairs is too much. False when it cannot be made smaller. */
  shrinkFrom(pairs: number): boolean {
    if (pairs <= 1) return false;
    this.pairs = Math.max(1, Math.floor(pairs / 8));
    return true;
  }
}
