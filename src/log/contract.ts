import type { CursorUpdate } from "../cursors/cursor-rules.js";
import type { CursorMoved } from "../cursors/cursor-writer.js";
import type { FeedParts } from "../following/log-feed.js";
import type { PageTurns } from "../following/page-turns.js";
import type { ReadPage } from "../following/read-page.js";
import type { Start } from "../following/start-position.js";
import type { FrameSink, SubscriptionOptions } from "../following/subscription.js";
import type { KvStore } from "../oplog/kv-store.js";
import type { HistoryDivergedError } from "../oplog/log-errors.js";
import type { Resolution } from "../oplog/operation-window.js";
import type { LogState } from "../stored/log-state.js";
import type { RecordDescription } from "../stored/record-description.js";
import type { AppendItem } from "../writing/append-item.js";
import type { LogPrimaryParts } from "../writing/log-primary.js";

/** How an append waits until it is queued. */
export interface AppendWait {
  /** Waits for room in the queue, until this aborts; without it, a full queue refuses the append. */
  readonly paced?: AbortSignal;
  /** Called last, just before the append is queued; throws OplogError if it is not to be queued any more. */
  readonly confirm?: () => void;
}

/** One log, as the gRPC services use it. All methods reject with OplogError for what the client is to be told. */
export interface ServedLog {
  readonly name: string;

  /**
   * Claims the log if need be, and queues the append. Appends that have been queued are always settled, in order; if this
   * rejects, the append was not queued. A caller that wants an order awaits each call before the next.
   */
  append(item: AppendItem, admission?: AppendWait): Promise<void>;

  /**
   * What became of an append; 0n asks for the highest operation of the writer. An operation that is called not committed
   * never commits. `isForwarded`: another sidecar asks, so no further sidecar is asked.
   */
  resolveAppend(writerId: string, operationId: bigint, isForwarded?: boolean): Promise<Resolution>;

  read(from: bigint, entriesMax: number, bytesMax: number, signal?: AbortSignal): Promise<ReadPage>;

  /** The record that holds this entry, without the entries in it; 0n = the last one. */
  describeRecord(id: bigint): Promise<RecordDescription>;

  /** Serves one subscriber until it leaves. `logId`: of the log that it saw before, or empty. */
  subscribe(
    options: SubscriptionOptions,
    start: Start,
    logId: Uint8Array,
    sink: FrameSink,
    signal: AbortSignal,
  ): Promise<void>;

  updateCursor(update: CursorUpdate): Promise<CursorMoved>;

  deleteCursor(consumer: string): Promise<void>;

  /** `logId`: of the log that is meant. Of one that is gone already that is no error. */
  delete(logId: Uint8Array): Promise<void>;

  /** Read from the store. While the store is away: what was seen last, or "unknown", as a missing log may exist by now. */
  observe(): Promise<LogState | "missing" | "unknown">;
}

export interface AppendQuestion {
  readonly log: string;
  readonly writerId: string;
  readonly operationId: bigint;
}

/** Asks the sidecar there what became of an append. Undefined: no answer in time. Never rejects. */
export type AskLeader = (endpoint: string, question: AppendQuestion) => Promise<Resolution | undefined>;

export interface LogParts
  extends Omit<LogPrimaryParts, "keys" | "sightings" | "onCommitted" | "onLeading" | "rest">,
    Pick<FeedParts, "cacheBytesMax" | "headPollMs"> {
  readonly keyPrefix: string;
  readonly subscriptionsMax: SubscriptionBudget;
  readonly pageTurns: PageTurns;
  readonly storeUnreachableMs: () => number;
  readonly askLeader: AskLeader;
  /** Reads what is in the store, also while it is refused because it is another one than it was. */
  readonly inspect: <T>(read: (store: KvStore) => Promise<T>) => Promise<T>;
  /** How long a cursor may be silent before the leader removes it; 0 = for ever. */
  readonly cursorExpiryMs: number;
  /** Called once for each log that is found to exist. */
  readonly onFound: (log: string) => void;
  /** The store has another history of the log than the one that was seen here. */
  readonly onDiverged: (log: string, error: HistoryDivergedError) => void;
  /** Called with logs that were found, or asked for, and that nobody uses any more. */
  readonly onGone: (logs: ReadonlySet<string>) => void;
}

/** How many subscriptions are open, over all logs. */
export interface SubscriptionBudget {
  open: number;
  readonly max: number;
}

/** What is known of a log without asking the store. */
export interface FeedView {
  /** Whether the head has been read at all. */
  readonly isReady: boolean;
  readonly logId: Uint8Array | undefined;
  /** The last entry that the feed has brought. */
  readonly last: bigint;
  readonly head: bigint;
  readonly headAgeMs: number;
  /** Since the watch last brought anything, or was started. */
  readonly watchAgeMs: number;
  /** Ids that are missing while later ones have been seen. */
  readonly gap: { readonly first: bigint; readonly last: bigint } | undefined;
}
