import { randomBytes } from "node:crypto";
import type { Config } from "./config/config.js";
import { PageTurns } from "./following/page-turns.js";
import { Codec } from "./gen/oplog/store/v1/store_pb.js";
import { AdminService } from "./grpc/admin-service.js";
import { LeaderAsker } from "./grpc/ask-leader.js";
import { LeadershipService } from "./grpc/leadership-service.js";
import { methodsOf } from "./grpc/methods.js";
import { OpLogService } from "./grpc/oplog-service.js";
import { RequestBudget } from "./grpc/request-budget.js";
import { GrpcServer } from "./grpc/server.js";
import { StandbyService } from "./grpc/standby-service.js";
import { AnswerBudget } from "./grpc/stream-writer.js";
import { Health } from "./health.js";
import { Logs } from "./log/logs.js";
import { systemClock } from "./oplog/clock.js";
import { StoreReplacedError } from "./oplog/kv-store.js";
import { Campaigns } from "./promotion/campaigns.js";
import { ObjectEviction } from "./standby/eviction.js";
import { ReadinessReader } from "./standby/readiness-reader.js";
import { Views } from "./standby/views.js";
import type { OpenedStore } from "./store.js";
import { throughStore } from "./stored/store-failures.js";
import { MonitoredKvStore } from "./stores/monitored-kv-store.js";
import { childLogger, type Logger } from "./telemetry/logger.js";
import { type About, Metrics } from "./telemetry/metrics.js";
import {
  campaignObserver,
  evictionObserver,
  replicationObserver,
  storeObserver,
  viewObserver,
} from "./telemetry/observers.js";
import { VERSION } from "./telemetry/version.js";
import { QueueBudget } from "./writing/append-item.js";

/** Who hold pages of history at a time. */
const HISTORY_READERS_MAX = 16;

/** What a sidecar consists of. */
export interface Parts {
  readonly metrics: Metrics;
  readonly store: MonitoredKvStore;
  readonly logs: Logs;
  readonly views: Views;
  readonly campaigns: Campaigns;
  readonly grpc: GrpcServer;
  readonly health: Health;
  /** The endpoint is "" until it is known. */
  readonly identity: { readonly id: string; endpoint: string; readonly instance: Buffer };
}

/** What the parts are told of the life of the sidecar, and what they tell it. */
export interface LifeSignals {
  /** No new work. */
  readonly draining: AbortSignal;
  /** What is still open is given up. */
  readonly cutOff: AbortSignal;
  /** A part has failed for good. */
  readonly onFailed: (error: unknown) => void;
}

/** Puts the parts together: the only place that knows them all. Nothing runs yet. */
export function assemble(
  config: Config,
  logger: Logger,
  opened: OpenedStore,
  output: About["output"],
  { draining, cutOff, onFailed }: LifeSignals,
): Parts {
  const identity = { id: config.sidecarId, endpoint: config.advertise ?? "", instance: randomBytes(16) };
  const limits = { entriesMax: config.appendEntriesMax, bytesMax: config.appendBytesMax };
  const budget = new QueueBudget(config.appendQueueBytesMax, config.appendQueueAppendsMax);
  const requests = new RequestBudget(config.appendQueueBytesMax, config.appendQueueAppendsMax);
  const metrics = new Metrics({ version: VERSION, storeKind: config.storeKind, requests, output });
  const store = new MonitoredKvStore(
    opened.store,
    systemClock,
    childLogger(logger, "store"),
    storeObserver(metrics),
    () => health.announce(),
  );
  const storeUnreachableMs = () => store.health.unreachableMs;
  const health = new Health({
    sidecarId: config.sidecarId,
    store,
    draining,
    logger: childLogger(logger, "store"),
    setServing: (service, isServing) => grpc.setServing(service, isServing),
    forgetService: (service) => grpc.forgetService(service),
  });
  const leaderAsker = new LeaderAsker(systemClock);
  cutOff.addEventListener("abort", () => leaderAsker.close(), { once: true });
  const logs = new Logs(
    {
      store,
      keyPrefix: config.keyPrefix,
      identity,
      claimsByAppend: config.leadership === "auto",
      budget,
      clock: systemClock,
      logger: childLogger(logger, "replication"),
      observer: replicationObserver(metrics),
      settings: {
        record: limits,
        writeDeadlineMs: config.appendWriteDeadlineMs,
        codec: config.appendCompression === "lz4" ? Codec.LZ4 : Codec.NONE,
      },
      cursorExpiryMs: config.cursorExpiryMs,
      cacheBytesMax: config.subscribeCacheBytesMax,
      headPollMs: config.tailHeadPollMs,
      pageTurns: new PageTurns(HISTORY_READERS_MAX),
      subscriptionsMax: { open: 0, max: config.subscribeStreamsMax },
      signal: cutOff,
      storeUnreachableMs,
      askLeader: leaderAsker.ask,
      inspect: async (read) => {
        try {
          return await read(store);
        } catch (error) {
          if (!(error instanceof StoreReplacedError) || opened.anchored === undefined) throw error;
          return opened.anchored.inspect(read);
        }
      },
      onFound: (log) => health.addLog(log),
      onDiverged: (log, error) => health.noteDiverged(log, error.message),
      onGone: (gone) => {
        health.removeLogs(gone);
        metrics.forget(gone).catch(onFailed);
      },
      onBroken: onFailed,
    },
    config.logsMax,
  );
  const views = new Views(
    {
      openLog: (name) => logs.get(name),
      clock: systemClock,
      logger: childLogger(logger, "standby"),
      observer: viewObserver(metrics),
      headPollMs: config.tailHeadPollMs,
      objectLeaseDefaultMs: config.objectLeaseDefaultMs,
    },
    config.views,
  );
  const campaigns = new Campaigns({
    store,
    logs,
    views,
    endpoint: () => identity.endpoint,
    storeUnreachableMs,
    evictionOf: (log) => {
      const view = views.find(log);
      return (
        view &&
        new ObjectEviction({
          view,
          limits,
          clock: systemClock,
          logger: childLogger(logger, "standby"),
          observer: evictionObserver(metrics),
        })
      );
    },
    clock: systemClock,
    logger: childLogger(logger, "promotion"),
    observer: campaignObserver(metrics),
  });
  const forget = () => {
    health.forgetDiverged();
    logs.forget();
    views.rebuild();
  };
  if (opened.anchored !== undefined) opened.anchored.onAdopted = forget;
  const adopt = async () => {
    if (opened.anchored !== undefined) return opened.anchored.adopt();
    forget();
    return "";
  };
  const services = {
    opLog: new OpLogService({
      logs,
      views,
      limits,
      clock: systemClock,
      sidecar: () => health.state,
      budget,
      requests,
      subscriberBytesMax: config.subscribeBufferBytesMax,
      draining,
    }),
    leadership: new LeadershipService({ logs, campaigns, draining }),
    standby: new StandbyService({
      views,
      readiness: new ReadinessReader({
        views,
        store,
        keyPrefix: config.keyPrefix,
        clock: systemClock,
        storeUnreachableMs,
      }),
      leadingTerm: (log) => campaigns.leadingTerm(log),
      draining,
    }),
    admin: new AdminService({ logs, adopt: () => throughStore(adopt(), storeUnreachableMs) }),
  };
  const grpc = new GrpcServer({
    methods: methodsOf(services, {
      callsMax: config.callsMax,
      appendStreamsMax: config.appendStreamsMax,
      campaignsMax: config.campaignsMax,
      subscriptionsMax: config.subscribeStreamsMax,
    }),
    budget: requests,
    answers: new AnswerBudget(config.subscribeBuffersBytesMax),
    clock: systemClock,
    connectionsMax: config.connectionsMax,
    hasReflection: config.reflection,
    logger: childLogger(logger, "grpc"),
    onFinished: (method, code) => metrics.grpcRequests.inc({ method, code }),
  });
  return { metrics, store, logs, views, campaigns, grpc, health, identity };
}
