import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import { AdminServer } from "./admin/admin-server.js";
import { defaultAdvertise, formatAddress } from "./config/addresses.js";
import type { Config } from "./config/config.js";
import { Codec } from "./gen/oplog/store/v1/store_pb.js";
import { bindAll } from "./grpc/listeners.js";
import { OpLogService } from "./grpc/oplog-service.js";
import { GrpcServer } from "./grpc/server.js";
import { systemClock } from "./oplog/clock.js";
import type { KvStore } from "./oplog/kv-store.js";
import { QueueBudget } from "./replication/append-item.js";
import { Logs } from "./replication/logs.js";
import { sleep } from "./replication/timing.js";
import { EmbeddedKvStore } from "./stores/embedded/embedded-kv-store.js";
import { EtcdKvStore } from "./stores/etcd/etcd-kv-store.js";
import { MonitoredKvStore } from "./stores/monitored-kv-store.js";
import { childLogger, type Logger } from "./telemetry/logger.js";
import { Metrics } from "./telemetry/metrics.js";
import { replicationObserver, storeObserver } from "./telemetry/observers.js";
import { VERSION } from "./telemetry/version.js";

const HEALTH_POLL_MS = 2000;

/**
 * Builds the sidecar and runs it until the signal: the only place that knows every part. Starts before the store is
 * reachable and stays up without it. Rejects when something cannot be set up or a part fails for good.
 */
export async function runSidecar(config: Config, logger: Logger, stop: AbortSignal): Promise<void> {
  const startedWallMs = Date.now();
  const metrics = new Metrics({ version: VERSION, storeKind: config.storeKind });
  const draining = new AbortController();
  const cutOff = new AbortController();
  const failed = new AbortController();

  /** "" is the sidecar as a whole; each log that exists joins as oplog/<log>. */
  const healthServices = new Set(["", "oplog.v1.OpLogService"]);
  const grpcOf = { current: undefined as GrpcServer | undefined };
  const announceServing = () => {
    const isServing = store.health.isReachable && !draining.signal.aborted;
    for (const service of healthServices) grpcOf.current?.setServing(service, isServing);
  };
  const store = new MonitoredKvStore(
    await openStore(config, logger),
    systemClock,
    childLogger(logger, "store"),
    storeObserver(metrics),
    announceServing,
  );
  const identity = { id: config.sidecarId, endpoint: config.advertise ?? "", instance: randomBytes(16) };
  const budget = new QueueBudget(config.appendQueueBytesMax, config.appendQueueAppendsMax);
  const limits = { entriesMax: config.appendEntriesMax, bytesMax: config.appendBytesMax };
  const logs = new Logs(
    {
      store,
      keyPrefix: config.keyPrefix,
      identity,
      budget,
      clock: systemClock,
      logger: childLogger(logger, "replication"),
      observer: replicationObserver(metrics, budget),
      settings: {
        record: limits,
        writeDeadlineMs: config.appendWriteDeadlineMs,
        codec: config.appendCompression === "lz4" ? Codec.LZ4 : Codec.NONE,
      },
      cacheBytesMax: config.subscribeCacheBytesMax,
      headPollMs: config.tailHeadPollMs,
      subscriptionsMax: { open: 0, max: config.subscribeStreamsMax },
      signal: cutOff.signal,
      onFound: (log) => {
        healthServices.add(`oplog/${log}`);
        announceServing();
      },
      onBroken: (error) => failed.abort(error),
    },
    config.logsMax,
  );
  const opLogService = new OpLogService({
    logs,
    limits,
    clock: systemClock,
    sidecar: () => ({
      id: config.sidecarId,
      version: VERSION,
      startedWallMs,
      isShuttingDown: draining.signal.aborted,
      store: { kind: store.kind, ...store.health },
    }),
    queueBytesMax: config.appendQueueBytesMax,
    subscriberBytesMax: config.subscribeBufferBytesMax,
    statusStreamsMax: config.subscribeStreamsMax,
    draining: draining.signal,
  });
  const grpc = new GrpcServer({
    opLogService,
    hasReflection: config.reflection,
    logger: childLogger(logger, "grpc"),
    onFinished: (method, code) => metrics.grpcRequests.inc({ method, code }),
  });
  grpcOf.current = grpc;
  announceServing();

  const stopping = AbortSignal.any([stop, failed.signal]);
  const adminStop = new AbortController();
  try {
    const bound = await bindAll(grpc.server, config.listen);
    identity.endpoint ||= defaultAdvertise(bound, hostname());
    const admin =
      config.adminListen &&
      (await AdminServer.listen({
        ...config.adminListen,
        registry: metrics.registry,
        readiness: () => readiness(store, draining.signal),
        onError: (error) => logger.error({ event: "admin_failed", err: error }, "an admin page failed"),
      }));
    const adminRun = admin?.run(adminStop.signal).catch((error: unknown) => failed.abort(error));
    logger.info(
      {
        event: "listening",
        version: VERSION,
        store: config.storeKind,
        listen: bound.map(formatAddress),
        ...(admin && config.adminListen ? { admin: formatAddress({ ...config.adminListen, port: admin.port }) } : {}),
      },
      `oplogd serves ${bound.map(formatAddress).join(", ")}`,
    );
    await pollStore(store, stopping);
    await shutDown();
    adminStop.abort();
    await adminRun;
  } finally {
    draining.abort();
    cutOff.abort();
    adminStop.abort();
    grpc.server.forceShutdown();
    await logs.close();
    await store.close();
  }
  if (failed.signal.aborted) throw failed.signal.reason;
  logger.info({ event: "stopped" }, "stopped");

  /** Not serving → no new appends → what is in flight is answered → subscribers get the rest → close, by the deadline. */
  async function shutDown(): Promise<void> {
    const deadlineMs = performance.now() + config.shutdownDeadlineMs;
    logger.info({ event: "stopping", deadlineMs: config.shutdownDeadlineMs }, "stopping: finishing what is open");
    draining.abort();
    announceServing();
    const timer = setTimeout(() => {
      logger.warn({ event: "stop_deadline" }, "the shutdown deadline has passed; cutting what is left");
      cutOff.abort();
    }, config.shutdownDeadlineMs);
    try {
      const drained = logs.drain();
      await Promise.race([drained, aborted(cutOff.signal)]);
      await grpc.close(Math.max(0, deadlineMs - performance.now()));
      cutOff.abort();
      await drained;
    } finally {
      clearTimeout(timer);
    }
  }
}

async function openStore(config: Config, logger: Logger): Promise<KvStore> {
  if (config.storeKind === "embedded") {
    return EmbeddedKvStore.open({ directory: config.dataDir, logger: childLogger(logger, "store") });
  }
  const { etcdUsername, etcdPasswordFile, etcdCaFile, etcdCertFile, etcdKeyFile } = config;
  const password = etcdPasswordFile && readFileSync(etcdPasswordFile, "utf8").trimEnd();
  return new EtcdKvStore({
    endpoints: config.etcdEndpoints,
    requestTimeoutMs: config.etcdRequestTimeoutMs,
    logger: childLogger(logger, "store"),
    ...(etcdUsername && password ? { username: etcdUsername, password } : {}),
    ...(etcdCaFile
      ? {
          tls: {
            ca: readFileSync(etcdCaFile),
            ...(etcdCertFile && etcdKeyFile
              ? { cert: readFileSync(etcdCertFile), key: readFileSync(etcdKeyFile) }
              : {}),
          },
        }
      : {}),
  });
}

/** Asks the store how it is until the signal; MonitoredKvStore notes the answers. */
async function pollStore(store: MonitoredKvStore, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    await store.status().catch(() => undefined);
    await sleep(HEALTH_POLL_MS, signal);
  }
}

function readiness(store: MonitoredKvStore, draining: AbortSignal): { ready: boolean; reasons: string[] } {
  const { isReachable, error, unreachableMs } = store.health;
  const reasons = [
    ...(draining.aborted ? ["shutting down"] : []),
    ...(isReachable ? [] : [`store unreachable for ${unreachableMs} ms: ${error}`]),
  ];
  return { ready: reasons.length === 0, reasons };
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
