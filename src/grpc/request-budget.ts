interface Waiting {
  readonly bytes: number;
  readonly grant: () => void;
}

/**
 * The bytes of all requests that are held: still arriving, waiting to be read, waiting for the log, being written, waiting
 * for standbys. A request is taken in with its whole length before its body is read, and given back when it is answered.
 */
export class RequestBudget {
  bytes = 0;
  requests = 0;
  private readonly waiting = new Set<Waiting>();

  constructor(
    readonly bytesMax: number,
    readonly requestsMax: number,
  ) {}

  /** One that is larger than the whole budget passes when nothing else is held. */
  hasRoomFor(bytes: number): boolean {
    return this.requests < this.requestsMax && (this.bytes + bytes <= this.bytesMax || this.bytes === 0);
  }

  get isFull(): boolean {
    return this.bytes >= this.bytesMax || this.requests >= this.requestsMax;
  }

  take(bytes: number): void {
    this.bytes += bytes;
    this.requests++;
  }

  give(bytes: number): void {
    this.bytes -= bytes;
    this.requests--;
    if (this.waiting.size > 0) this.grantInTurn();
  }

  /** A request that is held on needs so much less memory. */
  shrink(bytes: number): void {
    this.bytes -= bytes;
    if (this.waiting.size > 0) this.grantInTurn();
  }

  /**
   * Calls `grant` once there is room for so much; the first who asked is the first who gets. Nothing is taken by it: that
   * is for `grant` to do. Returns how to wait no longer.
   */
  wait(bytes: number, grant: () => void): () => void {
    const waiting = { bytes, grant };
    this.waiting.add(waiting);
    return () => this.waiting.delete(waiting);
  }

  private grantInTurn(): void {
    for (const each of this.waiting) {
      if (each.bytes === 0 ? this.isFull : !this.hasRoomFor(each.bytes)) return;
      this.waiting.delete(each);
      each.grant();
    }
  }
}
