import type { Head } from "../gen/oplog/store/v1/store_pb.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KeyValue, KvStore, TxnResult, Write } from "../oplog/kv-store.js";
import { decodeHead, decodeTerm } from "../stored/decode.js";
import { deletedIn, isSameLog } from "../stored/deletion.js";
import { decodeFloor, openRecord } from "../stored/history.js";
import { type LeaderView, primaryOf } from "../stored/primary.js";
import type { Claim } from "./claim.js";
import type { SealedRecord } from "./seal.js";

/** What the log was when it was last seen. */
export interface Position {
  readonly head: Head;
  readonly headRevision: bigint;
  /** 0n = there are no barriers. */
  readonly barriersRevision: bigint;
}

/** What is to be written: a record, or barriers, or both; neither only confirms the position. */
export interface Attempt {
  readonly record: SealedRecord | undefined;
  readonly barriers: Uint8Array | undefined;
}

/** What one attempt has shown. */
export type WriteOutcome =
  | { readonly kind: "committed"; readonly headRevision: bigint; readonly barriersRevision: bigint }
  /**
   * The barriers in the store are not those that were last seen. This attempt has written nothing. One exception: if it put
   * barriers alone, those in the store may be its own, of an earlier attempt.
   */
  | { readonly kind: "barred"; readonly pair: KeyValue | undefined }
  /** Committed by an earlier attempt, before someone else took the term. */
  | { readonly kind: "committed, then fenced"; readonly primary: LeaderView }
  /** Not committed, and it never will be. The term may still be ours, with nobody leading: the lease has run out. */
  | { readonly kind: "fenced"; readonly primary: LeaderView }
  /** Fenced so long ago that the place of the record has been trimmed, or the log is another one. */
  | { readonly kind: "fenced, outcome lost"; readonly primary: LeaderView }
  /** DeleteLog has begun, or is done. Not committed, unless an attempt before this one was. */
  | { readonly kind: "deleted"; readonly logId: Uint8Array; readonly primary: LeaderView }
  /** A sidecar that knows of no barriers has answered a ResolveAppend: not committed, and it never will be. */
  | { readonly kind: "ruled out" }
  /** The head is not what we left though the term is still ours. */
  | { readonly kind: "foreign head"; readonly problem: string };

/**
 * The fenced compare-and-swap of an append: term unchanged since it was claimed, of an elected term the leader key too,
 * head and barriers unchanged since they were last seen; put record and head. When it fails, the same transaction reads
 * what decides why. Attempting a record again is safe: whichever attempt is applied first moves the head and so refuses
 * the others, and the nonce of the record in its place tells whether it is ours.
 */
export async function attemptCommit(
  store: KvStore,
  keys: LogKeys,
  claim: Pick<Claim, "termRevision" | "leaderRevision">,
  before: Position,
  attempt: Attempt,
): Promise<WriteOutcome> {
  const { record, barriers } = attempt;
  const { leaderRevision } = claim;
  const recordKey = keys.record(record?.last ?? before.head.lastSequenceId);
  const writes: Write[] = [];
  if (record !== undefined) {
    writes.push({ kind: "put", key: recordKey, value: record.value });
    writes.push({ kind: "put", key: keys.head, value: record.headValue });
    if (record.marksValue !== undefined) writes.push({ kind: "put", key: keys.marks, value: record.marksValue });
  }
  if (barriers !== undefined) writes.push({ kind: "put", key: keys.barriers, value: barriers });
  // A transaction without a write is only read, and may be answered from the past; nothing is stored under this key.
  if (writes.length === 0) writes.push({ kind: "delete", key: keys.nothing });
  const result = await store.txn({
    compares: [
      { key: keys.term, modRevision: claim.termRevision },
      { key: keys.head, modRevision: before.headRevision },
      { key: keys.barriers, modRevision: before.barriersRevision },
      ...(leaderRevision === undefined ? [] : [{ key: keys.leader, modRevision: leaderRevision }]),
    ],
    writes,
    readOnFailure: [keys.term, keys.head, recordKey, keys.floor, keys.leader, keys.barriers],
  });
  if (!result.succeeded) return judge(keys, result, claim, before, record);
  return {
    kind: "committed",
    headRevision: record === undefined ? before.headRevision : result.revision,
    barriersRevision: barriers === undefined ? before.barriersRevision : result.revision,
  };
}

function judge(
  keys: LogKeys,
  { reads }: Extract<TxnResult, { succeeded: false }>,
  claim: Pick<Claim, "termRevision" | "leaderRevision">,
  before: Position,
  record: SealedRecord | undefined,
): WriteOutcome {
  const [termPair, headPair, recordPair, floorPair, leaderPair, barriersPair] = reads;
  const isCommitted = record !== undefined && isOurs(keys, recordPair, record);
  const hasLease = claim.leaderRevision === undefined || leaderPair?.modRevision === claim.leaderRevision;
  if (termPair?.modRevision !== claim.termRevision || !hasLease) {
    const term = decodeTerm(termPair);
    const primary = primaryOf(term, leaderPair !== undefined);
    if (isCommitted) return { kind: "committed, then fenced", primary };
    const deleted = deletedIn(term);
    if (deleted !== undefined) return { kind: "deleted", logId: deleted, primary };
    // Another log has come by this name already.
    const isGone = headPair !== undefined && !isSameLog(decodeHead(headPair).logId, before.head.logId);
    const isTrimmed = record !== undefined && decodeFloor(floorPair).sequenceId > record.last;
    return { kind: isGone || isTrimmed ? "fenced, outcome lost" : "fenced", primary };
  }
  if (headPair === undefined) return { kind: "foreign head", problem: "the head has vanished" };
  const barriersRevision = barriersPair?.modRevision ?? 0n;
  // Others may have put barriers since; if so, the next attempt finds out: it compares the older revision.
  if (isCommitted) {
    const { barriersRevision: seen } = before;
    return { kind: "committed", headRevision: headPair.modRevision, barriersRevision: seen };
  }
  if (headPair.modRevision === before.headRevision && barriersRevision !== before.barriersRevision) {
    return { kind: "barred", pair: barriersPair };
  }
  const head = decodeHead(headPair);
  const isSame = isSameLog(head.logId, before.head.logId);
  if (head.lastSequenceId === before.head.lastSequenceId && isSame) return { kind: "ruled out" };
  return {
    kind: "foreign head",
    problem: `the head is ${head.lastSequenceId} of term ${head.term}, this writer left it at ${before.head.lastSequenceId} of term ${before.head.term}`,
  };
}

function isOurs(keys: LogKeys, pair: KeyValue | undefined, record: SealedRecord): boolean {
  return pair !== undefined && record.nonce.equals(openRecord(keys, pair, undefined).header.nonce);
}
