import { randomBytes } from "node:crypto";
import { create, type DescMessage, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { type Head, HeadSchema, type Term, TermSchema } from "../gen/oplog/store/v1/store_pb.js";
import { DataLossError, NotPrimaryError, StaleTokenError } from "../oplog/errors.js";
import type { LogKeys } from "../oplog/keys.js";
import type { KeyValue, KvStore } from "../oplog/kv-store.js";

export interface Identity {
  readonly id: string;
  readonly endpoint: string;
  /** Random, per process: tells our own claims from those of a sidecar that was given the same id. */
  readonly instance: Uint8Array;
}

/** On what ground a term is claimed. */
export type Ground =
  /** The first append has come. `heldTerm`: the highest term this process has held; 0n = none. */
  | { readonly kind: "append"; readonly heldTerm: bigint }
  /** An election elsewhere has been won. */
  | { readonly kind: "token"; readonly token: bigint };

/** A term that is ours, and the log as it was after every writer before us had been fenced. */
export interface Claim {
  readonly term: bigint;
  /** The revision of the term key: every append compares it. */
  readonly termRevision: bigint;
  readonly head: Head;
  readonly headRevision: bigint;
}

const ATTEMPTS_MAX = 16;

/**
 * Takes the next term and creates the log if need be. From the moment the transaction commits, no append of a lower
 * term can: each compares the term key's revision. So the head that is read afterwards is final for all terms below.
 *
 * Once this process has held a term, an append respects somebody else's higher one, and it never claims a log that goes
 * by tokens. StoreError passes through; then the claim may have been made, and claiming again is safe.
 */
export async function claimTerm(store: KvStore, keys: LogKeys, identity: Identity, ground: Ground): Promise<Claim> {
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
    const [termRead, headRead] = await Promise.all([store.get(keys.term), store.get(keys.head)]);
    const current = decodeTerm(termRead.pair);
    if (current !== undefined) requireGround(current, identity, ground);
    const term = create(TermSchema, {
      term: (current?.term ?? 0n) + 1n,
      owner: identity.id,
      endpoint: identity.endpoint,
      nonce: identity.instance,
      token: ground.kind === "token" ? ground.token : (current?.token ?? 0n),
    });
    const compares = [{ key: keys.term, modRevision: termRead.pair?.modRevision ?? 0n }];
    const writes = [{ kind: "put" as const, key: keys.term, value: toBinary(TermSchema, term) }];
    if (headRead.pair === undefined) {
      compares.push({ key: keys.head, modRevision: 0n });
      const head = create(HeadSchema, { logId: randomBytes(16), nonce: randomBytes(16), windowFromSequenceId: 1n });
      writes.push({ kind: "put" as const, key: keys.head, value: toBinary(HeadSchema, head) });
    }
    const result = await store.txn({ compares, writes });
    if (!result.succeeded) continue;
    const fenced = await confirmHead(store, keys, result.revision);
    if (fenced !== undefined) return { term: term.term, termRevision: result.revision, ...fenced };
  }
  const winner = decodeTerm((await store.get(keys.term)).pair);
  throw new NotPrimaryError(winner?.owner ?? "", winner?.endpoint ?? "", winner?.term ?? 0n);
}

function requireGround(current: Term, { id, instance }: Identity, ground: Ground): void {
  const isOurs = Buffer.compare(current.nonce, instance) === 0;
  if (ground.kind === "token") {
    if (ground.token < current.token || (ground.token === current.token && current.owner !== id)) {
      throw new StaleTokenError(ground.token, current.token, current.owner);
    }
    return;
  }
  const isTaken = ground.heldTerm !== 0n && current.term > ground.heldTerm;
  if (!isOurs && (isTaken || current.token !== 0n)) {
    throw new NotPrimaryError(current.owner, current.endpoint, current.term);
  }
}

/**
 * The head as no older writer can change it any more, or undefined when our term has been taken meanwhile. A read alone
 * may be answered from the past (etcd #20418), so the head is put again as it was read: that succeeds only on the newest.
 */
async function confirmHead(
  store: KvStore,
  keys: LogKeys,
  termRevision: bigint,
): Promise<Pick<Claim, "head" | "headRevision"> | undefined> {
  let { pair } = await store.get(keys.head);
  while (pair !== undefined) {
    const result = await store.txn({
      compares: [
        { key: keys.term, modRevision: termRevision },
        { key: keys.head, modRevision: pair.modRevision },
      ],
      writes: [{ kind: "put", key: keys.head, value: pair.value }],
      readOnFailure: [keys.term, keys.head],
    });
    if (result.succeeded) return { head: decodeHead(pair), headRevision: result.revision };
    if (result.reads[0]?.modRevision !== termRevision) return undefined;
    pair = result.reads[1];
  }
  return undefined;
}

export function decodeTerm(pair: KeyValue | undefined): Term | undefined {
  return pair === undefined ? undefined : decodeState(TermSchema, pair);
}

export function decodeHead(pair: KeyValue): Head {
  return decodeState(HeadSchema, pair);
}

/** A key of the log that is not what we write is DATA_LOSS. */
export function decodeState<D extends DescMessage>(schema: D, pair: KeyValue): MessageShape<D> {
  try {
    return fromBinary(schema, pair.value);
  } catch (error) {
    throw new DataLossError(pair.key, 0n, `its value is damaged: ${String(error)}`);
  }
}
