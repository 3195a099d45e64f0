import type { Log } from "../log/log.js";
import type { Logs } from "../log/logs.js";
import { InvalidArgumentError, type OplogError, ShuttingDownError, TooManyError } from "../oplog/errors.js";
import { CandidateExistsError, NotElectedError, NotPrimaryError } from "../oplog/leadership-errors.js";
import { StoreUnavailableError } from "../oplog/store-errors.js";
import type { ObjectEviction } from "../standby/eviction.js";
import type { LogViews } from "../standby/log-view.js";
import { primaryOf } from "../stored/primary.js";
import { Campaign, type CampaignParts } from "./campaign.js";
import type { HandedOver } from "./hand-over.js";
import type { HeldTerm } from "./held-term.js";
import type { Leader } from "./leader.js";
import type { CampaignMessage, Candidate, Lost } from "./messages.js";

export interface CampaignsParts extends Omit<CampaignParts, "log" | "view" | "eviction" | "candidate" | "send"> {
  readonly logs: Logs;
  readonly views: LogViews;
  /** Of a log that has a view. */
  readonly evictionOf: (log: string) => ObjectEviction | undefined;
  /** Where this sidecar is reached. */
  readonly endpoint: () => string;
}

const CANDIDATES_MAX = 64;

/** A candidate that is under way at this sidecar. */
export interface OpenCampaign {
  readonly campaign: Campaign;
  readonly ended: Promise<Lost>;
}

interface Holding {
  readonly open: OpenCampaign;
  readonly held: HeldTerm;
}

interface Leading {
  readonly open: OpenCampaign;
  readonly leader: Leader;
}

/** The candidates that campaign through this sidecar. */
export class Campaigns {
  /** The newest of each candidate. */
  private readonly byLog = new Map<string, Map<string, OpenCampaign>>();
  /** Those also that are over and still give up what they held. */
  private readonly running = new Set<OpenCampaign>();
  private isDraining = false;

  constructor(private readonly parts: CampaignsParts) {}

  /** Throws OplogError. What is sent to the candidate comes through `send`; `ended` rejects with OplogError. */
  enter(logName: string, entrant: Candidate, send: (message: CampaignMessage) => boolean): OpenCampaign {
    if (this.isDraining) throw new ShuttingDownError();
    const { logs, views, endpoint } = this.parts;
    const candidate = { ...entrant, endpoint: entrant.endpoint === "" ? endpoint() : entrant.endpoint };
    const log = logs.get(logName);
    const others = this.byLog.get(logName) ?? new Map<string, OpenCampaign>();
    // One that was told that it is over may come back while what it held is still being given up.
    if (others.get(candidate.id)?.campaign.isOver === false) throw new CandidateExistsError(logName, candidate.id);
    const running = [...this.running].filter(({ campaign }) => campaign.log === logName);
    if (running.length >= CANDIDATES_MAX) throw new TooManyError("candidates of the log", CANDIDATES_MAX);
    const view = views.find(logName)?.requireWorking();
    const eviction = this.parts.evictionOf(logName);
    const campaign = new Campaign({ ...this.parts, log, view, eviction, candidate, send });
    const release = log.retain();
    const ended = campaign.run().finally(() => {
      release();
      this.running.delete(open);
      if (others.get(candidate.id) === open) others.delete(candidate.id);
      if (others.size === 0 && this.byLog.get(logName) === others) this.byLog.delete(logName);
    });
    // Whoever waits for it is told; nobody may be waiting yet.
    ended.catch(() => undefined);
    const open: OpenCampaign = { campaign, ended };
    this.running.add(open);
    others.set(candidate.id, open);
    this.byLog.set(logName, others);
    return open;
  }

  /** That a candidate leads here. Rejects with who leads instead. */
  async leadingTerm(logName: string): Promise<bigint> {
    return (await this.requireLeader(logName)).leader.claim.term;
  }

  /** Makes all candidates give up, and lets no more enter; resolves once they have given up. */
  async drain(): Promise<void> {
    this.isDraining = true;
    const open = [...this.running];
    for (const { campaign } of open) campaign.resign("this sidecar stops");
    await Promise.allSettled(open.map(({ ended }) => ended));
  }

  /** Of the leader, ready or not. Returns once the log is vacant. */
  async resign(logName: string): Promise<{ readonly term: bigint; readonly finalSequenceId: bigint }> {
    const newest = this.newest(logName);
    if (newest === undefined) throw await this.notLeading(logName);
    const { open } = newest;
    open.campaign.resign("Resign was called");
    await open.ended.catch(() => undefined);
    // It may lead since a moment ago, and have accepted appends before it was told to give up.
    const { term, finalSequenceId, leaderRevision: held } = open.campaign.lastHeld ?? newest.held;
    const { leaderRevision } = await this.parts.logs.get(logName).readLeadership();
    if (leaderRevision !== 0n && leaderRevision === held) {
      throw new StoreUnavailableError(
        this.parts.storeUnreachableMs(),
        "the leader has stepped down, and its lease could not be given up: it runs out",
      );
    }
    return { term, finalSequenceId };
  }

  async handOver(logName: string, target: string, timeoutMs: number): Promise<HandedOver> {
    const { open, leader } = await this.requireLeader(logName);
    if (open.campaign.id === target) throw new InvalidArgumentError("target", `"${target}" leads already`);
    return leader.handOver(target, timeoutMs);
  }

  private async requireLeader(logName: string): Promise<Leading> {
    const open = this.newest(logName)?.open;
    const leader = open?.campaign.leading;
    if (open !== undefined && leader !== undefined) return { open, leader };
    throw await this.notLeading(logName);
  }

  private async notLeading(logName: string): Promise<OplogError> {
    const log = this.parts.logs.get(logName);
    return log.primary.preparing ?? notLeading(log);
  }

  /** One that has been followed by another here may not know yet. */
  private newest(logName: string): Holding | undefined {
    let newest: Holding | undefined;
    for (const open of this.byLog.get(logName)?.values() ?? []) {
      const { held, leading } = open.campaign;
      if (held === undefined || leading?.isOver) continue;
      if (newest === undefined || held.term > newest.held.term) newest = { open, held };
    }
    return newest;
  }
}

async function notLeading(log: Log): Promise<NotElectedError | NotPrimaryError> {
  const { term, leader } = await log.readLeadership();
  if (term?.elected !== true) return new NotElectedError(log.name);
  const { id, endpoint, term: current } = primaryOf(term, leader !== undefined);
  return new NotPrimaryError(id, endpoint, current);
}
