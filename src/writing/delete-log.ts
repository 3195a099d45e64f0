import { create, toBinary } from "@bufbuild/protobuf";
import { type Head, HeadSchema, type Term, TermSchema } from "../gen/oplog/store/v1/store_pb.js";
import { ShuttingDownError, TooManyError } from "../oplog/errors.js";
import type { LogKeys } from "../oplog/keys.js";
import { keyAfter, pagesOf } from "../oplog/kv-pages.js";
import type { Compare, KvStore, Write } from "../oplog/kv-store.js";
import { LogNotFoundError, LogReplacedError } from "../oplog/log-errors.js";
import { decodeHead, decodeTerm } from "../stored/decode.js";
import { deletedIn, hex, isSameLog } from "../stored/deletion.js";

/** Of one step; a step is one transaction. */
const DROP_KEYS_MAX = 1000;
const ATTEMPTS_MAX = 16;
const RETRY_MS = 100;

/**
 * Deletes the log with this id, and all that is kept of it, or completes that:
 *
 *   open ── term raised ──▶ fenced ── head marked ──▶ marked ── all else dropped, then the head ──▶ gone
 *
 * The new term fences whoever writes the log, and names it. Nobody claims a term while the log that it names is there, so
 * from then on the head only gets its mark, and whoever reads the head knows. All else is dropped in steps that compare
 * the head. The last of them drops whatever is left, and the head with it: a crash leaves a log that says that it is being
 * deleted. The term stays. A writer of the deleted log is fenced by the term's revision, as by any other claim. And because
 * terms of a name go on rising, what sidecars remember of higher terms stays true for a log made later.
 *
 * Rejects with OplogError and StoreError; then it may have begun.
 */
export async function deleteLog(store: KvStore, keys: LogKeys, logId: Uint8Array, signal: AbortSignal): Promise<void> {
  // By each step that is seen to be done: answers from before it are from the past (etcd #20418).
  let doneRevision = 0n;
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const state = await readState(store, keys, logId, doneRevision);
    if (state === "gone") return;
    if (state === "outdated") continue;
    const { succeeded, revision } = await takeStep(store, keys, logId, state, signal);
    if (succeeded) doneRevision = revision;
  }
  throw new TooManyError(`concurrent claims of log "${keys.log}"`, ATTEMPTS_MAX, RETRY_MS);
}

interface LogToDelete {
  readonly term: Term | undefined;
  readonly termRevision: bigint;
  readonly head: Head;
  readonly headRevision: bigint;
}

async function readState(
  store: KvStore,
  keys: LogKeys,
  logId: Uint8Array,
  doneRevision: bigint,
): Promise<LogToDelete | "gone" | "outdated"> {
  const termRead = await store.get(keys.term);
  const headRead = await store.get(keys.head);
  const termRevision = termRead.pair?.modRevision ?? 0n;
  if (termRead.revision < doneRevision || headRead.revision < doneRevision) return "outdated";
  if (headRead.revision < termRevision) return "outdated";
  const hasBegun = doneRevision > 0n;
  const term = decodeTerm(termRead.pair);
  if (headRead.pair === undefined) {
    const deleted = deletedIn(term);
    if (hasBegun || (deleted !== undefined && isSameLog(deleted, logId))) return "gone";
    throw new LogNotFoundError(keys.log);
  }
  const head = decodeHead(headRead.pair);
  if (isSameLog(head.logId, logId)) return { term, termRevision, head, headRevision: headRead.pair.modRevision };
  if (hasBegun) return "gone";
  throw new LogReplacedError(hex(logId), hex(head.logId));
}

type Step = { readonly succeeded: boolean; readonly revision: bigint };

/** Not succeeded: something has changed since the state was read. */
async function takeStep(
  store: KvStore,
  keys: LogKeys,
  logId: Uint8Array,
  { term, termRevision, head, headRevision }: LogToDelete,
  signal: AbortSignal,
): Promise<Step> {
  const deleted = deletedIn(term);
  if (deleted === undefined || !isSameLog(deleted, logId)) {
    const raised = create(TermSchema, { term: (term?.term ?? 0n) + 1n, heedsBarriers: true, deletedLogId: logId });
    return store.txn({
      compares: [{ key: keys.term, modRevision: termRevision }],
      writes: [{ kind: "put", key: keys.term, value: toBinary(TermSchema, raised) }],
    });
  }
  const compares = [{ key: keys.head, modRevision: headRevision }];
  if (head.deleting) return drop(store, keys, compares, signal);
  const value = toBinary(HeadSchema, { ...head, deleting: true });
  return store.txn({ compares, writes: [{ kind: "put", key: keys.head, value }] });
}

async function drop(store: KvStore, keys: LogKeys, compares: readonly Compare[], signal: AbortSignal): Promise<Step> {
  const ranges = [
    { from: keys.allFrom, to: keys.head },
    { from: keyAfter(keys.head), to: keys.term },
    { from: keyAfter(keys.term), to: keys.allTo },
  ];
  for (const { from, to } of ranges) {
    for await (const { pairs } of pagesOf(store, { from, to, keysOnly: true, pairsMax: DROP_KEYS_MAX })) {
      const last = pairs.at(-1);
      if (last === undefined) break;
      if (signal.aborted) throw new ShuttingDownError("the log is deleted in part: delete it again");
      const step = await store.txn({ compares, writes: [{ kind: "delete-range", from, to: keyAfter(last.key) }] });
      if (!step.succeeded) return step;
    }
  }
  // A page may come from the past, and candidates come and go: nothing may be left for the next log of this name.
  const rest = ranges.map(({ from, to }): Write => ({ kind: "delete-range", from, to }));
  return store.txn({ compares, writes: [...rest, { kind: "delete", key: keys.head }] });
}
