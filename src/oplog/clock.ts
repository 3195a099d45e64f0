/** Where time comes from. */
export interface Clock {
  /** Unix milliseconds; may jump. Only ever shown or stored, never compared with a deadline. */
  wallMs(): number;
  /** Milliseconds since some fixed point; never jumps. */
  monotonicMs(): number;
}

export const systemClock: Clock = {
  wallMs: () => Date.now(),
  monotonicMs: () => performance.now(),
};
