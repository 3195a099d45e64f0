import { randomBytes } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { type Head, HeadSchema, LeaderLeaseSchema, type Term, TermSchema } from "../gen/oplog/store/v1/store_pb.js";
import type { LogKeys } from "../oplog/keys.js";
import { type Compare, type KvStore, StoreUnreachableError, type Write } from "../oplog/kv-store.js";
import { LeadershipByTokenError, NotPrimaryError, StaleTokenError } from "../oplog/leadership-errors.js";
import { LogDeletedError } from "../oplog/log-errors.js";
import { decodeHead, decodeTerm } from "../stored/decode.js";
import { deletedIn, hex, isSameLog } from "../stored/deletion.js";
import { readOrigin } from "../stored/history.js";
import { type LeaderView, primaryOf } from "../stored/primary.js";
import { Barriers } from "./barriers.js";
import { requireSameStore } from "./known-history.js";

/** Of a sidecar, as claimant of terms. */
export interface Identity {
  readonly id: string;
  readonly endpoint: string;
  /** Random, per process: tells our own claims from those of a sidecar that was given the same id. */
  readonly instance: Uint8Array;
}

/** On what ground a term is claimed. */
export type Ground =
  /**
   * An append has come. `heldTerm`: the highest term this process has held; 0n = none. `held`: a claim of this process
   * whose writer has settled everything. As long as that claim holds, it is used again, and no new term is taken.
   */
  | { readonly kind: "append"; readonly heldTerm: bigint; readonly held?: Claim | undefined }
  /** An election elsewhere has been won. */
  | { readonly kind: "token"; readonly token: bigint };

/** A term that is ours, and the log as it was after every writer before us had been fenced. */
export interface Claim {
  readonly term: bigint;
  /** The revision of the term key: every append compares it. */
  readonly termRevision: bigint;
  /** Of an elected term, the revision of the leader key: every append compares it too. */
  readonly leaderRevision: bigint | undefined;
  readonly head: Head;
  readonly headRevision: bigint;
  /** Perhaps not the newest; then the first append finds out. */
  readonly barriers: Barriers;
  /** Every append compares it; 0n = there are none. */
  readonly barriersRevision: bigint;
}

/** What the leader key must be for a candidate to take its place. */
export interface Turn {
  /** The leader key is to be replaced as it was at this revision; 0n = it must not exist. */
  readonly leaderRevision: bigint;
  /** The invitation to do so; 0n = none is needed, the place is vacant or one's own. */
  readonly successorRevision: bigint;
}

/** One candidacy in the store. */
export interface CandidateIdentity {
  /** The leader key is put under it. */
  readonly leaseId: bigint;
  readonly nonce: Uint8Array;
}

const ATTEMPTS_MAX = 16;

/**
 * Takes the next term and creates the log if need be. From the moment the transaction commits, no append of a lower
 * term can: each compares the term key's revision. So the head that is read afterwards is final for all terms below.
 *
 * Once this process has held a term, an append respects the higher term of somebody else. An append never claims a log
 * that is claimed by tokens or elections. Rejects with StoreError: then the claim may have been made, and claiming again is
 * safe.
 * LogDeletedError: the log is being deleted. Once it is gone, the next term is that of another log.
 */
export async function claimTerm(store: KvStore, keys: LogKeys, identity: Identity, ground: Ground): Promise<Claim> {
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const state = await readState(store, keys);
    if (isOutdated(state, ground)) continue;
    if (ground.kind === "append" && ground.held?.termRevision === state.termRevision) {
      const claim = await confirmClaim(store, keys, ground.held);
      if (claim === undefined) continue;
      return claim;
    }
    if (state.term !== undefined) requireGround(state.term, state.primary, identity, ground);
    const token = ground.kind === "token" ? ground.token : (state.term?.token ?? 0n);
    const claim = await raiseTerm(store, keys, identity, state, { token });
    if (claim !== undefined) return claim;
  }
  const state = await readState(store, keys);
  if (isOutdated(state, ground)) throw new StoreUnreachableError("the store answers reads from the past");
  throw notPrimary(state.primary);
}

/**
 * The same for a candidate whose turn it is: the leader key becomes its own in the transaction that raises the term.
 * Undefined: it was not its turn any more.
 */
export async function claimElectedTerm(
  store: KvStore,
  keys: LogKeys,
  identity: Identity,
  candidacy: CandidateIdentity,
  turn: Turn,
): Promise<Claim | undefined> {
  const state = await readState(store, keys);
  const { term } = state;
  if (term !== undefined && term.token !== 0n) throw new LeadershipByTokenError(keys.log, term.token, term.owner);
  return raiseTerm(store, keys, identity, state, { token: 0n, elected: { ...candidacy, ...turn } });
}

interface ClaimState {
  readonly term: Term | undefined;
  readonly termRevision: bigint;
  readonly isNew: boolean;
  readonly primary: LeaderView;
}

async function readState(store: KvStore, keys: LogKeys): Promise<ClaimState> {
  const [term, head, leader] = await Promise.all([store.get(keys.term), store.get(keys.head), store.get(keys.leader)]);
  const current = decodeTerm(term.pair);
  const stored = head.pair && decodeHead(head.pair);
  const deleted = deletedIn(current);
  // Only the next claim puts the term again, and the term is compared: nobody can have missed this.
  if (deleted !== undefined && stored !== undefined && isSameLog(stored.logId, deleted)) {
    throw new LogDeletedError(keys.log, hex(deleted), "is being deleted");
  }
  return {
    term: current,
    termRevision: term.pair?.modRevision ?? 0n,
    // Any other head that is shown beside a deletion is from the past.
    isNew: stored === undefined || deleted !== undefined,
    primary: primaryOf(current, leader.pair !== undefined),
  };
}

/** The answer is from the past (etcd #20418): this process has held a higher term than it shows. */
function isOutdated({ term }: ClaimState, ground: Ground): boolean {
  return ground.kind === "append" && (term?.term ?? 0n) < ground.heldTerm;
}

/** Undefined: the term, or what else the claim rests on, has changed meanwhile. */
async function raiseTerm(
  store: KvStore,
  keys: LogKeys,
  identity: Identity,
  { term: current, termRevision, isNew }: ClaimState,
  { token, elected }: { readonly token: bigint; readonly elected?: CandidateIdentity & Turn },
): Promise<Claim | undefined> {
  const { id, endpoint, instance } = identity;
  const term = (current?.term ?? 0n) + 1n;
  const raised = create(TermSchema, {
    term,
    owner: id,
    endpoint,
    nonce: instance,
    token,
    elected: elected !== undefined,
    heedsBarriers: true,
  });
  const compares: Compare[] = [{ key: keys.term, modRevision: termRevision }];
  const writes: Write[] = [{ kind: "put", key: keys.term, value: toBinary(TermSchema, raised) }];
  if (isNew) {
    await requireSameStore(store);
    const head = create(HeadSchema, { logId: randomBytes(16), nonce: randomBytes(16), windowFromSequenceId: 1n });
    compares.push({ key: keys.head, modRevision: 0n });
    writes.push({ kind: "put", key: keys.head, value: toBinary(HeadSchema, head) });
  }
  if (elected !== undefined) {
    const { leaseId, nonce, leaderRevision, successorRevision } = elected;
    const leader = create(LeaderLeaseSchema, { id, endpoint, term, nonce });
    compares.push({ key: keys.leader, modRevision: leaderRevision });
    writes.push({ kind: "put", key: keys.leader, value: toBinary(LeaderLeaseSchema, leader), leaseId });
    if (successorRevision !== 0n) {
      compares.push({ key: keys.successor, modRevision: successorRevision });
      writes.push({ kind: "delete", key: keys.successor });
    }
  }
  const { succeeded, revision } = await store.txn({ compares, writes });
  if (!succeeded) return undefined;
  return confirmClaim(store, keys, { term, termRevision: revision, leaderRevision: elected && revision });
}

/**
 * The claim with the head as it is now, or undefined when the term, or the place of the leader, has been taken since. The
 * id of the last entry is the same for as long as the claim holds; a ResolveAppend may have put the head again.
 */
export async function confirmClaim(
  store: KvStore,
  keys: LogKeys,
  { term, termRevision, leaderRevision }: Pick<Claim, "term" | "termRevision" | "leaderRevision">,
): Promise<Claim | undefined> {
  const fences = [
    { key: keys.term, modRevision: termRevision },
    ...(leaderRevision === undefined ? [] : [{ key: keys.leader, modRevision: leaderRevision }]),
  ];
  const confirmed = await confirmHead(store, keys, fences);
  if (confirmed === undefined) return undefined;
  const { pair } = await store.get(keys.barriers);
  const barriers = Barriers.decode(pair);
  return { term, termRevision, leaderRevision, ...confirmed, barriers, barriersRevision: pair?.modRevision ?? 0n };
}

function notPrimary({ id, endpoint, term }: LeaderView): NotPrimaryError {
  return new NotPrimaryError(id, endpoint, term);
}

function requireGround(current: Term, primary: LeaderView, { id, instance }: Identity, ground: Ground): void {
  if (deletedIn(current) !== undefined) return;
  const isOurs = Buffer.compare(current.nonce, instance) === 0;
  if (ground.kind === "token") {
    if (ground.token < current.token || (ground.token === current.token && current.owner !== id)) {
      throw new StaleTokenError(ground.token, current.token, current.owner);
    }
    return;
  }
  const isTaken = ground.heldTerm !== 0n && current.term > ground.heldTerm;
  if (current.elected || (!isOurs && (isTaken || current.token !== 0n))) throw notPrimary(primary);
}

/** The head of a version that did not chain records: its last record tells, unless it has been trimmed. */
async function chained(store: KvStore, keys: LogKeys, head: Head): Promise<Head> {
  if (head.lastSequenceId === 0n || head.recordNonce.length > 0) return head;
  const { chain } = await readOrigin(store, keys, head.lastSequenceId, head.logId);
  return { ...head, recordNonce: Buffer.from(chain, "hex") };
}

/**
 * The head, which no older writer can change any more; undefined when a fence does not hold. A read alone may be answered
 * from the past (etcd #20418), so the head is put again as it was read: that succeeds only if it is the newest head.
 */
async function confirmHead(
  store: KvStore,
  keys: LogKeys,
  fences: readonly Compare[],
): Promise<Pick<Claim, "head" | "headRevision"> | undefined> {
  let { pair } = await store.get(keys.head);
  for (;;) {
    const result = await store.txn({
      compares: [...fences, { key: keys.head, modRevision: pair?.modRevision ?? 0n }],
      writes: [
        pair === undefined ? { kind: "delete", key: keys.nothing } : { kind: "put", key: keys.head, value: pair.value },
      ],
      readOnFailure: [keys.head, ...fences.map(({ key }) => key)],
    });
    if (result.succeeded) {
      return pair && { head: await chained(store, keys, decodeHead(pair)), headRevision: result.revision };
    }
    const [head, ...fenced] = result.reads;
    if (fences.some(({ modRevision }, index) => fenced[index]?.modRevision !== modRevision)) return undefined;
    pair = head;
  }
}
