/** What is left of the time that a call may take, however many steps it has. */
export class Deadline {
  private readonly endsAt: number;

  constructor(readonly totalMs: number) {
    this.endsAt = performance.now() + totalMs;
  }

  get remainingMs(): number {
    return Math.max(0, this.endsAt - performance.now());
  }

  /** As gRPC wants it, for at most `shareMs` of what is left. */
  wallMs(shareMs = this.remainingMs): number {
    return Date.now() + Math.min(shareMs, this.remainingMs);
  }
}
