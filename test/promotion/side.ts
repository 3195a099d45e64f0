import type { LogParts } from "../../src/log/contract.js";
import type { Log } from "../../src/log/log.js";
import { Logs } from "../../src/log/logs.js";
import type { KvStore } from "../../src/oplog/kv-store.js";
import { type Logger, silentLogger } from "../../src/oplog/logger.js";
import type { CampaignObserver } from "../../src/promotion/campaign.js";
import { Campaigns } from "../../src/promotion/campaigns.js";
import type { CampaignMessage, Candidate, Lost } from "../../src/promotion/messages.js";
import { ObjectEviction } from "../../src/standby/eviction.js";
import type { View } from "../../src/standby/view.js";
import { Views } from "../../src/standby/views.js";
import { logParts } from "../following/followers.js";
import { anAppend, anIdentity, inTime, type TestAppend, testClock, until } from "../log/support.js";
import { type EntryInit, LIMITS } from "../oplog/entries-support.js";

export const TTL_MS = 3000;

export interface SideShape {
  readonly hasView?: boolean;
  readonly objectLeaseDefaultMs?: number;
  readonly log?: Partial<LogParts>;
  /** Of the campaigns. */
  readonly logger?: Logger;
  readonly observer?: CampaignObserver;
  /** Called when objects have been removed. */
  readonly onEvicted?: () => void;
}

const unobserved: CampaignObserver = { promoted() {}, lost() {}, handedOver() {} };

type Kind = CampaignMessage["kind"];

/** One candidacy at a side, and everything that it was told. */
export class Entrant {
  readonly told: CampaignMessage[] = [];
  /** How it ended: a Lost, or what it was refused with. */
  end: Lost | Error | undefined;
  readonly campaign;
  readonly ended: Promise<Lost | Error>;

  constructor(campaigns: Campaigns, candidate: Candidate) {
    const { campaign, ended } = campaigns.enter("log", candidate, (message) => this.told.push(message) > 0);
    this.campaign = campaign;
    this.ended = ended.catch((error: Error) => error);
    this.ended.then((end) => {
      this.end = end;
    });
  }

  get kinds(): Kind[] {
    return this.told.map(({ kind }) => kind);
  }

  get terms(): bigint[] {
    return this.told.flatMap((each) => (each.kind === "leading" ? [each.term] : []));
  }

  /** Until when it relies on it that nobody else leads. */
  get promisedUntilMs(): number {
    return Math.max(0, ...this.told.map((each) => (each.kind === "lease renewed" ? each.validUntilMs : 0)));
  }

  async hears(kind: Kind, times = 1): Promise<void> {
    const count = () => this.kinds.filter((each) => each === kind).length;
    await until(() => count() >= times, `"${this.campaign.id}" to be told ${kind}`);
  }

  ready(applied: bigint, stateHash: Uint8Array = new Uint8Array(), appliedChain = ""): void {
    this.campaign.ready({ applied, stateHash, appliedChain, term: 0n });
  }

  async resign(): Promise<Lost | Error> {
    this.campaign.resign("done");
    return inTime(this.ended);
  }
}

/** One sidecar without its surface. Its time is that of the test. */
export class Side {
  readonly logs: Logs;
  readonly campaigns: Campaigns;
  private readonly views: Views;

  constructor(name: string, store: KvStore, shape: SideShape = {}) {
    const {
      hasView = false,
      objectLeaseDefaultMs,
      log = {},
      logger = silentLogger,
      observer: own = unobserved,
      onEvicted = () => undefined,
    } = shape;
    const logs = new Logs(logParts(store, { identity: anIdentity(name), ...log }), 10);
    const common = { clock: testClock, logger: silentLogger };
    const observer = { applied() {}, keyOrderViolated() {}, diverged() {}, phase() {} };
    const openLog = (each: string) => logs.get(each);
    const views = new Views(
      { ...common, openLog, observer, headPollMs: 1000, objectLeaseDefaultMs },
      hasView ? ["log"] : [],
    );
    this.campaigns = new Campaigns({
      ...common,
      logger,
      store,
      logs,
      views,
      observer: own,
      storeUnreachableMs: () => 0,
      endpoint: () => `${name}:7070`,
      evictionOf: (each) => {
        const view = views.find(each);
        return view && new ObjectEviction({ ...common, view, limits: LIMITS, observer: { evicted: onEvicted } });
      },
    });
    this.logs = logs;
    this.views = views;
    void views.run(new AbortController().signal);
  }

  get log(): Log {
    return this.logs.get("log");
  }

  get view(): View {
    return this.views.find("log")!;
  }

  enter(id: string, shape: Partial<Candidate> = {}): Entrant {
    const candidate = { id, endpoint: "", ttlMs: TTL_MS, readyTimeoutMs: 20_000, aliveWithinMs: undefined };
    return new Entrant(this.campaigns, { ...candidate, needsHandshake: false, ...shape });
  }

  /** Returns once it leads. */
  async leader(id: string, shape: Partial<Candidate> = {}): Promise<Entrant> {
    const entrant = this.enter(id, shape);
    await entrant.hears("lease renewed");
    return entrant;
  }

  /** Returns once somebody else leads. */
  async standby(id: string, shape: Partial<Candidate> = {}): Promise<Entrant> {
    const entrant = this.enter(id, shape);
    await entrant.hears("waiting");
    return entrant;
  }

  /** Does not wait for the outcome. */
  async send(...entries: EntryInit[]): Promise<TestAppend> {
    const builder = entries.length === 0 ? anAppend() : anAppend().with({ entries });
    const item = builder.build();
    (await inTime(this.log.primary.lead())).append(item);
    return item;
  }

  async append(...entries: EntryInit[]) {
    return inTime((await this.send(...entries)).outcome);
  }
}

/** What the call is refused with. */
export async function refusalOf(call: Promise<unknown>): Promise<unknown> {
  return inTime(
    call.then(
      (value) => {
        throw new Error(`not refused: ${String(value)}`);
      },
      (error: unknown) => error,
    ),
  );
}
