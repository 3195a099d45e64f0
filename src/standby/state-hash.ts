import { hash } from "node:crypto";

export const STATE_HASH_BYTES = 32;

/**
 * Hash of a set of parts, independent of their order and kept up to date as parts come and go: the SHA-256 of each part,
 * read as four little-endian 64-bit integers, added up lane by lane modulo 2^64. The empty set is all zero.
 *
 * Finds accidents of every kind. It is no defence against somebody who chooses the parts in order to collide.
 */
export class StateHash {
  /** Eight halves of lanes, the lower one first. */
  private readonly sum = new Uint32Array(STATE_HASH_BYTES / 4);
  private readonly digest = Buffer.alloc(STATE_HASH_BYTES);

  add(part: Uint8Array): void {
    this.accumulate(part, 1);
  }

  subtract(part: Uint8Array): void {
    this.accumulate(part, -1);
  }

  bytes(): Buffer {
    const bytes = Buffer.alloc(STATE_HASH_BYTES);
    for (const [index, half] of this.sum.entries()) bytes.writeUInt32LE(half, index * 4);
    return bytes;
  }

  private accumulate(part: Uint8Array, sign: 1 | -1): void {
    const { digest } = this;
    // A string takes a third of the time here: a Buffer is allocated outside of the heap, which is slow.
    digest.write(hash("sha256", part, "binary"), "latin1");
    for (let half = 0; half < this.sum.length; half += 2) {
      const low = this.sum[half]! + sign * digest.readUInt32LE(half * 4);
      const carry = low < 0 ? -1 : low > 0xffff_ffff ? 1 : 0;
      // Storing into 32 bits is what takes the modulus.
      this.sum[half] = low;
      this.sum[half + 1] = this.sum[half + 1]! + sign * digest.readUInt32LE(half * 4 + 4) + carry;
    }
  }
}
