import { create, toBinary } from "@bufbuild/protobuf";
import { type LogStatus, type SidecarStatus, WatchStatusResponseSchema } from "../gen/oplog/v1/oplog_pb.js";
import type { Logs } from "../log/logs.js";
import type { Clock } from "../oplog/clock.js";
import { LogNotFoundError } from "../oplog/log-errors.js";
import { sleep } from "../oplog/timing.js";
import type { LogViews } from "../standby/log-view.js";
import type { QueueBudget } from "../writing/append-item.js";
import { type SidecarState, toLogStatus, toSidecarStatus } from "./convert.js";

export interface StatusReaderParts {
  readonly logs: Logs;
  readonly views: LogViews;
  readonly clock: Clock;
  readonly sidecar: () => SidecarState;
  readonly budget: QueueBudget;
}

export interface StatusParts {
  readonly sidecar: SidecarStatus;
  readonly log?: LogStatus;
}

/** Reads how this sidecar and a log are: once for all who watch the same. */
export class StatusReader {
  private readonly watched = new Map<string, WatchedStatus>();

  constructor(private readonly parts: StatusReaderParts) {}

  /** `name` "" = the sidecar alone. Throws LogNotFoundError. */
  async read(name: string): Promise<StatusParts> {
    if (name === "") return { sidecar: this.sidecarStatus };
    const log = this.parts.logs.get(name);
    const state = await log.observe();
    if (state === "missing") throw new LogNotFoundError(name);
    // Afterwards: it has just been seen whether the store answers.
    const sidecar = this.sidecarStatus;
    if (state === "unknown") return { sidecar };
    return { sidecar, log: toLogStatus(log, state, this.parts.budget.bytesMax, this.parts.views.find(name)) };
  }

  /** WatchStatusResponse in wire form: now, and whenever more than clocks has moved, at most once per interval. */
  async *watch(name: string, intervalMs: number, signal: AbortSignal): AsyncGenerator<Buffer> {
    const { clock } = this.parts;
    const watched = this.watched.get(name) ?? new WatchedStatus(() => this.read(name), clock);
    this.watched.set(name, watched);
    watched.watchers++;
    try {
      for (let told = 0; !signal.aborted; ) {
        const { version, bytes } = await watched.reading(intervalMs / 2);
        if (version !== told) yield bytes;
        told = version;
        await sleep(clock, intervalMs, signal);
      }
    } finally {
      if (--watched.watchers === 0) this.watched.delete(name);
    }
  }

  private get sidecarStatus(): SidecarStatus {
    return toSidecarStatus(this.parts.sidecar());
  }
}

interface Reading {
  /** Another one for another content. */
  readonly version: number;
  readonly bytes: Buffer;
}

/** What all who watch one log share. */
class WatchedStatus {
  watchers = 0;
  private newest: { readonly reading: Promise<Reading>; readonly startedMs: number } | undefined;
  private content: Uint8Array = new Uint8Array();
  private version = 0;

  constructor(
    private readonly read: () => Promise<StatusParts>,
    private readonly clock: Clock,
  ) {}

  /** One that was begun no longer ago than this. */
  reading(ageMsMax: number): Promise<Reading> {
    const nowMs = this.clock.monotonicMs();
    if (this.newest !== undefined && nowMs - this.newest.startedMs <= ageMsMax) return this.newest.reading;
    const reading = this.take();
    const newest = { reading, startedMs: nowMs };
    this.newest = newest;
    reading.catch(() => {
      if (this.newest === newest) this.newest = undefined;
    });
    return reading;
  }

  private async take(): Promise<Reading> {
    const status = await this.read();
    const content = toBinary(WatchStatusResponseSchema, create(WatchStatusResponseSchema, withoutClocks(status)));
    if (this.version === 0 || Buffer.compare(content, this.content) !== 0) this.version++;
    this.content = content;
    const bytes = toBinary(WatchStatusResponseSchema, create(WatchStatusResponseSchema, status));
    return { version: this.version, bytes: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength) };
  }
}

function withoutClocks({ sidecar, log }: StatusParts) {
  const store = sidecar.store && { ...sidecar.store };
  delete store?.unreachableFor;
  if (log === undefined) return { sidecar: { ...sidecar, ...(store && { store }) } };
  const { observedAt, leaseLeft, ...rest } = log;
  const subscribers = log.subscribers.map(({ lagTime, ...each }) => each);
  return { sidecar: { ...sidecar, ...(store && { store }) }, log: { ...rest, subscribers } };
}
