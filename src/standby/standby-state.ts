import { randomBytes } from "node:crypto";
import { OpType } from "../gen/oplog/v1/entry_pb.js";
import { EntryReader } from "./entry-reader.js";
import { KeyIndex, SHARDS } from "./key-index.js";
import { type Location, Slabs } from "./slabs.js";
import { StateHash } from "./state-hash.js";

/** What the lease of an object is judged by. */
export interface ObjectLease {
  /** Of the PUT_END that set the value, like timestampMs. */
  readonly sequenceId: number;
  readonly timestampMs: number;
  /** End of the lease that the PUT_END brought or a renewal here granted, Unix milliseconds; 0 = none. */
  readonly ownLeaseUntilMs: number;
  /** It is a renewal. */
  readonly isRenewed: boolean;
}

/** The last value of one key. */
export interface StateEntry extends ObjectLease {
  readonly key: Buffer;
  readonly payload: Buffer;
  /** Of the last entry of the key. */
  readonly keySequenceId: bigint;
}

/** An entry whose key_sequence_id is not above the last one of its key, which has been dropped for it. */
export interface KeyOrderViolation {
  readonly key: string;
  readonly sequenceId: number;
  readonly lastKeySequenceId: bigint;
  readonly keySequenceId: bigint;
}

/** A hole or a repeat: the state stays as it was before the entry, and can take none but `expected`. */
export class StateGapError extends Error {
  constructor(
    readonly expected: number,
    readonly received: number,
  ) {
    super(`entry ${expected} comes next, and ${received} came`);
    this.name = "StateGapError";
  }
}

/**
 * The materialised state of a log: the last value of each key. What an entry does is documented at StandbyService in
 * proto/oplog/v1/standby.proto. Synchronous; between two calls it is the state at exactly `applied`.
 *
 * A key that is not held needs no memory: a removed key is forgotten, its last key_sequence_id too.
 */
export class StandbyState {
  /** The last entry applied; 0 = none. */
  applied = 0;
  appliedTerm = 0;
  /** Of the newest entry applied. */
  timestampMs = 0;
  keyOrderViolations = 0;
  /**
   * No lease that is to be ended ends earlier: a PUT_END with a lease of its own brings it forward, and whoever looks for
   * leases that have run out puts it back to the earliest that remains.
   */
  earliestLeaseMs = Number.POSITIVE_INFINITY;
  /** Called when this entry has been applied, and nothing after it; whoever is called sets the next. */
  watchedId = Number.POSITIVE_INFINITY;
  onWatched: () => void = () => undefined;
  private readonly hash = new StateHash();
  private readonly slabs = new Slabs(recordBytes);
  private readonly index = new KeyIndex({ hashAt: (location) => this.u32(location, HASH_AT) });
  private readonly seed = randomBytes(4).readUInt32LE();

  constructor(private readonly onViolation: (violation: KeyOrderViolation) => void) {}

  get keys(): number {
    return this.index.size;
  }

  /** Memory that holds keys, payloads and 44 bytes for each; the index takes 5 to 11 bytes a key besides. */
  get bytes(): number {
    return this.slabs.reservedBytes;
  }

  /** Of every key with its payload and sequence id: see GetStateHash in standby.proto. */
  get stateHash(): Buffer {
    return this.hash.bytes();
  }

  /** Applies the entries of a Batch, in order, up to the first that does not fit. Throws StateGapError and WireError. */
  apply(batch: Buffer): void {
    const entry = new EntryReader(batch);
    try {
      while (entry.next()) {
        if (entry.sequenceId !== this.applied + 1) throw new StateGapError(this.applied + 1, entry.sequenceId);
        if (entry.opType !== OpType.EVENT) this.applyEntry(entry);
        this.applied = entry.sequenceId;
        this.appliedTerm = entry.term;
        this.timestampMs = entry.timestampMs;
        if (this.applied >= this.watchedId) this.onWatched();
      }
    } finally {
      this.slabs.collect(
        (location) => this.index.contains(this.u32(location, HASH_AT), location),
        (from, to) => this.index.replace(this.u32(to, HASH_AT), from, to),
      );
    }
  }

  get(key: Buffer): StateEntry | undefined {
    const location = this.find(hashOf(key, 0, key.length, this.seed), key, 0, key.length);
    return location === undefined ? undefined : this.entryAt(location);
  }

  /**
   * Every key, in no particular order. Entries may be applied between two steps: a key that was there all the time comes
   * exactly once, with a value that it had at some moment; one that came or went meanwhile comes once or not at all.
   */
  *scan(): Generator<StateEntry> {
    for (let shard = 0; shard < SHARDS; shard++) {
      for (const hash of this.index.hashesOf(shard)) yield* this.entriesOf(hash);
    }
  }

  /** Of a key that is held. */
  leaseOf(key: Buffer): ObjectLease | undefined {
    const location = this.find(hashOf(key, 0, key.length, this.seed), key, 0, key.length);
    return location === undefined ? undefined : this.leaseAt(location);
  }

  /** Keeps the end of a renewal, instead of the lease of the PUT_END, until the next one. False: the key is not held. */
  renewLease(key: Buffer, untilMs: number): boolean {
    const location = this.find(hashOf(key, 0, key.length, this.seed), key, 0, key.length);
    if (location === undefined) return false;
    this.slabs.bytesOf(location).writeDoubleLE(-untilMs, this.slabs.offsetOf(location) + LEASE_UNTIL_MS_AT);
    return true;
  }

  /** Some lease may end at this time. */
  leasesEndFrom(untilMs: number): void {
    if (untilMs < this.earliestLeaseMs) this.earliestLeaseMs = untilMs;
  }

  /** The keys in one of SHARDS parts of the state, between which entries may be applied: a key stays in its part. */
  keysWhere(shard: number, isWanted: (lease: ObjectLease) => boolean): Buffer[] {
    const keys: Buffer[] = [];
    for (const location of this.index.locationsOf(shard)) {
      if (isWanted(this.leaseAt(location))) keys.push(this.keyAt(location));
    }
    return keys;
  }

  private applyEntry(entry: EntryReader): void {
    const hash = hashOf(entry.bytes, entry.keyStart, entry.keyEnd, this.seed);
    const held = this.find(hash, entry.bytes, entry.keyStart, entry.keyEnd);
    const last = held === undefined ? undefined : this.keySequenceIdAt(held);
    const given = entry.keySequenceId;
    const keySequenceId = given ?? keySequenceIdAfter(last);
    if (held !== undefined && last !== undefined && given !== undefined && given <= last) {
      this.keyOrderViolations++;
      this.drop(hash, held);
      const key = entry.bytes.toString("utf8", entry.keyStart, entry.keyEnd);
      this.onViolation({ key, sequenceId: entry.sequenceId, lastKeySequenceId: last, keySequenceId });
    } else if (entry.opType === OpType.PUT_END) {
      this.put(entry, hash, keySequenceId, held);
    } else if (entry.opType === OpType.REMOVE) {
      if (held !== undefined) this.drop(hash, held);
    } else if (held !== undefined) {
      const slab = this.slabs.bytesOf(held);
      slab.writeBigUInt64LE(keySequenceId, this.slabs.offsetOf(held) + KEY_SEQUENCE_ID_AT);
    }
  }

  private put(entry: EntryReader, hash: number, keySequenceId: bigint, held: Location | undefined): void {
    const keyBytes = entry.keyEnd - entry.keyStart;
    const payloadBytes = entry.payloadEnd - entry.payloadStart;
    const location = this.slabs.allocate(HEADER_BYTES + keyBytes + payloadBytes);
    const slab = this.slabs.bytesOf(location);
    const at = this.slabs.offsetOf(location);
    slab.writeUInt32LE(hash, at + HASH_AT);
    slab.writeUInt32LE(payloadBytes, at + PAYLOAD_BYTES_AT);
    slab.writeBigUInt64LE(keySequenceId, at + KEY_SEQUENCE_ID_AT);
    slab.writeDoubleLE(entry.timestampMs, at + TIMESTAMP_MS_AT);
    slab.writeDoubleLE(this.noteLease(entry), at + LEASE_UNTIL_MS_AT);
    slab.writeUInt32LE(entry.sequenceId % 2 ** 32, at + SEQUENCE_ID_AT);
    slab.writeUInt32LE(Math.floor(entry.sequenceId / 2 ** 32), at + SEQUENCE_ID_AT + 4);
    slab.writeUInt32LE(keyBytes, at + KEY_BYTES_AT);
    entry.bytes.copy(slab, at + HEADER_BYTES, entry.keyStart, entry.keyEnd);
    entry.bytes.copy(slab, at + HEADER_BYTES + keyBytes, entry.payloadStart, entry.payloadEnd);
    this.hash.add(this.hashedPart(location));
    if (held === undefined) {
      this.index.insert(hash, location);
    } else {
      this.hash.subtract(this.hashedPart(held));
      this.index.replace(hash, held, location);
      this.slabs.release(held);
    }
  }

  private noteLease({ timestampMs, leaseMs }: EntryReader): number {
    if (leaseMs === 0) return 0;
    const untilMs = timestampMs + leaseMs;
    this.leasesEndFrom(untilMs);
    return untilMs;
  }

  private drop(hash: number, location: Location): void {
    this.hash.subtract(this.hashedPart(location));
    this.index.remove(hash, location);
    this.slabs.release(location);
  }

  private find(hash: number, source: Buffer, start: number, end: number): Location | undefined {
    return this.index.find(hash, (location) => {
      if (this.u32(location, KEY_BYTES_AT) !== end - start) return false;
      const at = this.slabs.offsetOf(location) + HEADER_BYTES;
      return this.slabs.bytesOf(location).compare(source, start, end, at, at + end - start) === 0;
    });
  }

  private entriesOf(hash: number): StateEntry[] {
    const entries: StateEntry[] = [];
    this.index.find(hash, (location) => {
      entries.push(this.entryAt(location));
      return false;
    });
    return entries;
  }

  /** A copy: the record itself may move. */
  private entryAt(location: Location): StateEntry {
    const slab = this.slabs.bytesOf(location);
    const at = this.slabs.offsetOf(location);
    const payloadAt = at + HEADER_BYTES + slab.readUInt32LE(at + KEY_BYTES_AT);
    return {
      key: this.keyAt(location),
      payload: Buffer.from(slab.subarray(payloadAt, payloadAt + slab.readUInt32LE(at + PAYLOAD_BYTES_AT))),
      keySequenceId: this.keySequenceIdAt(location),
      ...this.leaseAt(location),
    };
  }

  private keyAt(location: Location): Buffer {
    const slab = this.slabs.bytesOf(location);
    const at = this.slabs.offsetOf(location);
    return Buffer.from(slab.subarray(at + HEADER_BYTES, at + HEADER_BYTES + slab.readUInt32LE(at + KEY_BYTES_AT)));
  }

  private leaseAt(location: Location): ObjectLease {
    const slab = this.slabs.bytesOf(location);
    const at = this.slabs.offsetOf(location);
    const leaseUntilMs = slab.readDoubleLE(at + LEASE_UNTIL_MS_AT);
    return {
      sequenceId: slab.readUInt32LE(at + SEQUENCE_ID_AT) + slab.readUInt32LE(at + SEQUENCE_ID_AT + 4) * 2 ** 32,
      timestampMs: slab.readDoubleLE(at + TIMESTAMP_MS_AT),
      ownLeaseUntilMs: Math.abs(leaseUntilMs),
      isRenewed: leaseUntilMs < 0,
    };
  }

  private hashedPart(location: Location): Buffer {
    const slab = this.slabs.bytesOf(location);
    const at = this.slabs.offsetOf(location);
    return slab.subarray(at + SEQUENCE_ID_AT, at + recordBytes(slab, at));
  }

  private keySequenceIdAt(location: Location): bigint {
    return this.slabs.bytesOf(location).readBigUInt64LE(this.slabs.offsetOf(location) + KEY_SEQUENCE_ID_AT);
  }

  private u32(location: Location, field: number): number {
    return this.slabs.bytesOf(location).readUInt32LE(this.slabs.offsetOf(location) + field);
  }
}

/*
 * A record, little-endian. From the sequence id on it is what the state hash is made of. A
 * lease that is a renewal is negative.
 *
 *   0  hash of the key      u32        24  end of the lease   f64
 *   4  bytes of payload     u32        32  sequence id        u64
 *   8  key sequence id      u64        40  bytes of the key   u32
 *  16  timestamp in ms      f64        44  key, payload
 */
const HASH_AT = 0;
const PAYLOAD_BYTES_AT = 4;
const KEY_SEQUENCE_ID_MAX = 2n ** 64n - 1n;
const KEY_SEQUENCE_ID_AT = 8;
const TIMESTAMP_MS_AT = 16;
const LEASE_UNTIL_MS_AT = 24;
const SEQUENCE_ID_AT = 32;
const KEY_BYTES_AT = 40;
const HEADER_BYTES = 44;

function recordBytes(slab: Buffer, offset: number): number {
  return HEADER_BYTES + slab.readUInt32LE(offset + KEY_BYTES_AT) + slab.readUInt32LE(offset + PAYLOAD_BYTES_AT);
}

/** FNV-1a from a seed, finished as MurmurHash3 does, since the index takes its shards from the high bits. */
function hashOf(source: Buffer, start: number, end: number, seed: number): number {
  let hash = 0x811c9dc5 ^ seed;
  for (let at = start; at < end; at++) hash = Math.imul(hash ^ source[at]!, 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/** Of an entry that names none: its place in the log says that it comes after, also where there is no higher number. */
function keySequenceIdAfter(last: bigint | undefined): bigint {
  if (last === undefined) return 1n;
  return last < KEY_SEQUENCE_ID_MAX ? last + 1n : last;
}
