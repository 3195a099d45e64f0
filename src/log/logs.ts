import { DataLossError, ShuttingDownError, TooManyError } from "../oplog/errors.js";
import { LogKeys, logListing, requireLogName } from "../oplog/keys.js";
import { decodeHead, decodeTerm } from "../stored/decode.js";
import { throughStore } from "../stored/store-failures.js";
import type { LogParts } from "./contract.js";
import { Log } from "./log.js";

export interface LogSummary {
  readonly log: string;
  readonly logId: Uint8Array;
  readonly head: bigint;
  readonly term: bigint;
  /** What of it is damaged in the store; empty = nothing is. */
  readonly problem: string;
}

export interface LogList {
  readonly logs: readonly LogSummary[];
  /** The next page comes after this name, which need not be that of a log. */
  readonly last: string | undefined;
  /** Names below the prefix that no log can have. */
  readonly foreign: { readonly count: number; readonly first: string } | undefined;
  readonly isLast: boolean;
}

const LISTED_KEYS = 256;
const LISTED_BYTES = 1024 * 1024;
const SUMMARIES_AT_ONCE = 32;

/** The logs that this sidecar has to do with, and the listing of those in the store. */
export class Logs {
  private readonly open = new Map<string, Log>();
  private isDraining = false;

  constructor(
    private readonly parts: LogParts,
    private readonly openMax: number,
  ) {}

  get(name: string): Log {
    const known = this.open.get(requireLogName(name));
    if (known !== undefined) return known;
    if (this.isDraining) throw new ShuttingDownError();
    if (this.open.size >= this.openMax) this.closeIdle();
    const log = new Log(this.parts, name);
    this.open.set(name, log);
    return log;
  }

  /** By name, after `after`; jumps from log to log without reading what is in them. */
  list(after: string, limit: number): Promise<LogList> {
    const { keyPrefix, storeUnreachableMs } = this.parts;
    const from =
      after === "" ? logListing.from(keyPrefix) : logListing.after(keyPrefix, requireLogName(after, "page_token"));
    return throughStore(this.listFrom(from, limit), storeUnreachableMs);
  }

  /** An operator has adopted the store: what has been seen of the logs before says nothing any more. */
  forget(): void {
    for (const log of this.open.values()) log.forget();
  }

  async drain(): Promise<void> {
    this.isDraining = true;
    await Promise.all([...this.open.values()].map((log) => log.drain()));
  }

  async close(): Promise<void> {
    await Promise.all([...this.open.values()].map((log) => log.close()));
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

  /** Reads some keys at a time, and goes on after the log that the last of them belongs to: few have that many. */
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
        else foreign = { count: (foreign?.count ?? 0) + 1, first: foreign?.first ?? key };
        passed = name;
        from = logListing.after(keyPrefix, name);
      }
      if (!more) return { names, last: names.at(-1), foreign, isLast: true };
    }
  }

  /** Undefined: keys are left of it, or are being made, and no log. */
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
    };
  }

  private closeIdle(): void {
    for (const [name, log] of this.open) {
      if (!log.isIdle) continue;
      this.open.delete(name);
      void log.close();
      return;
    }
    throw new TooManyError("logs in use at this sidecar since its start (--logs-max)", this.openMax);
  }
}
