import { expect, it } from "vitest";
import { type Location, Slabs } from "../../src/standby/slabs.js";

const MiB = 1024 * 1024;

/** A record here is its length and a number. */
const measure = (slab: Buffer, offset: number) => slab.readUInt32LE(offset);

class Records {
  readonly slabs = new Slabs(measure);
  readonly byNumber = new Map<number, Location>();
  moves = 0;

  add(number: number, bytes: number): void {
    const location = this.slabs.allocate(bytes);
    this.slabs.bytesOf(location).writeUInt32LE(bytes, this.slabs.offsetOf(location));
    this.slabs.bytesOf(location).writeUInt32LE(number, this.slabs.offsetOf(location) + 4);
    this.byNumber.set(number, location);
  }

  release(number: number): void {
    this.slabs.release(this.byNumber.get(number)!);
    this.byNumber.delete(number);
  }

  collect(): void {
    this.slabs.collect(
      (location) => this.byNumber.get(this.numberAt(location)) === location,
      (from, to) => {
        expect(this.byNumber.get(this.numberAt(to))).toBe(from);
        this.byNumber.set(this.numberAt(to), to);
        this.moves++;
      },
    );
  }

  get liveBytes(): number {
    const sizes = [...this.byNumber.values()].map((location) =>
      measure(this.slabs.bytesOf(location), this.slabs.offsetOf(location)),
    );
    return sizes.reduce((sum, bytes) => sum + Math.ceil(bytes / 8) * 8, 0);
  }

  numberAt(location: Location): number {
    return this.slabs.bytesOf(location).readUInt32LE(this.slabs.offsetOf(location) + 4);
  }
}

it.each([
  ["small records", 300, 40_000],
  ["records of every size", 900_000, 60],
])("moves %s together, loses none, and keeps garbage below its bound", (_, bytesMax, kept) => {
  const records = new Records();
  let seed = 3;
  const below = (bound: number) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * bound);
  };
  for (let number = 0; number < kept * 8; number++) {
    records.add(number, 8 + below(bytesMax));
    // What stays is spread over all slabs, so that none becomes empty by itself.
    if (number >= kept) {
      const victim = number - kept + below(kept);
      if (records.byNumber.has(victim)) records.release(victim);
    }
    if (number % 16 === 0) {
      records.collect();
      const { liveBytes, reservedBytes } = records.slabs;
      expect(reservedBytes - liveBytes).toBeLessThanOrEqual(Math.max(liveBytes / 2, 8 * MiB));
    }
  }
  expect(records.moves).toBeGreaterThan(0);
  expect(records.slabs.liveBytes).toBe(records.liveBytes);
  for (const [number, location] of records.byNumber) expect(records.numberAt(location)).toBe(number);

  for (const number of [...records.byNumber.keys()]) records.release(number);
  records.collect();
  expect(records.slabs.liveBytes).toBe(0);
  expect(records.slabs.reservedBytes).toBeLessThanOrEqual(4 * MiB);
});
