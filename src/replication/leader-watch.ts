import type { Term } from "../gen/oplog/store/v1/store_pb.js";
import { decodeTerm } from "../leadership/claim.js";
import type { LogKeys } from "../oplog/keys.js";
import { type KvStore, StoreError } from "../oplog/kv-store.js";
import { Backoff, linkSignals, sleep } from "./timing.js";

/** A watch may have died without a sign; the key is read again this often. */
const READ_MS = 5000;
const RETRY_FIRST_MS = 50;
const RETRY_MAX_MS = 1000;

/** The term of a log now and on every change, through every break of the store, until the signal aborts. */
export async function* watchTerm(store: KvStore, keys: LogKeys, signal: AbortSignal): AsyncGenerator<Term | undefined> {
  const backoff = new Backoff(RETRY_FIRST_MS, RETRY_MAX_MS);
  let told: bigint | undefined;
  while (!signal.aborted) {
    try {
      const { pair, revision } = await store.get(keys.term);
      const term = decodeTerm(pair);
      if (told !== (term?.term ?? 0n)) yield term;
      told = term?.term ?? 0n;
      await changeOf(store, keys, revision + 1n, signal);
      backoff.reset();
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      await sleep(backoff.delayMs(), signal);
    }
  }
}

/** Resolves on the next event, or when it is time to look again anyhow. */
async function changeOf(store: KvStore, keys: LogKeys, startRevision: bigint, signal: AbortSignal): Promise<void> {
  const due = new AbortController();
  const { signal: both, unlink } = linkSignals(signal, due.signal);
  const timer = setTimeout(() => due.abort(), READ_MS);
  try {
    for await (const { events } of store.watch({ from: keys.term, to: `${keys.term}\0`, startRevision }, both)) {
      if (events.length > 0) return;
    }
  } finally {
    clearTimeout(timer);
    unlink();
  }
}
