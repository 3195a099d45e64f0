/** "; did you mean …?" for the candidate nearest to a mistyped name, or nothing when none is near. */
export function suggestion(received: string, candidates: readonly string[]): string {
  let nearestDistance = Number.POSITIVE_INFINITY;
  let nearest: string | undefined;
  // A name hundreds of characters long is no slip, and the distance costs the product of the lengths.
  if (received.length > 100) return "";
  for (const candidate of candidates) {
    const distance = editDistance(received.toLowerCase(), candidate.toLowerCase());
    // One slip in three characters still reads as a slip; beyond that a guess would mislead.
    if (distance < nearestDistance && distance <= Math.max(received.length, candidate.length) / 3) {
      nearestDistance = distance;
      nearest = candidate;
    }
  }
  return nearest === undefined ? "" : `; did you mean ${nearest}?`;
}

/** Optimal string alignment: insertions, deletions, replacements and swaps of neighbours count one each. */
export function editDistance(a: string, b: string): number {
  let beforePrevious: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let row = 1; row <= a.length; row++) {
    const current = [row];
    for (let column = 1; column <= b.length; column++) {
      const isSame = a[row - 1] === b[column - 1];
      let least = Math.min(previous[column]! + 1, current[column - 1]! + 1, previous[column - 1]! + (isSame ? 0 : 1));
      if (row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1]) {
        least = Math.min(least, beforePrevious[column - 2]! + 1);
      }
      current.push(least);
    }
    beforePrevious = previous;
    previous = current;
  }
  return previous[b.length]!;
}
