import type { Head } from "../gen/oplog/store/v1/store_pb.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KeyValue, KvStore, TxnResult } from "../oplog/kv-store.js";
import { decodeHead, decodeTerm } from "../stored/decode.js";
import { decodeFloor, openRecord } from "../stored/history.js";
import { type Primary, primaryOf } from "../stored/primary.js";
import type { Claim } from "./claim.js";
import type { SealedRecord } from "./seal.js";

/** What one attempt to write a record has shown. */
export type Verdict =
  | { readonly kind: "committed"; readonly headRevision: bigint }
  /** Committed by an earlier attempt, before someone else took the term. */
  | { readonly kind: "committed, then fenced"; readonly primary: Primary }
  /** Not committed, and it never will be. The term may still be ours, with nobody leading: the lease has run out. */
  | { readonly kind: "fenced"; readonly primary: Primary }
  /** Fenced so long ago that the place of the record has been trimmed. */
  | { readonly kind: "fenced, outcome lost"; readonly primary: Primary }
  /** ResolveAppend has put a barrier (see resolve.ts): not committed, and it never will be. */
  | { readonly kind: "ruled out" }
  /** The head is not what we left though the term is still ours. */
  | { readonly kind: "foreign head"; readonly problem: string };

/**
 * The fenced compare-and-swap of an append: term unchanged since it was claimed, of an elected term the leader key too,
 * head unchanged since it was last seen; put record and head. When it fails, the same transaction reads what decides why. Attempting a record again is safe:
 * whichever attempt is applied first moves the head and so refuses the others, and the nonce of the record in its place
 * tells whether it is ours.
 */
export async function attemptCommit(
  store: KvStore,
  keys: LogKeys,
  claim: Claim,
  before: { readonly head: Head; readonly headRevision: bigint },
  record: SealedRecord,
): Promise<Verdict> {
  const recordKey = keys.record(record.last);
  const { leaderRevision } = claim;
  const result = await store.txn({
    compares: [
      { key: keys.term, modRevision: claim.termRevision },
      { key: keys.head, modRevision: before.headRevision },
      ...(leaderRevision === undefined ? [] : [{ key: keys.leader, modRevision: leaderRevision }]),
    ],
    writes: [
      { kind: "put", key: recordKey, value: record.value },
      { kind: "put", key: keys.head, value: record.headValue },
    ],
    readOnFailure: [keys.term, keys.head, recordKey, keys.floor, keys.leader],
  });
  return result.succeeded
    ? { kind: "committed", headRevision: result.revision }
    : judge(keys, result, claim, before.head, record);
}

function judge(
  keys: LogKeys,
  { reads }: Extract<TxnResult, { succeeded: false }>,
  claim: Claim,
  before: Head,
  record: SealedRecord,
): Verdict {
  const [termPair, headPair, recordPair, floorPair, leaderPair] = reads;
  const hasLease = claim.leaderRevision === undefined || leaderPair?.modRevision === claim.leaderRevision;
  if (termPair?.modRevision !== claim.termRevision || !hasLease) {
    const primary = primaryOf(decodeTerm(termPair), leaderPair !== undefined);
    if (isOurs(keys, recordPair, record)) return { kind: "committed, then fenced", primary };
    const floor = decodeFloor(floorPair).sequenceId;
    return { kind: floor > record.last ? "fenced, outcome lost" : "fenced", primary };
  }
  if (headPair === undefined) return { kind: "foreign head", problem: "the head has vanished" };
  const head = decodeHead(headPair);
  // The head's own nonce may be that of a barrier put since.
  if (isOurs(keys, recordPair, record)) return { kind: "committed", headRevision: headPair.modRevision };
  if (head.lastSequenceId === before.lastSequenceId && Buffer.compare(head.logId, before.logId) === 0) {
    return { kind: "ruled out" };
  }
  return {
    kind: "foreign head",
    problem: `the head is ${head.lastSequenceId} of term ${head.term}, this writer left it at ${before.lastSequenceId} of term ${before.term}`,
  };
}

function isOurs(keys: LogKeys, pair: KeyValue | undefined, record: SealedRecord): boolean {
  return pair !== undefined && record.nonce.equals(openRecord(keys, pair, undefined).header.nonce);
}
