import { OpType } from "../src/gen/oplog/v1/entry_pb.js";
import type { TraceRequest } from "./trace.js";

export interface Operation {
  readonly opType: OpType;
  readonly key: string;
  readonly payload: Buffer;
}

/** The operations of one request, appended all or nothing. */
export type OperationBatch = readonly Operation[];

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
  private requests = 0;

  *batchesOf(request: TraceRequest): Generator<OperationBatch> {
    const operations = this.touch(request.hash_ids);
    for (let start = 0; start < operations.length; start += BATCH_OPERATIONS_MAX) {
      yield operations.slice(start, start + BATCH_OPERATIONS_MAX);
    }
  }

  private touch(ids: readonly number[]): Operation[] {
    const givesUpAt = ++this.requests % GIVEN_UP_EVERY === 0 ? ids.length / 2 : Infinity;
    const operations: Operation[] = [];
    for (const [index, id] of ids.entries()) {
      // A set iterates in the order of insertion, so inserting again makes it the youngest.
      if (this.resident.delete(id)) {
        this.resident.add(id);
        continue;
      }
      if (index >= givesUpAt) {
        operations.push({ opType: OpType.PUT_REVOKE, key: keyOf(id), payload: NOTHING });
        break;
      }
      this.resident.add(id);
      operations.push({ opType: OpType.PUT_END, key: keyOf(id), payload: replicasOf(id) });
      if (this.resident.size > BLOCKS_MAX) operations.push(this.evict());
    }
    return operations;
  }

  private evict(): Operation {
    const [oldest] = this.resident;
    this.resident.delete(oldest!);
    return { opType: OpType.REMOVE, key: keyOf(oldest!), payload: NOTHING };
  }
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
