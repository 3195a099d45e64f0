import type { Head } from "../gen/oplog/store/v1/store_pb.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KvStore } from "../oplog/kv-store.js";
import { DataLossError, HistoryDivergedError } from "../oplog/log-errors.js";
import { chainOf, isOtherChain } from "../oplog/record.js";
import { readOrigin } from "../stored/history.js";

export interface AppliedHistoryParts {
  readonly store: KvStore;
  readonly keys: LogKeys;
  /** The chain of an entry as this process still has it in memory; "" = it does not. */
  readonly chainHere: (id: bigint) => string;
}

/** To which history the entries belong that consumers have applied. For one write of a cursor: an entry is looked up once. */
export class AppliedHistory {
  private readonly found = new Map<bigint, string>();

  constructor(private readonly parts: AppliedHistoryParts) {}

  /** "" = not known. */
  async chainAt(id: bigint, { lastSequenceId, recordNonce, logId }: Head): Promise<string> {
    const { store, keys, chainHere } = this.parts;
    if (id === 0n) return "";
    if (id === lastSequenceId && recordNonce.length > 0) return chainOf(recordNonce);
    let chain = this.found.get(id) ?? chainHere(id);
    if (chain === "") chain = await readOrigin(store, keys, id, logId).then(({ chain }) => chain, unlessDamaged);
    this.found.set(id, chain);
    return chain;
  }

  /** Why the entry that was applied is not that of the log; undefined = it is, as far as that is known. */
  async divergence(id: bigint, chain: string, head: Head): Promise<HistoryDivergedError | undefined> {
    if (chain === "" || id === 0n) return undefined;
    const isBeyond = id > head.lastSequenceId;
    const current = isBeyond ? `none, since it ends at ${head.lastSequenceId}` : await this.chainAt(id, head);
    return isOtherChain(current, chain) ? new HistoryDivergedError(this.parts.keys.log, id, chain, current) : undefined;
  }
}

/** A record that is damaged costs those who read it, and no cursor. */
function unlessDamaged(error: unknown): string {
  if (error instanceof DataLossError) return "";
  throw error;
}
