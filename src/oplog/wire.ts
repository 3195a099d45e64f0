/**
 * Protobuf wire primitives for the hot paths, where entries pass as bytes and no object is built for them.
 * Positions are byte offsets into a buffer; a malformed input throws WireError.
 */
export class WireError extends Error {
  constructor(problem: string) {
    super(problem);
    this.name = "WireError";
  }
}

export const WIRE_VARINT = 0;
export const WIRE_FIXED64 = 1;
export const WIRE_BYTES = 2;
export const WIRE_FIXED32 = 5;

/** Reads forward through one message; `position` stands after what was read. */
export class WireReader {
  constructor(
    readonly bytes: Buffer,
    public position = 0,
    readonly end = bytes.length,
  ) {}

  get isAtEnd(): boolean {
    return this.position >= this.end;
  }

  /** A tag: field number << 3 | wire type. */
  tag(): number {
    const tag = this.short();
    if (tag >>> 3 === 0) throw new WireError("field number 0");
    return tag;
  }

  /** A varint of which only the low 32 bits count, as of an enum. */
  uint32(): number {
    const first = this.byte();
    if (first < 0x80) return first;
    this.position--;
    return Number(BigInt.asUintN(32, this.uint64()));
  }

  uint64(): bigint {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.byte();
      if (shift === 63n && byte > 1) break;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    throw new WireError("a varint of more than 64 bits");
  }

  /** A varint as a number, exact up to 2^53 and rounded beyond; a fraction of the cost of uint64. */
  number(): number {
    let value = 0;
    for (let index = 0, factor = 1; index < 10; index++, factor *= 0x80) {
      const byte = this.byte();
      if (index === 9 && byte > 1) break;
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) return value;
    }
    throw new WireError("a varint of more than 64 bits");
  }

  fixed32(): number {
    const at = this.take(4);
    return this.bytes.readUInt32LE(at);
  }

  /** Steps over a length-delimited field and returns where its content starts; it ends at `position`. */
  span(): number {
    return this.take(this.short());
  }

  skip(wireType: number): void {
    if (wireType === WIRE_VARINT) this.uint64();
    else if (wireType === WIRE_BYTES) this.span();
    else if (wireType === WIRE_FIXED32) this.take(4);
    else if (wireType === WIRE_FIXED64) this.take(8);
    else throw new WireError(`wire type ${wireType}`);
  }

  /** A varint of at most 32 bits in at most 5 bytes: more than that, decoders differ on what it means. */
  private short(): number {
    const first = this.byte();
    if (first < 0x80) return first;
    let value = first & 0x7f;
    for (let shift = 7; shift < 35; shift += 7) {
      const byte = this.byte();
      if (shift === 28 && byte > 0x0f) break;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value >>> 0;
    }
    throw new WireError("a tag or length of more than 32 bits");
  }

  private byte(): number {
    if (this.position >= this.end) throw new WireError("the message is cut short");
    return this.bytes[this.position++]!;
  }

  private take(length: number): number {
    const at = this.position;
    if (length > this.end - at) throw new WireError("the message is cut short");
    this.position = at + length;
    return at;
  }
}

export function varintBytes(value: number): number {
  let bytes = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes++;
  return bytes;
}

/** Writes a safe integer and returns the position after it. */
export function writeVarint(target: Buffer, position: number, value: number): number {
  let rest = value;
  while (rest >= 0x80) {
    target[position++] = (rest % 0x80) | 0x80;
    rest = rest < 0x80000000 ? rest >>> 7 : Math.floor(rest / 0x80);
  }
  target[position++] = rest;
  return position;
}
