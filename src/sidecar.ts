import { setMaxListeners } from "node:events";
import { hostname } from "node:os";
import { ServerCredentials } from "@grpc/grpc-js";
import { AdminServer } from "./admin/admin-server.js";
import { defaultAdvertise, formatAddress } from "./config/addresses.js";
import type { Config } from "./config/config.js";
import { Listeners } from "./grpc/listeners.js";
import { pollStore } from "./health.js";
import { systemClock } from "./oplog/clock.js";
import { linkSignals, settledOrAborted } from "./oplog/timing.js";
import { assemble, type Parts } from "./parts.js";
import { ShutdownDeadline } from "./process/shutdown-deadline.js";
import { type OpenedStore, openStore } from "./store.js";
import { childLogger, type Logger } from "./telemetry/logger.js";
import type { About } from "./telemetry/metrics.js";
import { VERSION } from "./telemetry/version.js";

/** How often the store is asked how it is. Files that are lost are noticed within a second, also while nobody writes. */
const STORE_POLL_MS = { etcd: 2000, embedded: 500 };
/** What is left of the shutdown deadline for whoever asks a second time. */
const HURRY_MS = 1000;

/**
 * The life of a sidecar: opens its store, runs the parts until the signal, and shuts them down in order. Needs no
 * reachable store, neither to start nor to stay up.
 */
export class Sidecar {
  private readonly parts: Parts;
  /** No new work. */
  private readonly draining = new AbortController();
  /** What is still open is given up. */
  private readonly cutOff = new AbortController();
  /** A part has failed for good. */
  private readonly failed = new AbortController();

  /** `output`: what takes the lines of the log, for the metrics. */
  static async open(config: Config, logger: Logger, output: About["output"]): Promise<Sidecar> {
    return new Sidecar(config, logger, await openStore(config, childLogger(logger, "store")), output);
  }

  private constructor(
    private readonly config: Config,
    private readonly logger: Logger,
    private readonly opened: OpenedStore,
    output: About["output"],
  ) {
    // One listener for each open stream, of which the limits decide how many there are.
    setMaxListeners(0, this.draining.signal, this.cutOff.signal);
    this.parts = assemble(config, logger, opened, output, {
      draining: this.draining.signal,
      cutOff: this.cutOff.signal,
      onFailed: (error) => this.failed.abort(error),
    });
    this.parts.health.announce();
  }

  /** Reads again what it has read from files, like passwords. */
  reload(): void {
    this.opened.renewCredentials();
  }

  /**
   * Serves until `stop`, then shuts down; `hurry` shortens that. Rejects when an address cannot be bound or a part fails
   * for good.
   */
  async run(stop: AbortSignal, hurry: AbortSignal): Promise<void> {
    const { grpc, views, logs, store, health, identity } = this.parts;
    const stopAdmin = new AbortController();
    let listeners: Listeners | undefined;
    let watching: Promise<void> | undefined;
    let partsRun: Promise<unknown> | undefined;
    try {
      const credentials = () => ServerCredentials.createInsecure();
      listeners = await Listeners.bind(grpc.server, this.config.listen, credentials, childLogger(this.logger, "grpc"));
      const { bound } = listeners;
      health.listensTo(listeners);
      identity.endpoint ||= defaultAdvertise(bound, hostname());
      const admin = await this.listenAdmin();
      const adminRun = admin?.run(stopAdmin.signal).catch((error: unknown) => this.failed.abort(error));
      this.logListening(bound.map(formatAddress), admin?.port);
      watching = listeners.watch(systemClock, this.draining.signal);
      partsRun = Promise.all([views.keepRunning(this.cutOff.signal), logs.run(this.cutOff.signal)]);
      const everyMs = STORE_POLL_MS[this.config.storeKind];
      const onAnswer = (refusal: string | undefined) => health.noteRefusal(refusal);
      const poll = { store, keyPrefix: this.config.keyPrefix, clock: systemClock, everyMs, onAnswer };
      await pollStore(poll, linkSignals(stop, this.failed.signal).signal);
      await this.drain(hurry);
      stopAdmin.abort();
      await adminRun;
    } finally {
      this.draining.abort();
      this.cutOff.abort();
      stopAdmin.abort();
      await watching;
      await listeners?.remove();
      grpc.server.forceShutdown();
      await partsRun;
      await logs.close();
      await store.close();
    }
    if (this.failed.signal.aborted) throw this.failed.signal.reason;
    this.logger.info({ event: "stopped" }, "stopped");
  }

  /** Not serving → no new appends → what is in flight is answered → subscribers get the rest → close, by the deadline. */
  private async drain(hurry: AbortSignal): Promise<void> {
    const { grpc, logs, campaigns, health } = this.parts;
    const { shutdownDeadlineMs } = this.config;
    this.logger.info({ event: "stopping", deadlineMs: shutdownDeadlineMs }, "stopping: finishing what is open");
    this.draining.abort();
    health.announce();
    const deadline = new ShutdownDeadline(shutdownDeadlineMs, () => {
      this.logger.warn({ event: "stop_deadline" }, "the shutdown deadline is near; giving up what is not finished");
      this.cutOff.abort();
    });
    const hasten = () => deadline.shorten(HURRY_MS);
    hurry.addEventListener("abort", hasten);
    if (hurry.aborted) hasten();
    try {
      const drained = logs.drain();
      // To give up a lease of a store that is away may take a TTL, and it runs out by itself.
      const resigned = campaigns.drain();
      await settledOrAborted(Promise.all([drained, resigned]), this.cutOff.signal);
      await grpc.close(deadline.over);
      this.cutOff.abort();
      await drained;
    } finally {
      hurry.removeEventListener("abort", hasten);
      deadline.end();
    }
  }

  private async listenAdmin(): Promise<AdminServer | undefined> {
    const { adminListen } = this.config;
    if (adminListen === undefined) return undefined;
    return AdminServer.listen({
      host: adminListen.host,
      port: adminListen.port,
      registry: this.parts.metrics.registry,
      readiness: () => this.parts.health.readiness,
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
