import { batchFrame, type Coverage, type EntryFilter, filterBody, splitRun } from "../oplog/batch-frame.js";
import { type EntryRun, type Origin, UNKNOWN_ORIGIN } from "../oplog/record.js";

/** A filter that lets nothing through still proves progress this often. */
const COVERED_ENTRIES_MAX = 10_000n;

/** Puts runs together into frames of about `targetBytes`, never above `bytesMax` unless one entry is larger. */
export class FrameAssembler {
  private bodies: Buffer[] = [];
  private bytes = 0;
  private first: bigint;
  private newest: Origin = UNKNOWN_ORIGIN;
  next: bigint;

  constructor(
    next: bigint,
    private readonly targetBytes: number,
    private readonly bytesMax: number,
    private readonly filter: EntryFilter | undefined,
    /** False: it has been sent, and no more is to be added. */
    private readonly send: (frame: Buffer, coverage: Coverage) => Promise<boolean>,
  ) {
    this.first = next;
    this.next = next;
  }

  /** False: of the run only what comes before `next` has been added. */
  async add(run: EntryRun): Promise<boolean> {
    for (const part of splitRun(run, this.bytesMax)) {
      const body = this.filter === undefined ? part.body : filterBody(part.body, this.filter);
      if (this.bytes > 0 && this.bytes + body.length > this.bytesMax && !(await this.flush())) return false;
      if (body.length > 0) this.bodies.push(body);
      this.bytes += body.length;
      this.next = part.last + 1n;
      // The part itself would keep its record in memory.
      this.newest = { term: part.term, chain: part.chain };
      const covered = this.next - this.first;
      const isFull = this.bytes >= this.targetBytes && this.bytes > 0;
      const isDue = this.filter !== undefined && covered >= COVERED_ENTRIES_MAX;
      if ((isFull || isDue) && !(await this.flush())) return false;
    }
    return true;
  }

  async flush(): Promise<boolean> {
    if (this.next === this.first) return true;
    const { term, chain } = this.newest;
    const coverage = { first: this.first, last: this.next - 1n, term, chain };
    const frame = batchFrame(this.bodies, coverage);
    this.bodies = [];
    this.bytes = 0;
    this.first = this.next;
    return this.send(frame, coverage);
  }
}
