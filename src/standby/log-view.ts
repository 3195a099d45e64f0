import type { FeedView } from "../log/contract.js";
import type { Divergence } from "./hash-comparison.js";
import type { LifeState, Phase, Sight } from "./life-cycle.js";
import type { PhaseChange } from "./life-record.js";
import type { StateEntry } from "./standby-state.js";

/** The last value of a key, and when the lease of the object ends: Unix milliseconds; 0 = there is none. */
export interface ViewEntry extends StateEntry {
  readonly leaseUntilMs: number;
}

/** The whole of a state at one entry. */
export interface StateSummary {
  /** The last entry applied; 0 = none. */
  readonly applied: number;
  /** See GetStateHash in standby.proto. */
  readonly stateHash: Buffer;
  readonly keys: number;
  /** Memory that holds keys and payloads. */
  readonly bytes: number;
  readonly keyOrderViolations: number;
}

export interface ScanEnd {
  /** Applied before the scan began, and when it ended. If they are equal, the scan is the state at exactly that entry. */
  readonly start: number;
  readonly end: StateSummary;
}

/**
 * The port to the state of one log, wherever that is kept. Calls may run concurrently, and while entries are applied. Each
 * call answers from the state at one entry, and rejects with ViewFailedError once the state cannot be relied on.
 */
export interface StateReader {
  /** `entry` undefined: the key is not held at `applied`. */
  get(key: Buffer): Promise<{ readonly entry: ViewEntry | undefined; readonly applied: number }>;

  summary(): Promise<StateSummary>;

  /**
   * Every key, in no particular order, in parts of about `partBytes`. Entries go on being applied between two parts: see
   * ScanState in standby.proto. The return value comes last; undefined: the signal has aborted.
   */
  scan(partBytes: number, signal: AbortSignal): AsyncGenerator<ViewEntry[], ScanEnd | undefined>;

  /**
   * The same at exactly one entry, the one applied last when it begins: no entry is applied until it has ended, so that
   * the view falls behind for as long. A promotion does not wait for it: it rejects with ImageAbandonedError.
   */
  image(partBytes: number, signal: AbortSignal): AsyncGenerator<ViewEntry[], StateSummary | undefined>;

  /** Of the keys, those that are not held. Never shortens a lease. */
  renewLeases(keys: readonly string[], leaseMs: number): Promise<string[]>;
}

/** A candidate here is to lead, which needs the state to go on. */
export class ImageAbandonedError extends Error {
  constructor(log: string, applied: number) {
    super(`the image of log "${log}" at ${applied} was given up: a candidate here is to lead`);
    this.name = "ImageAbandonedError";
  }
}

/** A state that follows its log, for those who show it, and for a candidate that is to lead with it. */
export interface LogView {
  readonly name: string;
  readonly reader: StateReader;
  /** Undefined: no object is ever removed. */
  readonly leaseDefaultMs: number | undefined;

  // What is known without asking, of one moment.
  readonly phase: Phase;
  readonly lifeState: LifeState;
  /** The newest changes of phase, at most 64, oldest first. */
  readonly history: readonly PhaseChange[];
  readonly applied: number;
  /** Of that entry, in hex; "" = not known. */
  readonly appliedChain: string;
  readonly keys: number;
  readonly head: bigint;
  /** How the view and the log stand to each other. */
  readonly sight: Sight;
  readonly feedView: FeedView | undefined;
  /** Identity of the log that has been applied; empty = nothing yet. */
  readonly logId: Uint8Array;
  /** Entries applied per second at present; undefined = none of late. */
  readonly appliedPerSecond: number | undefined;

  /** Consumers whose states are not that of the view at the same entry. */
  readonly divergences: readonly Divergence[];
  /** A consumer has reported the hash of its state at an entry. */
  compareHash(consumer: string, id: bigint, hash: Uint8Array): void;

  /** Throws ViewFailedError once the view has stopped for good. */
  requireWorking(): this;
  /**
   * For a candidate here that has won. Resolves as soon as exactly `final`, the last entry of all terms before, has been
   * applied. Rejects with ViewFailedError when the view has failed, fails, or holds more than `final`, and with the reason
   * of the signal as soon as that aborts. `promoted` or `demoted` must follow.
   */
  promote(final: bigint, signal: AbortSignal): Promise<void>;
  promoted(): void;
  demoted(): void;
  /** True as soon as `id` has been applied; false when it has not within that time, or the view fails, or on abort. */
  awaitApplied(id: number, signal: AbortSignal, timeoutMs: number): Promise<boolean>;
}

/** The views of a sidecar. */
export interface LogViews {
  /** Throws NoViewError, and ViewFailedError for one that has stopped. */
  get(log: string): LogView;
  /** Also one that has stopped; undefined where none is kept. */
  find(log: string): LogView | undefined;
}
