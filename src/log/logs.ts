import { ShuttingDownError, TooManyError } from "../oplog/errors.js";
import { LogKeys, logListing, requireLogName, storeAnchorKey } from "../oplog/keys.js";
import { DataLossError } from "../oplog/log-errors.js";
import { sleep } from "../oplog/timing.js";
import { decodeHead, decodeTerm } from "../stored/decode.js";
import { isBeingDeleted } from "../stored/deletion.js";
import { throughStore } from "../stored/store-failures.js";
import { forgotten } from "../writing/log-primary.js";
import type { LogParts } from "./contract.js";
import { Log, type LogRest } from "./log.js";

export interface LogSummary {
  readonly log: string;
  readonly logId: Uint8Array;
  readonly head: bigint;
  readonly term: bigint;
  /** What of it is damaged in the store; empty = nothing is. */
  readonly problem: string;
  readonly isDeleting: boolean;
}

export interface LogList {
  readonly logs: readonly LogSummary[];
  /** The next page comes after this name, which need not be that of a log. */
  readonly last: string | undefined;
  /** Names below the prefix that no log can have. */
  readonly foreign: { readonly count: number; readonly first: string } | undefined;
  readonly isLast: boolean;
}

interface HeldLog {
  readonly log: Log;
  /** Since the last `tend`. */
  isUsed: boolean;
  usedMs: number;
}

const IDLE_MS = 10 * 60_000;
const RESTS_MAX = 10_000;
const TEND_MS = 2000;
const LISTED_KEYS = 256;
const LISTED_BYTES = 1024 * 1024;
const SUMMARIES_AT_ONCE = 32;

/** The logs that this sidecar uses, and the list of all logs in the store. */
export class Logs {
  private readonly open = new Map<string, HeldLog>();
  /** What is kept of closed logs, the newest last. Without it a log is as after a restart of this sidecar. */
  private readonly rests = new Map<string, LogRest>();
  /** Since the last `tend`. */
  private readonly closed = new Set<string>();
  private isDraining = false;

  constructor(
    private readonly parts: LogParts,
    private readonly openMax: number,
    private readonly idleMs = IDLE_MS,
  ) {}

  get(name: string): Log {
    const known = this.open.get(requireLogName(name));
    if (known !== undefined) {
      known.isUsed = true;
      return known.log;
    }
    if (this.isDraining) throw new ShuttingDownError();
    if (this.open.size >= this.openMax) this.makeRoom();
    const log = new Log(this.parts, name, this.rests.get(name));
    this.rests.delete(name);
    this.open.set(name, { log, isUsed: true, usedMs: this.parts.clock.monotonicMs() });
    return log;
  }

  /** Closes logs that nobody has used for long, until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await sleep(this.parts.clock, TEND_MS, signal);
      if (!signal.aborted) this.tend();
    }
  }

  /**
   * To be called every few seconds: closes logs that nobody has used for long. A log that was used since the last call is
   * never closed: its user may not have started yet.
   */
  tend(): void {
    const nowMs = this.parts.clock.monotonicMs();
    for (const [name, held] of this.open) {
      if (held.isUsed) held.usedMs = nowMs;
      held.isUsed = false;
      const isLeft = nowMs - held.usedMs >= this.idleMs && !held.log.isExpiringCursors;
      if (isLeft && held.log.canRest) this.closeLog(name, held.log);
    }
    const gone = new Set([...this.closed].filter((name) => !this.open.has(name)));
    this.closed.clear();
    if (gone.size > 0) this.parts.onGone(gone);
  }

  /** By name, after `after`; jumps from log to log without reading what is in them. */
  list(after: string, limit: number): Promise<LogList> {
    const { keyPrefix, storeUnreachableMs } = this.parts;
    const from =
      after === "" ? logListing.from(keyPrefix) : logListing.after(keyPrefix, requireLogName(after, "page_token"));
    return throughStore(this.listFrom(from, limit), storeUnreachableMs);
  }

  /** An operator has adopted the store: what has been seen of the logs before is no longer valid. */
  forget(): void {
    for (const { log } of this.open.values()) log.forget();
    for (const [name, { primary, sightings }] of this.rests) {
      sightings.forget();
      this.rests.set(name, { primary: primary && forgotten(primary), sightings });
    }
  }

  async drain(): Promise<void> {
    this.isDraining = true;
    await Promise.all([...this.open.values()].map(({ log }) => log.drain()));
  }

  async close(): Promise<void> {
    await Promise.all([...this.open.values()].map(({ log }) => log.close()));
  }

  private async listFrom(start: string, limit: number): Promise<LogList> {
    const { names, foreign, isLast } = await this.namesFrom(start, limit);
    const logs: LogSummary[] = [];
    for (let done = 0; done < names.length; done += SUMMARIES_AT_ONCE) {
      const some = await Promise.all(names.slice(done, done + SUMMARIES_AT_ONCE).map((name) => this.summary(name)));
      logs.push(...some.filter((summary) => summary !== undefined));
    }
    return { logs, last: names.at(-1), foreign, isLast };
  }

  /** Reads a page of keys, then jumps behind the log of the last key: few logs have more keys than a page. */
  private async namesFrom(start: string, limit: number): Promise<Omit<LogList, "logs"> & { readonly names: string[] }> {
    const { store, keyPrefix } = this.parts;
    const names: string[] = [];
    let foreign: LogList["foreign"];
    let passed = "";
    for (let from = start; ; ) {
      const to = logListing.to(keyPrefix);
      const { pairs, more } = await store.page({
        from,
        to,
        limit: LISTED_KEYS,
        bytesMax: LISTED_BYTES,
        keysOnly: true,
      });
      for (const { key } of pairs) {
        const { name, isLog } = logListing.nameIn(keyPrefix, key);
        if (name === passed) continue;
        if (isLog && names.length === limit) return { names, last: names.at(-1), foreign, isLast: false };
        if (isLog) names.push(name);
        else if (key !== storeAnchorKey(keyPrefix))
          foreign = { count: (foreign?.count ?? 0) + 1, first: foreign?.first ?? key };
        passed = name;
        from = logListing.after(keyPrefix, name);
      }
      if (!more) return { names, last: names.at(-1), foreign, isLast: true };
    }
  }

  /** Undefined: there is no head. The keys are what is left of a log, or the log is just being made. */
  private async summary(name: string): Promise<LogSummary | undefined> {
    const { store } = this.parts;
    const keys = new LogKeys(this.parts.keyPrefix, name);
    const [head, term] = await Promise.all([store.get(keys.head), store.get(keys.term)]);
    if (head.pair === undefined) return undefined;
    const problems: string[] = [];
    const tolerant = <T>(read: () => T): T | undefined => {
      try {
        return read();
      } catch (error) {
        if (!(error instanceof DataLossError)) throw error;
        problems.push(error.message);
        return undefined;
      }
    };
    const stored = tolerant(() => decodeHead(head.pair!));
    const current = tolerant(() => decodeTerm(term.pair));
    return {
      log: name,
      logId: stored?.logId ?? new Uint8Array(),
      head: stored?.lastSequenceId ?? 0n,
      term: current?.term ?? 0n,
      problem: problems.join("; "),
      isDeleting: stored !== undefined && isBeingDeleted(stored, current),
    };
  }

  /** Closes a log of which nothing has to be kept, or else the one that has not been used for longest. */
  private makeRoom(): void {
    let longest: [string, HeldLog] | undefined;
    for (const each of this.open) {
      const [name, { log, isUsed, usedMs }] = each;
      if (log.canRest && log.isUnknown) {
        this.closeLog(name, log);
        return;
      }
      if (!isUsed && log.canRest && (longest === undefined || usedMs < longest[1].usedMs)) longest = each;
    }
    if (longest === undefined)
      throw new TooManyError("logs in use at this sidecar (--logs-max)", this.openMax, TEND_MS);
    this.closeLog(longest[0], longest[1].log);
  }

  private closeLog(name: string, log: Log): void {
    this.open.delete(name);
    this.closed.add(name);
    const { isUnknown } = log;
    const rest = log.rest();
    if (isUnknown) return;
    this.rests.set(name, rest);
    for (const oldest of this.rests.keys()) {
      if (this.rests.size <= RESTS_MAX) break;
      this.rests.delete(oldest);
    }
  }
}
