import { Logs } from "../../src/log/logs.js";
import { OplogError } from "../../src/oplog/errors.js";
import type { KvStore } from "../../src/oplog/kv-store.js";
import { NotPrimaryError, NotReadyError } from "../../src/oplog/leadership-errors.js";
import { silentLogger } from "../../src/oplog/logger.js";
import { Campaigns } from "../../src/promotion/campaigns.js";
import { ObjectEviction } from "../../src/standby/eviction.js";
import type { View } from "../../src/standby/view.js";
import { Views } from "../../src/standby/views.js";
import { logParts } from "../following/followers.js";
import { type AppendBuilder, anIdentity, type Dice, SETTINGS, type TestAppend } from "../log/support.js";
import type { Machine, VirtualTime } from "../support/virtual-time.js";
import { LOG } from "./candidate.js";
import { FAIR, Network, type Weather } from "./network.js";

export interface SidecarShape {
  readonly hasView: boolean;
  /** Objects are removed so long after they were put; undefined = never. */
  readonly objectLeaseMs: number | undefined;
  readonly writeDeadlineMs: number;
}

const LIMITS = { entriesMax: 100, bytesMax: 100_000 };

/** One process of oplogd without its surface, and its way to the store. */
export class SimulatedSidecar implements Machine {
  pausedUntilMs = 0;
  isDead = false;
  wasPaused = false;
  /** Its way to the store has not been good all the time. */
  wasTroubled = false;
  readonly network: Network;
  readonly logs: Logs;
  readonly campaigns: Campaigns;
  readonly broken: unknown[] = [];
  private readonly views: Views;
  private readonly stop = new AbortController();
  private readonly viewing: Promise<void>;

  constructor(
    readonly name: string,
    store: KvStore,
    private readonly time: VirtualTime,
    dice: Dice,
    shape: SidecarShape,
    /** By term, what its leader was told to be the last entry before. */
    readonly finals: Map<bigint, bigint>,
  ) {
    this.network = new Network(store, time, dice, this);
    const clock = time.clockOf(this);
    const parts = logParts(this.network, {
      identity: anIdentity(name),
      clock,
      settings: { ...SETTINGS, record: { ...SETTINGS.record, entriesMax: 6 }, writeDeadlineMs: shape.writeDeadlineMs },
      signal: this.stop.signal,
      onBroken: (error) => void this.broken.push(error),
    });
    this.logs = new Logs(parts, 10);
    const openLog = (log: string) => this.logs.get(log);
    const viewObserver = { applied() {}, keyOrderViolated() {}, diverged() {}, phase() {} };
    const viewParts = {
      openLog,
      clock,
      logger: silentLogger,
      observer: viewObserver,
      headPollMs: 1000,
      objectLeaseDefaultMs: shape.objectLeaseMs,
    };
    this.views = new Views(viewParts, shape.hasView ? [LOG] : []);
    this.campaigns = new Campaigns({
      store: this.network,
      clock,
      logger: silentLogger,
      observer: { promoted() {}, lost() {}, handedOver() {} },
      logs: this.logs,
      views: this.views,
      storeUnreachableMs: () => 0,
      endpoint: () => `${name}:7070`,
      evictionOf: (log) => {
        const view = this.views.find(log);
        const observer = { evicted() {} };
        return view && new ObjectEviction({ view, clock, limits: LIMITS, logger: silentLogger, observer });
      },
    });
    this.viewing = this.views.run(this.stop.signal);
    this.viewing.catch((error: unknown) => void this.broken.push(error));
  }

  get view(): View | undefined {
    return this.views.find(LOG);
  }

  get canHear(): boolean {
    return !this.isDead && this.pausedUntilMs <= this.time.nowMs;
  }

  setWeather(weather: Weather): void {
    if (weather !== FAIR) this.wasTroubled = true;
    this.network.weather = weather;
  }

  goAway(): void {
    this.wasTroubled = true;
    this.network.isAway = true;
    this.time.at(this, 0, () => this.network.breakWatches());
  }

  comeBack(): void {
    this.network.isAway = false;
  }

  pause(ms: number): void {
    this.wasTroubled = this.wasPaused = true;
    this.pausedUntilMs = this.time.nowMs + ms;
  }

  /** The power fails. */
  die(): void {
    this.isDead = true;
  }

  /** As a client would through the API. */
  append(builder: AppendBuilder): TestAppend {
    const item = builder.build();
    this.time.at(this, 1, () => {
      const { primary } = this.logs.get(LOG);
      const lead = primary.writer === undefined ? primary.lead() : Promise.resolve(primary.writer);
      const refuse = (error: unknown) => {
        if (!(error instanceof OplogError)) throw error;
        item.settle({ error });
      };
      lead
        .then((writer) => writer.append(item))
        .catch(refuse)
        .catch((error: unknown) => this.broken.push(error));
    });
    return item;
  }

  async end(): Promise<void> {
    this.stop.abort();
    await this.viewing;
    await this.logs.drain();
    await this.logs.close();
  }
}

export function isRefusedByLeadership(error: OplogError): boolean {
  return error instanceof NotPrimaryError || error instanceof NotReadyError || error.reason === "SHUTTING_DOWN";
}
