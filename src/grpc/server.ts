import type { Server } from "@grpc/grpc-js";
import { HealthImplementation } from "grpc-health-check";
import type { Clock } from "../oplog/clock.js";
import type { Logger } from "../oplog/logger.js";
import { Admission } from "./admission.js";
import { BoundedServer } from "./bounded-server.js";
import type { Method } from "./method.js";
import { Pipeline } from "./pipeline.js";
import { reflectionOf } from "./reflection.js";
import type { RequestBudget } from "./request-budget.js";
import type { AnswerBudget } from "./stream-writer.js";

export const MESSAGE_BYTES_MAX = 4 * 1024 * 1024;
const STREAMS_PER_CONNECTION_MAX = 1024;
/** How long the last frames may take to leave, once no call of ours is open. */
const FLUSH_MS = 250;

export interface GrpcServerParts {
  readonly methods: readonly Method[];
  readonly budget: RequestBudget;
  readonly clock: Clock;
  readonly answers: AnswerBudget;
  /** At each address. */
  readonly connectionsMax: number;
  readonly hasReflection: boolean;
  readonly logger: Logger;
  readonly onFinished: (method: string, code: string) => void;
}

interface HealthInside {
  readonly statusMap: Map<string, string>;
  readonly watchers: Map<string, Set<(status: string) => void>>;
}

/** The gRPC services on one server; addresses are bound by Listeners. */
export class GrpcServer {
  readonly server: Server;
  private readonly health = new HealthImplementation({});
  private readonly admission: Admission;
  private readonly pipeline: Pipeline;

  constructor(parts: GrpcServerParts) {
    this.admission = new Admission({ ...parts, messageBytesMax: MESSAGE_BYTES_MAX, onRefused: parts.onFinished });
    const options = {
      "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
      "grpc.max_send_message_length": -1,
      "grpc.keepalive_time_ms": 20_000,
      "grpc.keepalive_timeout_ms": 5_000,
      // Costs a quarter of the throughput of small calls, and nobody is offered it.
      "grpc.enable_channelz": 0,
      "grpc.max_concurrent_streams": STREAMS_PER_CONNECTION_MAX,
      interceptors: [this.admission.interceptor],
    };
    this.server = new BoundedServer(options, parts.connectionsMax);
    this.pipeline = new Pipeline({ ...parts, admission: this.admission });
    this.pipeline.addTo(this.server);
    this.health.addToServer(this.server);
    const services = parts.methods.map(({ descriptor }) => descriptor.parent);
    if (parts.hasReflection) reflectionOf(services).addToServer(this.server);
  }

  /** "" is the sidecar as a whole. */
  setServing(service: string, isServing: boolean): void {
    this.health.setStatus(service, isServing ? "SERVING" : "NOT_SERVING");
  }

  /** Watchers are told SERVICE_UNKNOWN. The health package has no way to remove a service. */
  forgetService(service: string): void {
    const { statusMap, watchers } = this.health as unknown as HealthInside;
    statusMap.delete(service);
    for (const tell of watchers.get(service) ?? []) tell("SERVICE_UNKNOWN");
    if (watchers.get(service)?.size === 0) watchers.delete(service);
  }

  /**
   * Ends once all calls have ended; when the time is over those left are cut. Health and reflection streams never end by
   * themselves, so they are cut as soon as no call of the log is open.
   */
  async close(timeIsOver: AbortSignal): Promise<void> {
    this.admission.close();
    const timers: NodeJS.Timeout[] = [];
    let cut = () => {};
    await new Promise<void>((resolve) => {
      cut = () => {
        this.server.forceShutdown();
        resolve();
      };
      this.server.tryShutdown(() => resolve());
      this.pipeline.watchIdle(() => timers.push(setTimeout(cut, FLUSH_MS)));
      timeIsOver.addEventListener("abort", cut);
      if (timeIsOver.aborted) cut();
    });
    timeIsOver.removeEventListener("abort", cut);
    for (const timer of timers) clearTimeout(timer);
  }
}
