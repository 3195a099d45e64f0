import type { Location } from "./slabs.js";

const SHARD_BITS = 10;
export const SHARDS = 1 << SHARD_BITS;
const SLOTS_MIN = 8;
const LOAD_MAX = 0.75;
/** A slot holds location + 1. */
const EMPTY = 0;

/** What the index needs to know of records, which it only points to. */
export interface IndexedRecords {
  /** The hash under which the record was put. */
  hashAt(location: Location): number;
}

/**
 * From the hash of a key to where its record is: open addressing with linear probing, 4 bytes a slot. In SHARDS tables
 * that grow one by one, so that no single put pays for all keys; a key stays in its shard for ever.
 */
export class KeyIndex {
  size = 0;
  private readonly shards: Shard[] = Array.from({ length: SHARDS }, () => ({
    slots: new Uint32Array(SLOTS_MIN),
    count: 0,
  }));

  constructor(private readonly records: IndexedRecords) {}

  /** The first record with this hash that matches. */
  find(hash: number, matches: (location: Location) => boolean): Location | undefined {
    const { slots } = this.shardOf(hash);
    const mask = slots.length - 1;
    for (let at = hash & mask; slots[at] !== EMPTY; at = (at + 1) & mask) {
      const location = slots[at]! - 1;
      if (this.records.hashAt(location) === hash && matches(location)) return location;
    }
    return undefined;
  }

  /** Of a key that is not there yet. */
  insert(hash: number, location: Location): void {
    const shard = this.shardOf(hash);
    if (shard.count + 1 > shard.slots.length * LOAD_MAX) this.grow(shard);
    place(shard.slots, hash, location);
    shard.count++;
    this.size++;
  }

  replace(hash: number, from: Location, to: Location): void {
    this.shardOf(hash).slots[this.slotOf(hash, from)] = to + 1;
  }

  contains(hash: number, location: Location): boolean {
    return this.slotOf(hash, location) !== -1;
  }

  /** While the record can still be read. */
  remove(hash: number, location: Location): void {
    const shard = this.shardOf(hash);
    const { slots } = shard;
    const mask = slots.length - 1;
    let hole = this.slotOf(hash, location);
    // Whatever was pushed beyond the hole by collisions moves back, so that probing never stops short of it.
    for (let at = (hole + 1) & mask; slots[at] !== EMPTY; at = (at + 1) & mask) {
      const home = this.records.hashAt(slots[at]! - 1) & mask;
      if (((at - home) & mask) >= ((at - hole) & mask)) {
        slots[hole] = slots[at]!;
        hole = at;
      }
    }
    slots[hole] = EMPTY;
    shard.count--;
    this.size--;
  }

  /** The different hashes in one shard, at this moment, ascending. */
  hashesOf(shard: number): Uint32Array {
    const hashes = new Uint32Array(this.shards[shard]!.count);
    let count = 0;
    for (const slot of this.shards[shard]!.slots) if (slot !== EMPTY) hashes[count++] = this.records.hashAt(slot - 1);
    hashes.sort();
    return hashes.filter((hash, index) => index === 0 || hash !== hashes[index - 1]);
  }

  /** Of one shard, while nothing changes. */
  *locationsOf(shard: number): Generator<Location> {
    for (const slot of this.shards[shard]!.slots) if (slot !== EMPTY) yield slot - 1;
  }

  private slotOf(hash: number, location: Location): number {
    const { slots } = this.shardOf(hash);
    const mask = slots.length - 1;
    for (let at = hash & mask; slots[at] !== EMPTY; at = (at + 1) & mask) if (slots[at] === location + 1) return at;
    return -1;
  }

  private grow(shard: Shard): void {
    const slots = new Uint32Array(shard.slots.length * 2);
    for (const slot of shard.slots) if (slot !== EMPTY) place(slots, this.records.hashAt(slot - 1), slot - 1);
    shard.slots = slots;
  }

  private shardOf(hash: number): Shard {
    return this.shards[hash >>> (32 - SHARD_BITS)]!;
  }
}

interface Shard {
  /** As many as a power of two. */
  slots: Uint32Array;
  count: number;
}

function place(slots: Uint32Array, hash: number, location: Location): void {
  const mask = slots.length - 1;
  let at = hash & mask;
  while (slots[at] !== EMPTY) at = (at + 1) & mask;
  slots[at] = location + 1;
}
