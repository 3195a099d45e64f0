import type { DescribeRecordResponse } from "../gen/oplog/v1/oplog_pb.js";

/** A log at one place. */
export interface HistorySource {
  /** The record that holds an entry; 0n = the last one. See DescribeRecord in oplog.proto. */
  describeRecord(sequenceId: bigint): Promise<DescribeRecordResponse>;
}

/** How one of two logs goes on after what they have in common. */
export interface Branch {
  readonly head: bigint;
  readonly floor: bigint;
  /** The record with the first entry that the other one does not have. Undefined: there is none, or it is not known. */
  readonly first: DescribeRecordResponse | undefined;
}

export type Comparison = { readonly branches: readonly [Branch, Branch]; readonly reads: number } & (
  | { readonly kind: "other logs" }
  /** Nothing contradicts: one has all that the other has. */
  | { readonly kind: "same"; readonly common: bigint }
  | { readonly kind: "parted"; readonly common: bigint }
  /** They part before this entry, where at least one of them has been trimmed. */
  | { readonly kind: "parted before"; readonly floor: bigint }
  /** They have no entry in reach that both still hold. */
  | { readonly kind: "out of reach" }
);

type Pair = readonly [DescribeRecordResponse, DescribeRecordResponse];

/**
 * Finds the last entry that two logs have in common. Each record names the one before it, so two logs that have the same
 * record are the same up to there: a binary search over the ids finds the place with at most 70 records of each.
 */
export async function compareHistories(one: HistorySource, other: HistorySource): Promise<Comparison> {
  return new Search(one, other).run();
}

class Search {
  private reads = 0;
  private heads!: Pair;

  constructor(
    private readonly one: HistorySource,
    private readonly other: HistorySource,
  ) {}

  async run(): Promise<Comparison> {
    this.heads = await this.at(0n);
    const [a, b] = this.heads;
    if (Buffer.compare(a.logId, b.logId) !== 0) return { kind: "other logs", ...this.end() };
    const end = least(a.headSequenceId, b.headSequenceId);
    const floor = greatest(a.floorSequenceId, b.floorSequenceId);
    if (end === 0n || (a.headSequenceId === b.headSequenceId && isSame(this.heads))) return this.same(end);
    if (floor > end) return this.beyondReach(end, floor);
    if (isSame(await this.lastOf(end))) return this.same(end);
    const lowest = await this.at(floor);
    if (!isSame(lowest)) return this.partedAtOrBefore(lowest, floor);
    return this.parted(await this.bisect(lowest[0].lastSequenceId, end));
  }

  /** The records that hold the entry `end`, which is the last one of at least one of the two. */
  private async lastOf(end: bigint): Promise<Pair> {
    const [a, b] = this.heads;
    const atHead = (head: DescribeRecordResponse, source: HistorySource) =>
      head.headSequenceId === end ? head : this.describe(source, end);
    return Promise.all([atHead(a, this.one), atHead(b, this.other)]);
  }

  /** `common` is in both, `parted` is not. */
  private async bisect(common: bigint, parted: bigint): Promise<bigint> {
    let [low, high] = [common, parted];
    while (low + 1n < high) {
      const pair = await this.at((low + high) / 2n);
      if (isSame(pair)) low = pair[0].lastSequenceId;
      // Neither log has the record of the other one, so they differ from its first entry on.
      else high = least(pair[0].firstSequenceId, pair[1].firstSequenceId);
    }
    return low;
  }

  private async same(common: bigint): Promise<Comparison> {
    const next = ({ headSequenceId, floorSequenceId }: DescribeRecordResponse, source: HistorySource) =>
      headSequenceId > common && floorSequenceId <= common + 1n ? this.describe(source, common + 1n) : undefined;
    const [a, b] = this.heads;
    return { kind: "same", common, ...this.end(await Promise.all([next(a, this.one), next(b, this.other)])) };
  }

  private async parted(common: bigint): Promise<Comparison> {
    return { kind: "parted", common, ...this.end(await this.at(common + 1n)) };
  }

  /** The records differ at the first entry that both hold. What came before them they may tell by themselves. */
  private partedAtOrBefore(pair: Pair, floor: bigint): Comparison {
    const [a, b] = pair;
    const isAtOnce = a.firstSequenceId === b.firstSequenceId;
    const isAtBeginning = isAtOnce && a.firstSequenceId === 1n;
    const isAfterSame = a.previousChain.length > 0 && Buffer.compare(a.previousChain, b.previousChain) === 0;
    if (isAtBeginning || (isAtOnce && isAfterSame)) {
      return { kind: "parted", common: a.firstSequenceId - 1n, ...this.end(pair) };
    }
    return { kind: "parted before", floor, ...this.end() };
  }

  /** One of them has been trimmed up to the end of the other, or of both. The head of that one still tells its chain. */
  private async beyondReach(end: bigint, floor: bigint): Promise<Comparison> {
    const [a, b] = this.heads;
    const [short, long, source] = a.headSequenceId === end ? [a, b, this.other] : [b, a, this.one];
    const chain = await this.chainAt(end, long, source);
    if (chain.length === 0 || short.chain.length === 0) return { kind: "out of reach", ...this.end() };
    if (Buffer.compare(chain, short.chain) === 0) return this.same(end);
    return { kind: "parted before", floor, ...this.end() };
  }

  /** As far as it is known: of a trimmed entry the record after it may tell. */
  private async chainAt(id: bigint, head: DescribeRecordResponse, source: HistorySource): Promise<Uint8Array> {
    const { headSequenceId, floorSequenceId: floor } = head;
    if (headSequenceId === id) return head.chain;
    if (floor > id + 1n) return new Uint8Array();
    const record = await this.describe(source, floor > id ? floor : id);
    if (record.firstSequenceId <= id) return record.chain;
    return record.firstSequenceId === id + 1n ? record.previousChain : new Uint8Array();
  }

  private at(id: bigint): Promise<Pair> {
    return Promise.all([this.describe(this.one, id), this.describe(this.other, id)]);
  }

  private describe(source: HistorySource, id: bigint): Promise<DescribeRecordResponse> {
    this.reads++;
    return source.describeRecord(id);
  }

  private end(firsts: readonly (DescribeRecordResponse | undefined)[] = []): Pick<Comparison, "branches" | "reads"> {
    const branch = (side: 0 | 1): Branch => {
      const { headSequenceId: head, floorSequenceId: floor } = this.heads[side];
      return { head, floor, first: firsts[side] };
    };
    return { branches: [branch(0), branch(1)], reads: this.reads };
  }
}

function isSame([a, b]: Pair): boolean {
  return a.chain.length > 0 && Buffer.compare(a.chain, b.chain) === 0;
}

function least(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

function greatest(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
