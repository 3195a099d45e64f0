/** Where time and chance come from. A simulation hands in its own; nothing else in the pure rooms knows of either. */
export interface Clock {
  /** Unix milliseconds; may jump. Only ever shown or stored, never compared with a deadline. */
  wallMs(): number;
  /** Milliseconds since some fixed point; never jumps. */
  monotonicMs(): number;
  /** Calls `run` once, after `ms`. The process stays alive for it, unless `isIdle`. */
  setTimer(ms: number, run: () => void, isIdle?: boolean): Timer;
  /** Resolves when everything else that is ready has had its turn. */
  yieldTurn(): Promise<void>;
  /** At least 0, below 1. Spreads attempts of several processes; no secret. */
  random(): number;
}

export interface Timer {
  /** Nothing happens when it has fired or was cancelled before. */
  cancel(): void;
}

export const systemClock: Clock = {
  wallMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  setTimer(ms, run, isIdle = false) {
    const timeout = setTimeout(run, ms);
    if (isIdle) timeout.unref();
    return { cancel: () => clearTimeout(timeout) };
  },
  yieldTurn: () => new Promise((resolve) => setImmediate(resolve)),
  random: () => Math.random(),
};
