import { create, toBinary } from "@bufbuild/protobuf";
import { type CandidateEntry, CandidateEntrySchema, SuccessorSchema } from "../gen/oplog/store/v1/store_pb.js";
import type { Clock } from "../oplog/clock.js";
import type { OplogError } from "../oplog/errors.js";
import type { LogKeys } from "../oplog/keys.js";
import { type KvStore, StoreError } from "../oplog/kv-store.js";
import { CandidateNotFoundError, HandOverAbandonedError, NotPrimaryError } from "../oplog/leadership-errors.js";
import { StoreRefusalError, StoreUnavailableError } from "../oplog/store-errors.js";
import { aborted, limitTime, sleep } from "../oplog/timing.js";
import { decodeState } from "../stored/decode.js";
import { awaitChange, isConfirmed, watchLeadership } from "../stored/leader-watch.js";
import { primaryIn, readLeadership } from "../stored/leadership.js";
import type { LeaderView } from "../stored/primary.js";
import { requireNotLost, throughStore } from "../stored/store-failures.js";
import type { Claim } from "../writing/claim.js";
import type { LogWriter } from "../writing/log-writer.js";
import type { HandOverReport } from "./hand-over-report.js";

export interface HandOverParts {
  readonly store: KvStore;
  readonly keys: LogKeys;
  readonly clock: Clock;
  readonly claim: Claim;
  readonly leaseId: bigint;
  readonly writer: LogWriter;
  readonly report: HandOverReport;
  readonly storeUnreachableMs: () => number;
  /** Why the leader does not go on; undefined = it does. */
  readonly whyGone: () => string | undefined;
  /** Somebody else leads from now on; what waits in the line is to be refused with that. */
  readonly onTaken: (primary: LeaderView) => void;
}

export interface HandedOver {
  readonly term: bigint;
  readonly finalSequenceId: bigint;
  readonly heldMs: number;
}

const REREAD_MS = 1000;
const RETRY_MS = 50;

/**
 * Announces the hand-over, so that the target reads what it can while appends go on. If the target does not answer, nobody
 * has waited. Then holds the line, so that the head does not move, and invites the target to take the term. Either the
 * target replaces the leader key, or the leader takes the invitation back. Both are one transaction on the same keys, so the
 * store decides which. An invitation that arrives late is safe too: the target prepares for the head that it finds.
 *
 * Throws CandidateNotFoundError and HandOverAbandonedError: nobody has taken over; NotPrimaryError when the leadership went
 * elsewhere meanwhile, StoreUnavailableError when nothing could be told before it was over anyway, and StoreLostError.
 */
export async function handOver(
  parts: HandOverParts,
  target: string,
  timeoutMs: number,
  isOver: AbortSignal,
  /** Aborts when the leader does not want to go on anyway: then nothing is waited for. */
  givesUp: AbortSignal,
): Promise<HandedOver> {
  const { clock, writer, report } = parts;
  if ((await readCandidate(parts, target)) === undefined) throw new CandidateNotFoundError(parts.keys.log, target);
  report.begun(timeoutMs);
  const startedMs = clock.monotonicMs();
  const announced = await announce(parts, target);
  if (announced === undefined) {
    throw await abandoned(parts, target, isOver, `the hand-over to "${target}" could not be announced`);
  }
  const answering = limitTime(clock, timeoutMs, givesUp);
  if (!(await isAnswered(parts, target, announced, answering.signal).finally(() => answering.end()))) {
    const waitedMs = Math.round(clock.monotonicMs() - startedMs);
    const because = `"${target}" did not answer the announcement within ${waitedMs} ms, and appends were not held back`;
    throw await abandoned(parts, target, isOver, because);
  }

  const time = limitTime(clock, timeoutMs, givesUp);
  report.holding();
  const held = writer.hold();
  try {
    const release = await Promise.race([held, aborted(time.signal)]);
    if (release === undefined) {
      const because = `what had been accepted was not durable within ${report.heldMs} ms, so "${target}" was not invited`;
      throw await abandoned(parts, target, isOver, because);
    }
    const finalSequenceId = writer.lastSequenceId;
    const isInvited = await putSuccessor(
      parts,
      { id: target, finalSequenceId, finalChain: writer.lastChain },
      announced,
    );
    const taken = isInvited === undefined ? undefined : await awaitChange(parts, parts.claim, REREAD_MS, time.signal);
    const primary = taken === undefined ? await takeBack(parts, isOver) : primaryIn(taken);
    if (primary === undefined) throw new HandOverAbandonedError(target, report.heldMs, undefined, parts.whyGone());
    if (primary.id !== target) throw new NotPrimaryError(primary.id, primary.endpoint, primary.term);
    parts.onTaken(primary);
    return { term: primary.term, finalSequenceId, heldMs: report.heldMs };
  } finally {
    time.end();
    void held.then(
      (release) => release(),
      () => undefined,
    );
  }
}

/** Returns the revision of the announcement; undefined: it was not made. */
async function announce(parts: HandOverParts, target: string): Promise<bigint | undefined> {
  // What is left of an earlier hand-over must not be in the way.
  const { successorRevision } = await throughStore(readLeadership(parts.store, parts.keys), parts.storeUnreachableMs);
  return putSuccessor(parts, { id: target }, successorRevision);
}

/** Whether the target has prepared for what was announced, in time. */
async function isAnswered(
  parts: HandOverParts,
  target: string,
  announced: bigint,
  signal: AbortSignal,
): Promise<boolean> {
  const { claim } = parts;
  for await (const leadership of watchLeadership(parts, REREAD_MS, signal)) {
    if (leadership.termRevision !== claim.termRevision && (await isConfirmed(parts, leadership))) return false;
    // If it cannot be read now, then when the leadership is looked at again.
    const candidate = await readCandidate(parts, target).catch((error: unknown) => {
      if (error instanceof StoreUnavailableError || error instanceof StoreRefusalError) return undefined;
      throw error;
    });
    if (candidate?.preparedForRevision === announced) return true;
  }
  return false;
}

async function readCandidate(
  { store, keys, storeUnreachableMs }: HandOverParts,
  id: string,
): Promise<CandidateEntry | undefined> {
  const { pair } = await throughStore(store.get(keys.candidate(id)), storeUnreachableMs, "nothing was changed");
  return pair && decodeState(CandidateEntrySchema, pair);
}

/** What to throw when the target was not ready, or the leadership is over. */
async function abandoned(
  parts: HandOverParts,
  target: string,
  isOver: AbortSignal,
  because: string,
): Promise<OplogError> {
  const primary = await takeBack(parts, isOver);
  if (primary === undefined) return new HandOverAbandonedError(target, parts.report.heldMs, because, parts.whyGone());
  return new NotPrimaryError(primary.id, primary.endpoint, primary.term);
}

/** Returns its revision; undefined: refused, or it cannot be told whether it stands. */
async function putSuccessor(
  { store, keys, claim, leaseId }: HandOverParts,
  successor: { readonly id: string; readonly finalSequenceId?: bigint; readonly finalChain?: Uint8Array },
  before: bigint,
): Promise<bigint | undefined> {
  try {
    const value = toBinary(SuccessorSchema, create(SuccessorSchema, successor));
    const { succeeded, revision } = await store.txn({
      compares: [...stillLeading(keys, claim), { key: keys.successor, modRevision: before }],
      writes: [{ kind: "put", key: keys.successor, value, leaseId }],
    });
    return succeeded ? revision : undefined;
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    requireNotLost(error);
    return undefined;
  }
}

/**
 * Undefined: the invitation stands no more, and was not followed. Asks until the store has decided: a line that is held
 * meanwhile could not be written anyhow.
 */
async function takeBack(
  { store, keys, claim, clock, storeUnreachableMs }: HandOverParts,
  isOver: AbortSignal,
): Promise<LeaderView | undefined> {
  const startedMs = clock.monotonicMs();
  for (;;) {
    // One attempt when it is over already: the target may have taken it.
    const isLast = isOver.aborted;
    try {
      const { succeeded } = await store.txn({
        compares: stillLeading(keys, claim),
        writes: [{ kind: "delete", key: keys.successor }],
      });
      return succeeded ? undefined : primaryIn(await readLeadership(store, keys));
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      requireNotLost(error);
    }
    if (isLast) break;
    await sleep(clock, RETRY_MS, isOver);
  }
  const failedMs = Math.max(Math.round(clock.monotonicMs() - startedMs), storeUnreachableMs());
  throw new StoreUnavailableError(failedMs, "the target may lead or not: GetLeader tells");
}

function stillLeading(keys: LogKeys, claim: Claim) {
  return [
    { key: keys.term, modRevision: claim.termRevision },
    { key: keys.leader, modRevision: claim.leaderRevision ?? 0n },
  ];
}
