import { decodeHead, decodeTerm } from "../leadership/claim.js";
import { StoreUnavailableError, TooManyError } from "../oplog/errors.js";
import { LogKeys, logListing, requireLogName } from "../oplog/keys.js";
import { StoreError } from "../oplog/kv-store.js";
import { Log, type LogParts } from "./log.js";

export interface LogSummary {
  readonly log: string;
  readonly logId: Uint8Array;
  readonly head: bigint;
  readonly term: bigint;
}

/** The logs that this sidecar has to do with, and the listing of those in the store. */
export class Logs {
  private readonly open = new Map<string, Log>();

  constructor(
    private readonly parts: LogParts,
    private readonly openMax: number,
  ) {}

  get(name: string): Log {
    const known = this.open.get(requireLogName(name));
    if (known !== undefined) return known;
    if (this.open.size >= this.openMax) this.closeIdle();
    const log = new Log(this.parts, name);
    this.open.set(name, log);
    return log;
  }

  /** By name, after `after`; jumps from log to log without reading what is in them. */
  async list(after: string, limit: number): Promise<{ logs: LogSummary[]; isLast: boolean }> {
    const { store, keyPrefix } = this.parts;
    const logs: LogSummary[] = [];
    let from =
      after === "" ? logListing.from(keyPrefix) : logListing.after(keyPrefix, requireLogName(after, "page_token"));
    try {
      for (;;) {
        const { pairs } = await store.range({ from, to: logListing.to(keyPrefix), limit: 1, keysOnly: true });
        const name = pairs[0] === undefined ? undefined : logListing.logOf(keyPrefix, pairs[0].key);
        if (pairs[0] === undefined) return { logs, isLast: true };
        if (logs.length >= limit) return { logs, isLast: false };
        from = name === undefined ? `${pairs[0].key}\0` : logListing.after(keyPrefix, name);
        if (name !== undefined) logs.push(...(await this.summary(name)));
      }
    } catch (error) {
      throw error instanceof StoreError ? new StoreUnavailableError(0) : error;
    }
  }

  async drain(): Promise<void> {
    await Promise.all([...this.open.values()].map((log) => log.drain()));
  }

  async close(): Promise<void> {
    await Promise.all([...this.open.values()].map((log) => log.close()));
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
    throw new TooManyError("logs in use at this sidecar", this.openMax);
  }
}
