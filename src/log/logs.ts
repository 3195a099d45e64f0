import { ShuttingDownError, TooManyError } from "../oplog/errors.js";
import { LogKeys, logListing, requireLogName } from "../oplog/keys.js";
import { firstOf, keyAfter } from "../oplog/kv-pages.js";
import { decodeHead, decodeTerm } from "../stored/decode.js";
import { throughStore } from "../stored/store-failures.js";
import type { LogParts } from "./contract.js";
import { Log } from "./log.js";

export interface LogSummary {
  readonly log: string;
  readonly logId: Uint8Array;
  readonly head: bigint;
  readonly term: bigint;
}

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
  list(after: string, limit: number): Promise<{ logs: LogSummary[]; isLast: boolean }> {
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

  private async listFrom(start: string, limit: number): Promise<{ logs: LogSummary[]; isLast: boolean }> {
    const { store, keyPrefix } = this.parts;
    const logs: LogSummary[] = [];
    for (let from = start; ; ) {
      const first = await firstOf(store, { from, to: logListing.to(keyPrefix), keysOnly: true });
      if (first === undefined) return { logs, isLast: true };
      if (logs.length >= limit) return { logs, isLast: false };
      const name = logListing.logOf(keyPrefix, first.key);
      from = name === undefined ? keyAfter(first.key) : logListing.after(keyPrefix, name);
      if (name !== undefined) logs.push(...(await this.summary(name)));
    }
  }

  private async summary(name: string): Promise<LogSummary[]> {
    const keys = new LogKeys(this.parts.keyPrefix, name);
    const [head, term] = await Promise.all([this.parts.store.get(keys.head), this.parts.store.get(keys.term)]);
    if (head.pair === undefined) return [];
    const { logId, lastSequenceId } = decodeHead(head.pair);
    return [{ log: name, logId, head: lastSequenceId, term: decodeTerm(term.pair)?.term ?? 0n }];
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
