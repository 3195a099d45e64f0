import { OpType } from "../src/gen/oplog/v1/entry_pb.js";
import type { TraceRequest } from "./trace.js";

export interface Operation {
  readonly opType: OpType;
  readonly key: string;
  readonly payload: Buffer;
}

/** The operations of one request, appended all or nothing. */
export type OperationBatch = readonly Operation[];

/** What becomes an operation; much cheaper, for one who only wants to know where the log stands. */
export interface Touch {
  readonly opType: OpType;
  readonly block: number;
}

const BLOCKS_MAX = 50_000;
const GIVEN_UP_EVERY = 300;
/** An append stays far below the limit of one record. */
const BATCH_OPERATIONS_MAX = 500;
const BLOCK_BYTES = 16 << 20;
const NOTHING = Buffer.alloc(0);

/**
 * The master of a KV cache: which blocks are resident, least recently used first out. A request touches its blocks in
 * order; one that is not resident is written, the one that falls out is removed. Every 300th request is given up at the
 * first missing block of its second half: that put is revoked, the blocks after it are never touched.
 */
export class BlockCache {
  private readonly resident = new Set<number>();
  /** One for good: it goes on where it stopped, past what has been deleted. */
  private readonly oldestFirst = this.resident.values();
  private requests = 0;

  /** What is appended for one request, in batches. */
  *batchesOf(request: TraceRequest): Generator<readonly Touch[]> {
    const touches = this.touch(request.hash_ids);
    for (let start = 0; start < touches.length; start += BATCH_OPERATIONS_MAX) {
      yield touches.slice(start, start + BATCH_OPERATIONS_MAX);
    }
  }

  private touch(ids: readonly number[]): Touch[] {
    const givesUpAt = ++this.requests % GIVEN_UP_EVERY === 0 ? ids.length / 2 : Infinity;
    const touches: Touch[] = [];
    for (const [index, id] of ids.entries()) {
      // A set iterates in the order of insertion, so inserting again makes it the youngest.
      if (this.resident.delete(id)) {
        this.resident.add(id);
        continue;
      }
      if (index >= givesUpAt) {
        touches.push({ opType: OpType.PUT_REVOKE, block: id });
        break;
      }
      this.resident.add(id);
      touches.push({ opType: OpType.PUT_END, block: id });
      if (this.resident.size > BLOCKS_MAX) touches.push(this.evict());
    }
    return touches;
  }

  private evict(): Touch {
    const oldest: number = this.oldestFirst.next().value!;
    this.resident.delete(oldest);
    return { opType: OpType.REMOVE, block: oldest };
  }
}

export function operationsOf(touches: readonly Touch[]): OperationBatch {
  return touches.map(({ opType, block }) => ({
    opType,
    key: keyOf(block),
    payload: opType === OpType.PUT_END ? replicasOf(block) : NOTHING,
  }));
}

function keyOf(id: number): string {
  return `block/${id}`;
}

/** Where the two replicas of a block lie, as a master would describe them. */
function replicasOf(id: number): Buffer {
  const replica = (copy: number) => {
    const node = (id * 7 + copy * 13) % 64;
    const address = 0x7f00_0000_0000 + ((id * 2 + copy) % 65_536) * BLOCK_BYTES;
    return `{"segment":"10.4.${node >> 4}.${node & 15}:12345","address":"0x${address.toString(16)}","status":"COMPLETE"}`;
  };
  return Buffer.from(`{"size":${BLOCK_BYTES},"replicas":[${replica(0)},${replica(1)}]}`);
}
