import { TooManyError } from "../oplog/errors.js";

const RETRY_MS = 1000;

/** How many calls of the methods that share it may be open at once. */
export class CallLimit {
  open = 0;

  constructor(
    /** As refusals and metrics name them. */
    readonly what: string,
    private readonly max: number,
  ) {}

  /** Throws TooManyError; else `leave` is to follow. */
  enter(): void {
    if (this.open >= this.max) throw new TooManyError(this.what, this.max, RETRY_MS);
    this.open++;
  }

  leave(): void {
    this.open--;
  }
}
