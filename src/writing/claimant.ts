import type { Clock } from "../oplog/clock.js";
import type { LogKeys } from "../oplog/keys.js";
import { type KvStore, StoreError } from "../oplog/kv-store.js";
import { HistoryDivergedError } from "../oplog/log-errors.js";
import type { Logger } from "../oplog/logger.js";
import type { OperationWindow } from "../oplog/operation-window.js";
import { decodeHead } from "../stored/decode.js";
import { toOplogError } from "../stored/store-failures.js";
import {
  type CandidateIdentity,
  type Claim,
  claimElectedTerm,
  claimTerm,
  type Ground,
  type Identity,
  type Turn,
} from "./claim.js";
import { type EntrySeen, requireKnownHistory, requireUpTo } from "./known-history.js";
import { WindowReader } from "./window-restore.js";

/** What this process knows of the history of the log, beside the store. */
export interface HistorySightings {
  noteDiverged(error: HistoryDivergedError): void;
  /** The last entry of which this process can tell whether the store still has it. */
  lastSeen(): EntrySeen | undefined;
}

export interface ClaimantParts {
  readonly store: KvStore;
  readonly keys: LogKeys;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly sightings: HistorySightings;
  /** How long the store has not answered by now. */
  readonly storeUnreachableMs: () => number;
}

/**
 * Takes terms of one log for this process, and reads what was written under the terms before. Claims nothing where the store
 * has lost what this process has seen of the log: that concerns the whole sidecar, which is told.
 */
export class Claimant {
  /** What has been read for a term that may come. */
  private reader: WindowReader | undefined;
  /** Why the newest claim failed, and none has succeeded since. */
  private failure: string | undefined;

  constructor(private readonly parts: ClaimantParts) {}

  /** Rejects with OplogError and StoreError. */
  async claim(identity: Identity, ground: Ground): Promise<Claim> {
    const { store, keys } = this.parts;
    const claim = await this.claimKnown(() => claimTerm(store, keys, identity, ground));
    this.failure = undefined;
    return claim;
  }

  /** Undefined: it was not its turn any more. Rejects with OplogError and StoreError. */
  claimElected(identity: Identity, candidacy: CandidateIdentity, turn: Turn): Promise<Claim | undefined> {
    const { store, keys } = this.parts;
    return this.claimKnown(() => claimElectedTerm(store, keys, identity, candidacy, turn));
  }

  /** Reads beforehand most of what `window` would have to read. Rejects with StoreError. */
  async warmUp(): Promise<void> {
    const { pair } = await this.parts.store.get(this.parts.keys.head);
    if (pair === undefined) return;
    this.reader ??= this.newReader();
    await this.reader.read(decodeHead(pair));
  }

  /** Nothing is going to be opened: forgets what `warmUp` has read. */
  coolDown(): void {
    this.reader = undefined;
  }

  /** What earlier writers have committed. */
  window({ head }: Claim): Promise<OperationWindow> {
    return this.telling(() => this.newReader().read(head));
  }

  /** The same with what `warmUp` has read, which is then forgotten. */
  warmWindow({ head }: Claim): Promise<OperationWindow> {
    const reader = this.reader ?? this.newReader();
    this.reader = undefined;
    return this.telling(() => reader.read(head));
  }

  /** What a claim that was begun then, and failed by the store, is refused with. Throws any other error. */
  refusalOf(error: unknown, startedMs: number) {
    if (!(error instanceof StoreError)) throw error;
    this.noteFailed(error);
    const failedMs = Math.round(this.parts.clock.monotonicMs() - startedMs);
    return toOplogError(error, Math.max(failedMs, this.parts.storeUnreachableMs()), "nothing was written");
  }

  private async claimKnown<C extends Claim | undefined>(claim: () => Promise<C>): Promise<C> {
    const { store, keys, sightings } = this.parts;
    const seen = sightings.lastSeen();
    return this.telling(async () => {
      await requireKnownHistory(store, keys, seen);
      const claimed = await claim();
      if (claimed !== undefined) requireUpTo(keys, claimed.head, seen);
      return claimed;
    });
  }

  private async telling<T>(read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (error) {
      if (error instanceof HistoryDivergedError) this.parts.sightings.noteDiverged(error);
      throw error;
    }
  }

  private newReader(): WindowReader {
    return new WindowReader(this.parts.store, this.parts.keys, this.parts.clock);
  }

  /** Each append may try: one line when it begins, and when the reason changes. */
  private noteFailed({ message }: StoreError): void {
    if (this.failure === message) return;
    this.failure = message;
    const facts = { event: "claim_failed", log: this.parts.keys.log, error: message };
    this.parts.logger.warn(facts, "could not claim the log; each append tries again");
  }
}
