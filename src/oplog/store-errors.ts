import { OplogError } from "./errors.js";

// What is answered when the store does not do its part.

export class StoreUnavailableError extends OplogError {
  /** `consequence`: what that means for the call. */
  constructor(unreachableMs: number, consequence: string) {
    super(
      "UNAVAILABLE",
      "STORE_UNREACHABLE",
      `the store has not answered for ${unreachableMs} ms; ${consequence}`,
      { unreachable_ms: unreachableMs },
      1000,
    );
  }
}

/** The store answers, and says no: no space left, no permission, a version that loses data. Nothing was done. */
export class StoreRefusalError extends OplogError {
  constructor(problem: string) {
    super("RESOURCE_EXHAUSTED", "STORE_REFUSED", `the store refuses: ${problem}`, {}, 5000);
  }
}

/** What the store keeps is damaged or gone. Trying again does not help; the message says where and what to do. */
export class StoreLostError extends OplogError {
  constructor(problem: string) {
    super("DATA_LOSS", "STORE_DAMAGED", problem);
  }
}

/** The store is not the one whose logs were seen. Nothing was done, and nothing is until an operator says so. */
export class StoreReplacedRefusal extends OplogError {
  constructor(problem: string) {
    super("FAILED_PRECONDITION", "STORE_REPLACED", problem);
  }
}

/** What has been seen of the log may not be true any more; who asks again is told. */
export class StoreAdoptedError extends OplogError {
  constructor() {
    super(
      "UNAVAILABLE",
      "STORE_ADOPTED",
      "the store has been adopted as it is now; nothing was written, try again to go on",
      {},
      10,
    );
  }
}
