interface Waiting {
  readonly bytes: number;
  readonly grant: () => void;
}

/**
 * The bytes of all requests that are held: still arriving, waiting to be read, waiting for the log, being written, waiting
 * for standbys. A request is counted with its whole length before its body is read, and until it is answered.
 */
export class RequestBudget {
  bytes = 0;
  requests = 0;
  private readonly waiting = new Set<Waiting>();

  constructor(
    readonly bytesMax: number,
    readonly requestsMax: number,
  ) {}

  /** A request that is larger than the whole budget gets in when nothing else is held. */
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

  /** A request that is still held needs so many bytes less from now on. */
  shrink(bytes: number): void {
    this.bytes -= bytes;
    if (this.waiting.size > 0) this.grantInTurn();
  }

  /**
   * Calls `grant` once there is room for so many bytes, in the order of the calls. `grant` itself takes the room. Returns a
   * function that ends the waiting.
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
