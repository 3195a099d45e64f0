import { createHash } from "node:crypto";

export interface HashedEntry {
  readonly sequenceId: bigint;
  readonly opType: number;
  readonly key: string;
  readonly payload: Uint8Array;
}

const FIXED_BYTES = 8 + 1 + 4 + 4;
const UTF8_BYTES_PER_UNIT_MAX = 3;

/**
 * SHA-256 over the entries in order, each as sequence id (8 bytes), operation type (1), length of the key (4), key,
 * length of the payload (4), payload; big-endian.
 */
export class ContentHash {
  private readonly hash = createHash("sha256");
  private buffer = Buffer.allocUnsafe(64 * 1024);

  update(entries: readonly HashedEntry[]): void {
    let at = 0;
    for (const { sequenceId, opType, key, payload } of entries) {
      this.reserve(at, FIXED_BYTES + key.length * UTF8_BYTES_PER_UNIT_MAX + payload.length);
      const { buffer } = this;
      at = buffer.writeBigUInt64BE(sequenceId, at);
      at = buffer.writeUInt8(opType, at);
      const keyBytes = buffer.write(key, at + 4);
      buffer.writeUInt32BE(keyBytes, at);
      at = buffer.writeUInt32BE(payload.length, at + 4 + keyBytes);
      buffer.set(payload, at);
      at += payload.length;
    }
    this.hash.update(this.buffer.subarray(0, at));
  }

  /** Ends it. */
  digest(): string {
    return this.hash.digest("hex");
  }

  private reserve(used: number, more: number): void {
    if (used + more <= this.buffer.length) return;
    const grown = Buffer.allocUnsafe(2 * (used + more));
    this.buffer.copy(grown, 0, 0, used);
    this.buffer = grown;
  }
}
