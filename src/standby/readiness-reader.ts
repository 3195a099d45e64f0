import type { Clock } from "../oplog/clock.js";
import { OplogError } from "../oplog/errors.js";
import { LogKeys, requireLogName } from "../oplog/keys.js";
import {
  type CallOptions,
  type KvStore,
  StoreDataLossError,
  StoreError,
  StoreRefusedError,
} from "../oplog/kv-store.js";
import { NoViewError } from "../oplog/log-errors.js";
import { isOtherChain } from "../oplog/record.js";
import { type HeadAtRest, readHead, readLease, readMissing, readTokenClaim } from "../stored/readiness-reads.js";
import { probeStore } from "../stored/store-probe.js";
import type { PhaseChange } from "./life-record.js";
import type { LogView, LogViews } from "./log-view.js";
import { type Assessment, assess, type ReadinessFacts } from "./readiness.js";

export interface ReadinessParts {
  readonly views: LogViews;
  readonly store: KvStore;
  readonly keyPrefix: string;
  readonly clock: Clock;
  readonly storeUnreachableMs: () => number;
}

export interface PromotionReadiness extends Assessment, Pick<ReadinessFacts, "life" | "applied" | "head"> {
  readonly history: readonly PhaseChange[];
}

/** For all that is read from the store together. */
const READ_MS_MAX = 1000;
/** For the watch to bring, and the view to apply, what was written just before the head was read. */
const ARRIVAL_MS_MAX = 250;

/** Finds out how near the views are to being led. Asks the store each time; changes nothing. */
export class ReadinessReader {
  /** Of each view whose watch was silent when it was last asked for: up to where it had brought, and since when that is known. */
  private readonly silences = new Map<LogView, { readonly delivered: bigint; readonly sinceMs: number }>();

  constructor(private readonly parts: ReadinessParts) {}

  /** Throws NoViewError. */
  async read(log: string, signal: AbortSignal): Promise<PromotionReadiness> {
    const view = this.parts.views.find(requireLogName(log));
    if (view === undefined) throw new NoViewError(log);
    const facts = await this.facts(view, signal);
    const { life, applied, head } = facts;
    return { ...assess(facts), life, applied, head, history: view.history };
  }

  private async facts(view: LogView, signal: AbortSignal): Promise<ReadinessFacts> {
    const { store, keyPrefix } = this.parts;
    const keys = new LogKeys(keyPrefix, view.name);
    const reading = new ReadinessReading(this.parts);
    const appliedBefore = BigInt(view.applied);
    const [head, lease, claim] = await Promise.all([
      reading.of((options) => readHead(store, keys, options)),
      reading.of((options) => readLease(store, keys, options)),
      reading.of((options) => readTokenClaim(store, keys, options)),
      reading.of((options) => probeStore(store, keyPrefix, options)),
    ]);
    const silence = head && (await this.silenceUpTo(head.head, view, signal));
    const next = BigInt(view.applied) + 1n;
    const absent = head && (await reading.of((options) => readMissing(store, keys, next, head, options)));
    const { unread, refusal, damage } = reading;
    const contradiction = head && contradictionOf(view, appliedBefore, head);
    // From here on without a pause: what is told of the view is of one moment.
    const life = view.lifeState;
    const { applied, head: headSeen, headAgeMs } = view.sight;
    const gap = view.feedView?.gap;
    return {
      life,
      applied,
      headSeen,
      headAgeMs,
      appliedPerSecond: view.appliedPerSecond,
      // What is applied is durable, and may be newer than the head that was read before.
      head: head && (contradiction === undefined && applied > head.head ? applied : head.head),
      unread,
      refusal,
      damage,
      contradiction,
      missing: absent ?? (gap !== undefined && gap.last > applied ? gap : undefined),
      silence: head !== undefined && applied < head.head ? silence : undefined,
      lease,
      divergences: view.divergences,
      claim,
    };
  }

  /** Gives what there is a moment to arrive, and tells whether the watch has brought nothing of it. */
  private async silenceUpTo(head: bigint, view: LogView, signal: AbortSignal): Promise<ReadinessFacts["silence"]> {
    const { clock } = this.parts;
    const askedMs = clock.monotonicMs();
    await view.awaitApplied(Number(head), signal, ARRIVAL_MS_MAX);
    const feed = view.feedView;
    if (feed === undefined || !feed.isReady || feed.last >= head || view.phase === "failed") return undefined;
    const nowMs = clock.monotonicMs();
    if (feed.watchAgeMs < nowMs - askedMs) return undefined;
    const known = this.silences.get(view);
    const sinceMs = known?.delivered === feed.last ? known.sinceMs : askedMs;
    this.silences.set(view, { delivered: feed.last, sinceMs });
    return { delivered: feed.last, elapsedMs: Math.round(nowMs - sinceMs) };
  }
}

/** Several reads with one deadline, of which each may fail. */
class ReadinessReading {
  unread: ReadinessFacts["unread"];
  /** The store answers, and says no. */
  refusal: string | undefined;
  /** What was read is damaged. */
  damage: string | undefined;
  private readonly startedMs: number;

  constructor(private readonly parts: Pick<ReadinessParts, "clock" | "storeUnreachableMs">) {
    this.startedMs = parts.clock.monotonicMs();
  }

  /** Undefined: it could not be read, and `unread`, `refusal` or `damage` is set. */
  async of<T>(read: (options: CallOptions) => Promise<T>): Promise<T | undefined> {
    const leftMs = READ_MS_MAX + ARRIVAL_MS_MAX - this.elapsedMs;
    try {
      return await read({ deadlineMs: Math.min(READ_MS_MAX, Math.max(1, leftMs)) });
    } catch (error) {
      if (error instanceof StoreRefusedError) this.refusal ??= error.message;
      else if (error instanceof StoreError) this.noteUnread(error);
      else if (error instanceof OplogError) this.damage ??= error.message;
      else throw error;
      return undefined;
    }
  }

  private get elapsedMs(): number {
    return Math.round(this.parts.clock.monotonicMs() - this.startedMs);
  }

  private noteUnread(error: StoreError): void {
    const because = error instanceof StoreDataLossError ? error.message : "the store does not answer";
    this.unread ??= { because, elapsedMs: Math.max(this.elapsedMs, this.parts.storeUnreachableMs()) };
  }
}

function contradictionOf(view: LogView, appliedBefore: bigint, { head, logId, chain }: HeadAtRest): string | undefined {
  if (head < appliedBefore) return `the head in the store is ${head}, and ${appliedBefore} has been applied`;
  const isOther = view.logId.length > 0 && Buffer.compare(view.logId, logId) !== 0;
  if (isOther) return "the log in the store is another one";
  // The right number alone proves nothing: after a restore of the store other entries have the same ones.
  if (BigInt(view.applied) !== head || !isOtherChain(view.appliedChain, chain)) return undefined;
  return `the store has another history: chain ${chain} at its head, and ${view.appliedChain} was applied`;
}
