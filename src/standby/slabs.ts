const SLAB_BYTES = 4 * 1024 * 1024;
/** Records start at multiples of this, so that a location of 32 bits reaches 32 GiB. */
const ALIGNMENT = 8;
const UNITS_PER_SLAB = SLAB_BYTES / ALIGNMENT;
const SLABS_MAX = 2 ** 32 / UNITS_PER_SLAB;
/** More garbage than half of what is alive, and than this, is collected. */
const GARBAGE_BYTES_MIN = 2 * SLAB_BYTES;

/** Where a record is, in units of ALIGNMENT. Holds until the next `collect`. */
export type Location = number;

/** How many bytes the record at this offset of a slab has. */
export type Measure = (slab: Buffer, offset: number) => number;

interface Slab {
  readonly bytes: Buffer;
  used: number;
  live: number;
}

/**
 * Records of any size in few large buffers outside of the heap, where millions of them cost the garbage collector of
 * JavaScript nothing. Space is given out in a row. A slab with nothing alive in it is freed at once; `collect` frees others,
 * by moving what is still alive out of the emptiest slab.
 *
 * Invariant after `collect`: garbage, to which the unused ends of slabs count, ≤ max(live / 2, GARBAGE_BYTES_MIN), and no
 * slab but the newest is empty. Records above a third of a slab would waste more; no append may hold one.
 */
export class Slabs {
  liveBytes = 0;
  reservedBytes = 0;
  private readonly slabs: (Slab | undefined)[] = [];
  private readonly freeNumbers: number[] = [];
  private active = -1;

  constructor(private readonly measure: Measure) {}

  /** The caller writes the record there at once. */
  allocate(bytes: number): Location {
    const need = aligned(bytes);
    let slab = this.slabs[this.active];
    if (slab === undefined || slab.used + need > slab.bytes.length) slab = this.open(need);
    const location = this.active * UNITS_PER_SLAB + slab.used / ALIGNMENT;
    slab.used += need;
    slab.live += need;
    this.liveBytes += need;
    return location;
  }

  release(location: Location): void {
    const number = Math.floor(location / UNITS_PER_SLAB);
    const slab = this.slabs[number]!;
    const freed = aligned(this.measure(slab.bytes, this.offsetOf(location)));
    slab.live -= freed;
    this.liveBytes -= freed;
    if (slab.live === 0 && number !== this.active) this.free(number);
  }

  bytesOf(location: Location): Buffer {
    return this.slabs[Math.floor(location / UNITS_PER_SLAB)]!.bytes;
  }

  offsetOf(location: Location): number {
    return (location % UNITS_PER_SLAB) * ALIGNMENT;
  }

  /**
   * `move(from, to)` says whether `from` is alive, after it has made everything point to `to`; called for each record of
   * a slab that is given up, with a copy of it at `to`.
   */
  collect(isAlive: (location: Location) => boolean, move: (from: Location, to: Location) => void): void {
    while (this.reservedBytes - this.liveBytes > Math.max(this.liveBytes / 2, GARBAGE_BYTES_MIN)) {
      const number = this.emptiest();
      if (number === undefined) return;
      this.empty(number, isAlive, move);
    }
  }

  private empty(
    number: number,
    isAlive: (location: Location) => boolean,
    move: (from: Location, to: Location) => void,
  ): void {
    const slab = this.slabs[number]!;
    for (let offset = 0; offset < slab.used; ) {
      const bytes = this.measure(slab.bytes, offset);
      const from = number * UNITS_PER_SLAB + offset / ALIGNMENT;
      if (isAlive(from)) {
        const to = this.allocate(bytes);
        slab.bytes.copy(this.bytesOf(to), this.offsetOf(to), offset, offset + bytes);
        move(from, to);
        this.liveBytes -= aligned(bytes);
      }
      offset += aligned(bytes);
    }
    this.free(number);
  }

  private emptiest(): number | undefined {
    let found: number | undefined;
    let leastLive = Number.POSITIVE_INFINITY;
    this.slabs.forEach((slab, number) => {
      if (slab === undefined || number === this.active || slab.live >= leastLive) return;
      // A full slab would free nothing.
      if (slab.live === slab.used && slab.used * 2 > slab.bytes.length) return;
      leastLive = slab.live;
      found = number;
    });
    return found;
  }

  private open(need: number): Slab {
    const previous = this.active;
    const number = this.freeNumbers.pop() ?? this.slabs.length;
    if (number >= SLABS_MAX) throw new Error(`the state has more than ${SLABS_MAX} slabs of ${SLAB_BYTES} bytes`);
    const slab = { bytes: Buffer.allocUnsafeSlow(Math.max(SLAB_BYTES, need)), used: 0, live: 0 };
    this.slabs[number] = slab;
    this.reservedBytes += slab.bytes.length;
    this.active = number;
    if (this.slabs[previous]?.live === 0) this.free(previous);
    return slab;
  }

  private free(number: number): void {
    this.reservedBytes -= this.slabs[number]!.bytes.length;
    this.slabs[number] = undefined;
    this.freeNumbers.push(number);
  }
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}
