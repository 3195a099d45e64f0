import { randomBytes } from "node:crypto";
import { setMaxListeners } from "node:events";
import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import { AdminServer, type Readiness } from "./admin/admin-server.js";
import { defaultAdvertise, formatAddress } from "./config/addresses.js";
import type { Config } from "./config/config.js";
import { Codec } from "./gen/oplog/store/v1/store_pb.js";
import type { SidecarState } from "./grpc/convert.js";
import { LeadershipService } from "./grpc/leadership-service.js";
import { bindAll } from "./grpc/listeners.js";
import { OpLogService } from "./grpc/oplog-service.js";
import { GrpcServer } from "./grpc/server.js";
import { StandbyService } from "./grpc/standby-service.js";
import { systemClock } from "./oplog/clock.js";
import type { KvStore } from "./oplog/kv-store.js";
import { Campaigns } from "./promotion/campaigns.js";
import { QueueBudget } from "./replication/append-item.js";
import { Logs } from "./replication/logs.js";
import { aborted, linkSignals, sleep } from "./replication/timing.js";
import { ObjectEviction } from "./standby/eviction.js";
import { ReadinessReader } from "./standby/readiness-reader.js";
import { Views } from "./standby/views.js";
import { EmbeddedKvStore } from "./stores/embedded/embedded-kv-store.js";
import { EtcdKvStore } from "./stores/etcd/etcd-kv-store.js";
import { MonitoredKvStore } from "./stores/monitored-kv-store.js";
import { childLogger, type Logger } from "./telemetry/logger.js";
import { Metrics } from "./telemetry/metrics.js";
import {
  campaignObserver,
  evictionObserver,
  replicationObserver,
  storeObserver,
  viewObserver,
} from "./telemetry/observers.js";
import { VERSION } from "./telemetry/version.js";

const HEALTH_POLL_MS = 2000;
/** Of the shutdown deadline; the rest is for the last answers to reach their clients. */
const WORK_SHARE = 0.8;

/**
 * Puts the parts together, runs them until the signal, and shuts them down in order: the only place that knows them all.
 * Needs no reachable store, neither to start nor to stay up.
 */
export class Sidecar {
  private readonly startedWallMs = Date.now();
  private readonly metrics: Metrics;
  private readonly store: MonitoredKvStore;
  private readonly logs: Logs;
  private readonly views: Views;
  private readonly campaigns: Campaigns;
  private readonly grpc: GrpcServer;
  private readonly identity: { id: string; endpoint: string; instance: Buffer };
  /** "" is the sidecar as a whole; each log that exists joins as oplog/<log>. */
  private readonly healthServices = new Set([
    "",
    "oplog.v1.OpLogService",
    "oplog.v1.LeadershipService",
    "oplog.v1.StandbyService",
  ]);
  /** No new work. */
  private readonly draining = new AbortController();
  /** What is still open is given up. */
  private readonly cutOff = new AbortController();
  /** A part has failed for good. */
  private readonly failed = new AbortController();

  static async open(config: Config, logger: Logger): Promise<Sidecar> {
    return new Sidecar(config, logger, await openStore(config, childLogger(logger, "store")));
  }

  private constructor(
    private readonly config: Config,
    private readonly logger: Logger,
    store: KvStore,
  ) {
    // One listener for each open stream, of which the limits decide how many there are.
    setMaxListeners(0, this.draining.signal, this.cutOff.signal);
    const budget = new QueueBudget(config.appendQueueBytesMax, config.appendQueueAppendsMax);
    this.metrics = new Metrics({ version: VERSION, storeKind: config.storeKind, queue: budget });
    this.store = new MonitoredKvStore(
      store,
      systemClock,
      childLogger(logger, "store"),
      storeObserver(this.metrics),
      () => this.announceHealth(),
    );
    this.identity = { id: config.sidecarId, endpoint: config.advertise ?? "", instance: randomBytes(16) };
    const limits = { entriesMax: config.appendEntriesMax, bytesMax: config.appendBytesMax };
    this.logs = new Logs(
      {
        store: this.store,
        keyPrefix: config.keyPrefix,
        identity: this.identity,
        claimsByAppend: config.leadership === "auto",
        budget,
        clock: systemClock,
        logger: childLogger(logger, "replication"),
        observer: replicationObserver(this.metrics),
        settings: {
          record: limits,
          writeDeadlineMs: config.appendWriteDeadlineMs,
          codec: config.appendCompression === "lz4" ? Codec.LZ4 : Codec.NONE,
        },
        cacheBytesMax: config.subscribeCacheBytesMax,
        headPollMs: config.tailHeadPollMs,
        subscriptionsMax: { open: 0, max: config.subscribeStreamsMax },
        signal: this.cutOff.signal,
        storeUnreachableMs: () => this.store.health.unreachableMs,
        onFound: (log) => {
          this.healthServices.add(`oplog/${log}`);
          this.announceHealth();
        },
        onBroken: (error) => this.failed.abort(error),
      },
      config.logsMax,
    );
    this.views = new Views(
      {
        openLog: (name) => this.logs.get(name),
        clock: systemClock,
        logger: childLogger(logger, "standby"),
        observer: viewObserver(this.metrics),
        headPollMs: config.tailHeadPollMs,
        objectLeaseDefaultMs: config.objectLeaseDefaultMs,
      },
      config.views,
    );
    this.campaigns = new Campaigns({
      store: this.store,
      logs: this.logs,
      views: this.views,
      endpoint: () => this.identity.endpoint,
      evictionOf: (view) =>
        new ObjectEviction({
          view,
          limits,
          clock: systemClock,
          logger: childLogger(logger, "standby"),
          observer: evictionObserver(this.metrics),
        }),
      clock: systemClock,
      logger: childLogger(logger, "promotion"),
      observer: campaignObserver(this.metrics),
    });
    this.grpc = new GrpcServer({
      opLogService: new OpLogService({
        logs: this.logs,
        views: this.views,
        limits,
        clock: systemClock,
        sidecar: () => this.state,
        budget,
        subscriberBytesMax: config.subscribeBufferBytesMax,
        statusStreamsMax: config.subscribeStreamsMax,
        draining: this.draining.signal,
      }),
      leadershipService: new LeadershipService({
        logs: this.logs,
        campaigns: this.campaigns,
        streamsMax: config.subscribeStreamsMax,
        draining: this.draining.signal,
      }),
      standbyService: new StandbyService({
        views: this.views,
        readiness: new ReadinessReader({
          views: this.views,
          store: this.store,
          keyPrefix: config.keyPrefix,
          clock: systemClock,
          storeUnreachableMs: () => this.store.health.unreachableMs,
        }),
        scansMax: config.subscribeStreamsMax,
        leadingTerm: (log) => this.campaigns.leadingTerm(log),
        draining: this.draining.signal,
      }),
      hasReflection: config.reflection,
      logger: childLogger(logger, "grpc"),
      onFinished: (method, code) => this.metrics.grpcRequests.inc({ method, code }),
    });
    this.announceHealth();
  }

  /** Serves until the signal, then shuts down. Rejects when an address cannot be bound or a part fails for good. */
  async run(stop: AbortSignal): Promise<void> {
    const stopAdmin = new AbortController();
    let viewsRun: Promise<void> | undefined;
    try {
      const bound = await bindAll(this.grpc.server, this.config.listen);
      this.identity.endpoint ||= defaultAdvertise(bound, hostname());
      const admin = await this.listenAdmin();
      const adminRun = admin?.run(stopAdmin.signal).catch((error: unknown) => this.failed.abort(error));
      this.logListening(bound.map(formatAddress), admin?.port);
      viewsRun = this.views.run(this.cutOff.signal);
      await this.watchStore(linkSignals(stop, this.failed.signal).signal);
      await this.drain();
      stopAdmin.abort();
      await adminRun;
    } finally {
      this.draining.abort();
      this.cutOff.abort();
      stopAdmin.abort();
      this.grpc.server.forceShutdown();
      await viewsRun;
      await this.logs.close();
      await this.store.close();
    }
    if (this.failed.signal.aborted) throw this.failed.signal.reason;
    this.logger.info({ event: "stopped" }, "stopped");
  }

  /** Not serving → no new appends → what is in flight is answered → subscribers get the rest → close, by the deadline. */
  private async drain(): Promise<void> {
    const { shutdownDeadlineMs } = this.config;
    const cutAtMs = systemClock.monotonicMs() + shutdownDeadlineMs;
    this.logger.info({ event: "stopping", deadlineMs: shutdownDeadlineMs }, "stopping: finishing what is open");
    this.draining.abort();
    this.announceHealth();
    const timer = setTimeout(() => {
      this.logger.warn({ event: "stop_deadline" }, "the shutdown deadline is near; giving up what is not finished");
      this.cutOff.abort();
    }, shutdownDeadlineMs * WORK_SHARE);
    try {
      const drained = this.logs.drain();
      // To give up a lease of a store that is away may take a TTL, and it runs out by itself.
      const resigned = this.campaigns.drain();
      await Promise.race([Promise.all([drained, resigned]), aborted(this.cutOff.signal)]);
      await this.grpc.close(Math.max(0, cutAtMs - systemClock.monotonicMs()));
      this.cutOff.abort();
      await drained;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Asks the store how it is until the signal; MonitoredKvStore notes and logs the answers. */
  private async watchStore(signal: AbortSignal): Promise<void> {
    const stopped = aborted(signal);
    while (!signal.aborted) {
      await Promise.race([this.store.status().catch(() => undefined), stopped]);
      await sleep(HEALTH_POLL_MS, signal);
    }
  }

  private get state(): SidecarState {
    return {
      id: this.config.sidecarId,
      version: VERSION,
      startedWallMs: this.startedWallMs,
      isShuttingDown: this.draining.signal.aborted,
      store: { kind: this.store.kind, ...this.store.health },
    };
  }

  private get readiness(): Readiness {
    const { isReachable, error, unreachableMs } = this.store.health;
    const reasons = [
      ...(this.draining.signal.aborted ? ["shutting down"] : []),
      ...(isReachable ? [] : [`store unreachable for ${unreachableMs} ms: ${error}`]),
    ];
    return { ready: reasons.length === 0, reasons };
  }

  private announceHealth(): void {
    const isServing = this.store.health.isReachable && !this.draining.signal.aborted;
    for (const service of this.healthServices) this.grpc.setServing(service, isServing);
  }

  private async listenAdmin(): Promise<AdminServer | undefined> {
    const { adminListen } = this.config;
    if (adminListen === undefined) return undefined;
    return AdminServer.listen({
      host: adminListen.host,
      port: adminListen.port,
      registry: this.metrics.registry,
      readiness: () => this.readiness,
      onError: (error) => this.logger.error({ event: "admin_failed", err: error }, "an admin page failed"),
    });
  }

  private logListening(listen: string[], adminPort: number | undefined): void {
    const { adminListen, storeKind } = this.config;
    const admin = adminListen && adminPort ? formatAddress({ ...adminListen, port: adminPort }) : "off";
    this.logger.info(
      { event: "listening", version: VERSION, store: storeKind, listen, admin },
      `serving ${listen.join(", ")}`,
    );
  }
}

async function openStore(config: Config, logger: Logger): Promise<KvStore> {
  if (config.storeKind === "embedded") return EmbeddedKvStore.open({ directory: config.dataDir, logger });
  const { etcdUsername, etcdPasswordFile, etcdCaFile, etcdCertFile, etcdKeyFile } = config;
  const password = etcdPasswordFile && readFileSync(etcdPasswordFile, "utf8").trimEnd();
  const pair = etcdCertFile && etcdKeyFile ? { cert: readFileSync(etcdCertFile), key: readFileSync(etcdKeyFile) } : {};
  return new EtcdKvStore({
    endpoints: config.etcdEndpoints,
    requestTimeoutMs: config.etcdRequestTimeoutMs,
    logger,
    ...(etcdUsername && password ? { username: etcdUsername, password } : {}),
    ...(etcdCaFile ? { tls: { ca: readFileSync(etcdCaFile), ...pair } } : {}),
  });
}
