const SLAB_BYTES = 64 * 1024;
/** A larger one gets memory of its own, so that a slab is never left with more than this unused. */
const SHARED_BYTES_MAX = SLAB_BYTES / 4;

/**
 * Copies of small byte strings, one after the other in shared memory. For what is kept for long and dropped in about the
 * order in which it came: a slab is freed once all of it has been dropped.
 *
 * An allocation of its own costs a small one several times its size. One from the pool of Node keeps alive whatever else
 * was taken from the pool at that time.
 */
export class Arena {
  private slab = Buffer.alloc(0);
  private used = 0;

  copy(bytes: Uint8Array): Buffer {
    const { length } = bytes;
    if (length > SHARED_BYTES_MAX) {
      const own = Buffer.allocUnsafeSlow(length);
      own.set(bytes);
      return own;
    }
    if (length > this.slab.length - this.used) {
      this.slab = Buffer.allocUnsafeSlow(SLAB_BYTES);
      this.used = 0;
    }
    this.slab.set(bytes, this.used);
    this.used += length;
    return this.slab.subarray(this.used - length, this.used);
  }
}

/** Whether a buffer of so many bytes is better copied into an arena when it is kept. */
export function isSmall(bytes: number): boolean {
  return bytes <= SHARED_BYTES_MAX;
}
