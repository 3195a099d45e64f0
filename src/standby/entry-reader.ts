import { WIRE_BYTES, WIRE_VARINT, WireError, WireReader } from "../oplog/wire.js";

const TAG_ENTRIES = (1 << 3) | WIRE_BYTES;
const TAG_SEQUENCE_ID = (1 << 3) | WIRE_VARINT;
const TAG_TERM = (2 << 3) | WIRE_VARINT;
const TAG_TIMESTAMP_MS = (3 << 3) | WIRE_VARINT;
const TAG_OP_TYPE = (4 << 3) | WIRE_VARINT;
const TAG_KEY = (5 << 3) | WIRE_BYTES;
const TAG_PAYLOAD = (6 << 3) | WIRE_BYTES;
const TAG_KEY_SEQUENCE_ID = (7 << 3) | WIRE_VARINT;
const TAG_LEASE_MS = (10 << 3) | WIRE_VARINT;

/**
 * Reads the entries of a Batch one by one into its own fields: no object is built for an entry. What the batch says of
 * itself after them is passed over. Throws WireError.
 */
export class EntryReader {
  sequenceId = 0;
  term = 0;
  timestampMs = 0;
  opType = 0;
  keyStart = 0;
  keyEnd = 0;
  payloadStart = 0;
  payloadEnd = 0;
  /** Undefined: the master gave none. */
  keySequenceId: bigint | undefined;
  /** 0 = none. */
  leaseMs = 0;
  private readonly outer: WireReader;

  constructor(readonly bytes: Buffer) {
    this.outer = new WireReader(bytes);
  }

  /** False at the end. */
  next(): boolean {
    while (!this.outer.isAtEnd) {
      const tag = this.outer.tag();
      if (tag === TAG_ENTRIES) {
        const start = this.outer.span();
        this.read(new WireReader(this.bytes, start, this.outer.position));
        return true;
      }
      this.outer.skip(tag & 7);
    }
    return false;
  }

  private read(reader: WireReader): void {
    this.sequenceId = 0;
    this.term = 0;
    this.timestampMs = 0;
    this.opType = 0;
    this.keyStart = this.keyEnd = 0;
    this.payloadStart = this.payloadEnd = 0;
    this.keySequenceId = undefined;
    this.leaseMs = 0;
    while (!reader.isAtEnd) {
      const tag = reader.tag();
      switch (tag) {
        case TAG_SEQUENCE_ID:
          this.sequenceId = safeInteger(reader);
          break;
        case TAG_TERM:
          this.term = safeInteger(reader);
          break;
        case TAG_TIMESTAMP_MS:
          this.timestampMs = safeInteger(reader);
          break;
        case TAG_OP_TYPE:
          this.opType = reader.uint32();
          break;
        case TAG_KEY:
          this.keyStart = reader.span();
          this.keyEnd = reader.position;
          break;
        case TAG_PAYLOAD:
          this.payloadStart = reader.span();
          this.payloadEnd = reader.position;
          break;
        case TAG_KEY_SEQUENCE_ID:
          this.keySequenceId = reader.uint64();
          break;
        case TAG_LEASE_MS:
          this.leaseMs = safeInteger(reader);
          break;
        default:
          reader.skip(tag & 7);
      }
    }
  }
}

/** What a sidecar stamps is below 2^53; as a number it costs a tenth of what a bigint does. */
function safeInteger(reader: WireReader): number {
  let value = 0;
  for (let factor = 1; reader.position < reader.end; factor *= 0x80) {
    const byte = reader.bytes[reader.position++]!;
    value += (byte & 0x7f) * factor;
    if (value > Number.MAX_SAFE_INTEGER) throw new WireError("an id or a time beyond 2^53");
    if (byte < 0x80) return value;
  }
  throw new WireError("the message is cut short");
}
