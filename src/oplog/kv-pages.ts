import type { CallOptions, KeyValue, KvStore, Page } from "./kv-store.js";

/** All pairs of [from, to). */
export interface RangeRequest {
  readonly from: string;
  readonly to: string;
  readonly keysOnly?: boolean;
  /** Of one page; 1,000 unless told. */
  readonly pairsMax?: number;
  /** Of one page, as at PageRequest; 1 MiB unless told. */
  readonly bytesMax?: number;
}

const PAGE_PAIRS = 1000;
const PAGE_BYTES = 1024 * 1024;

/**
 * A range to its end, page by page, the next one being fetched while one is used: two are held at a time. Pages are not
 * pinned to a revision, so compaction cannot break them; each is as of a revision of its own, which never falls. Ends
 * after the one page that has `more` false.
 */
export async function* pagesOf(
  store: KvStore,
  { from, to, keysOnly = false, pairsMax = PAGE_PAIRS, bytesMax = PAGE_BYTES }: RangeRequest,
  options?: CallOptions,
): AsyncGenerator<Page> {
  const fetch = (start: string) =>
    store.page({ from: start, to, limit: pairsMax, bytesMax, ...(keysOnly && { keysOnly }) }, options);
  for (let pending = fetch(from); ; ) {
    const page = await pending;
    if (page.more) {
      pending = fetch(keyAfter(page.pairs.at(-1)!.key));
      // If the consumer stops early nobody awaits it; a failure then concerns nobody.
      pending.catch(() => undefined);
    }
    yield page;
    if (!page.more) return;
  }
}

export interface WholeRange {
  readonly pairs: KeyValue[];
  /** Of the first page: whatever was written later may be missing. */
  readonly revision: bigint;
}

/** For ranges that a limit keeps small. */
export async function wholeRange(store: KvStore, range: RangeRequest, options?: CallOptions): Promise<WholeRange> {
  const pairs: KeyValue[] = [];
  let revision: bigint | undefined;
  for await (const page of pagesOf(store, range, options)) {
    pairs.push(...page.pairs);
    revision ??= page.revision;
  }
  return { pairs, revision: revision! };
}

/** The first pair of [from, to). */
export async function firstOf(
  store: KvStore,
  { from, to, keysOnly = false }: RangeRequest,
  options?: CallOptions,
): Promise<KeyValue | undefined> {
  const { pairs } = await store.page(
    { from, to, limit: 1, bytesMax: PAGE_BYTES, ...(keysOnly && { keysOnly }) },
    options,
  );
  return pairs[0];
}

/** The next key that there may be. */
export function keyAfter(key: string): string {
  return `${key}\0`;
}
