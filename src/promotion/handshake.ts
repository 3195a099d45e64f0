import type { Log } from "../log/log.js";
import type { KvStore } from "../oplog/kv-store.js";
import type { Logger } from "../oplog/logger.js";
import { chainOf } from "../oplog/record.js";
import { linkSignals } from "../oplog/timing.js";
import { isConfirmed, watchLeadership } from "../stored/leader-watch.js";
import type { Leadership } from "../stored/leadership.js";
import type { Claim, Turn } from "../writing/claim.js";
import type { CampaignLife } from "./campaign-life.js";
import type { CampaignMessage, FinalEntry } from "./messages.js";
import { Preparation, type PreparationParts, type Prepared, type ReadyAnswer } from "./preparation.js";
import { unlessStoreFails, untilStoreAnswers } from "./store-answers.js";

export interface HandshakeParts extends PreparationParts {
  readonly store: KvStore;
  readonly log: Log;
  readonly logger: Logger;
  readonly send: (message: CampaignMessage) => boolean;
}

const NO_CHAIN = new Uint8Array();

/** What a candidate prepares itself for. */
interface Prospect {
  readonly term: bigint;
  readonly final: FinalEntry;
  readonly isHandOver: boolean;
  /** False: the store shows that it cannot come to that any more. */
  readonly isStill: (seen: Leadership) => boolean;
}

/** Has the candidate prepare itself, before it claims a term or afterwards, and for nothing that has become void. */
export class Handshake {
  private readonly preparation: Preparation;

  constructor(
    private readonly parts: HandshakeParts,
    private readonly life: CampaignLife,
    private readonly rereadMs: number,
  ) {
    this.preparation = new Preparation(parts);
  }

  /** The candidate has answered. */
  note(readiness: ReadyAnswer): void {
    this.preparation.note(readiness);
  }

  /** False: it does not come to a claim. The candidate waits on, or all is over. Rejects with OplogError. */
  async invited(turn: Turn, { term, successor }: Leadership, id: bigint): Promise<boolean> {
    const { life } = this;
    life.take({ kind: "invited" });
    const isStill = (seen: Leadership) =>
      seen.successorRevision === turn.successorRevision && seen.leaderRevision === turn.leaderRevision;
    const final = { id, chain: chainOf(successor?.finalChain ?? NO_CHAIN) };
    const prospect = { term: (term?.term ?? 0n) + 1n, final, isHandOver: true, isStill };
    const notItsTurn = () => life.take({ kind: "not its turn" });
    const outcome = await this.prepare(prospect, life.during("invited"), notItsTurn);
    if (outcome.kind === "late") life.take({ kind: "late", missing: outcome.missing });
    if (outcome.kind === "given up") notItsTurn();
    return life.kind === "invited";
  }

  /**
   * Returns the claim that is to be led; undefined: it is over. `prepared`: the last entry that the candidate was invited
   * with. Rejects with OplogError.
   */
  async won(won: Claim, prepared: bigint | undefined): Promise<Claim | undefined> {
    const { life } = this;
    const { log, clock, view } = this.parts;
    const { lastSequenceId, recordNonce } = won.head;
    const final = { id: lastSequenceId, chain: chainOf(recordNonce) };
    const signal = life.during("won");
    if (signal.aborted) return undefined;
    const taken = () => life.take({ kind: "taken", reason: "fenced", message: "somebody else has claimed the log" });
    let claim: Claim | undefined = won;
    if (prepared !== final.id) {
      const isStill = (seen: Leadership) =>
        seen.termRevision === won.termRevision && seen.leaderRevision === won.leaderRevision;
      const outcome = await this.prepare({ term: won.term, final, isHandOver: false, isStill }, signal, taken);
      if (outcome.kind === "late") life.take({ kind: "late", missing: outcome.missing });
      // That took its time: whether the term is still ours is asked of the store once more before it is told.
      claim = await untilStoreAnswers(clock, () => log.primary.confirm(won), signal);
      if (claim === undefined) taken();
    }
    try {
      // Whoever led here before may have sent the view back to following meanwhile.
      if (!signal.aborted) await view?.promote(final.id, signal);
    } catch (error) {
      if (!signal.aborted) throw error;
    }
    return signal.aborted ? undefined : claim;
  }

  /** `onVoid` is to abort the signal. */
  private async prepare(prospect: Prospect, signal: AbortSignal, onVoid: () => void): Promise<Prepared> {
    const { log, send, candidate, logger } = this.parts;
    const { term, final, isHandOver, isStill } = prospect;
    const done = new AbortController();
    const watching = linkSignals(signal, done.signal);
    // Once it is ready, what comes next asks the store anyway.
    const giveUp = () => {
      if (!done.signal.aborted) onVoid();
    };
    let failure: unknown;
    const fail = (error: unknown) => {
      if (done.signal.aborted) return;
      failure ??= error;
      this.life.take({ kind: "failed" });
    };
    // What is damaged there, or lost, is told below.
    this.watch(isStill, giveUp, watching.signal).catch(fail);
    // Beside what takes time anyhow. If the store fails, opening reads all of it, or fails the same way.
    const warming = unlessStoreFails(() => log.primary.warmUp(), undefined);
    warming.catch(fail);
    try {
      this.preparation.reset();
      const facts = {
        log: log.name,
        candidate: candidate.id,
        term: String(term),
        finalSequenceId: String(final.id),
        isHandOver,
        readyTimeoutMs: candidate.readyTimeoutMs,
      };
      logger.info({ event: "campaign_preparing", ...facts }, "the candidate is told to prepare itself");
      send({ kind: "prepare", term, final, isHandOver });
      const outcome = await this.preparation.until(term, final, isHandOver, signal);
      done.abort();
      await warming;
      if (failure !== undefined) throw failure;
      return outcome;
    } finally {
      done.abort();
      watching.unlink();
    }
  }

  private async watch(isStill: Prospect["isStill"], giveUp: () => void, signal: AbortSignal): Promise<void> {
    const { store, log, clock } = this.parts;
    const parts = { store, keys: log.keys, clock };
    for await (const seen of watchLeadership(parts, this.rereadMs, signal)) {
      if (!isStill(seen) && (await isConfirmed(parts, seen))) return giveUp();
    }
  }
}
