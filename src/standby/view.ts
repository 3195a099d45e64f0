import type { Clock } from "../oplog/clock.js";
import { OplogError, ShuttingDownError, ViewFailedError } from "../oplog/errors.js";
import type { Logger } from "../oplog/logger.js";
import { WireError, WireReader } from "../oplog/wire.js";
import type { Log } from "../replication/log.js";
import type { SubscriptionOptions } from "../replication/subscription.js";
import { Backoff, sleep, yieldTurn } from "../replication/timing.js";
import { type KeyOrderViolation, StandbyState, StateGapError } from "./standby-state.js";

/** What a view tells about its work; the sidecar turns it into metrics. */
export interface ViewObserver {
  applied(log: string, sequenceId: number, keys: number, bytes: number): void;
  keyOrderViolated(log: string): void;
}

export interface ViewParts {
  /** Afresh for each attempt: the sidecar gives up logs that nobody uses. */
  readonly openLog: (name: string) => Log;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly observer: ViewObserver;
  readonly headPollMs: number;
}

export type ViewPhase = "catching up" | "following";

const RETRY_FIRST_MS = 100;
const RETRY_MAX_MS = 5000;
/** A batch is applied in one go; this many bytes take a few milliseconds. */
const BATCH_BYTES_MAX = 128 * 1024;
/** Nobody looks at the heartbeats of this subscription. */
const HEARTBEAT_MS = 60_000;
/** A log whose keys are all out of order must not flood the log of the process. */
const VIOLATION_REPORT_MS = 1000;

/** The state of one log, kept up to date through a subscription inside the sidecar. */
export class View {
  readonly state = new StandbyState((violation) => this.noteViolation(violation));
  private log: Log | undefined;
  private logId: Uint8Array = new Uint8Array();
  /** Why it has stopped, as clients are told. */
  private failure: string | undefined;
  private violationReportedMs = Number.NEGATIVE_INFINITY;

  constructor(
    private readonly parts: ViewParts,
    readonly name: string,
  ) {}

  get head(): bigint {
    return this.log?.feedView.head ?? 0n;
  }

  /** Following is said only when nothing is missing that the store had at the last or last but one poll of the head. */
  get phase(): ViewPhase {
    const feed = this.log?.feedView;
    const isConfirmed = feed?.isReady === true && feed.headAgeMs <= 2 * this.parts.headPollMs;
    return isConfirmed && BigInt(this.state.applied) >= feed.head ? "following" : "catching up";
  }

  /** Throws ViewFailedError once the view has stopped for good: nothing it holds can be relied on. */
  requireWorking(): this {
    if (this.failure !== undefined) throw new ViewFailedError(this.name, this.state.applied, this.failure);
    return this;
  }

  /** Applies until the signal aborts, the sidecar drains, or the log cannot be followed any further. */
  async run(signal: AbortSignal): Promise<void> {
    const backoff = new Backoff(RETRY_FIRST_MS, RETRY_MAX_MS);
    while (!signal.aborted) {
      const before = this.state.applied;
      try {
        await this.follow(signal);
      } catch (error) {
        if (error instanceof ShuttingDownError || signal.aborted) return;
        if (!isPassing(error)) return this.fail(error);
        if (this.state.applied > before) backoff.reset();
        const { logger } = this.parts;
        logger.warn(
          { event: "view_interrupted", log: this.name, err: error },
          "the view tries again to follow the log",
        );
        await sleep(backoff.delayMs(), signal);
      }
    }
  }

  private async follow(signal: AbortSignal): Promise<void> {
    const { state } = this;
    this.log = this.parts.openLog(this.name);
    const from = BigInt(state.applied + 1);
    await this.log.subscribe(
      OPTIONS,
      { kind: "sequence", from, previousTerm: BigInt(state.appliedTerm) },
      this.logId,
      {
        batch: (frame) => this.apply(frame),
        notice: async () => undefined,
        bufferedBytes: 0,
        hasRoom: true,
      },
      signal,
    );
  }

  private async apply(frame: Buffer): Promise<void> {
    const { state, name } = this;
    this.logId = this.log?.feedView.logId ?? this.logId;
    const response = new WireReader(frame);
    response.tag();
    state.apply(frame.subarray(response.span(), response.position));
    this.parts.observer.applied(name, state.applied, state.keys, state.bytes);
    await yieldTurn();
  }

  private fail(error: unknown): void {
    this.failure = isExplained(error) ? error.message : "an internal error, which the log of the sidecar tells";
    const facts = { event: "view_failed", log: this.name, applied: String(this.state.applied), err: error };
    this.parts.logger.error(facts, `the view has stopped: ${this.failure}`);
  }

  private noteViolation({ key, sequenceId, lastKeySequenceId, keySequenceId }: KeyOrderViolation): void {
    const { clock, logger, observer } = this.parts;
    observer.keyOrderViolated(this.name);
    const nowMs = clock.monotonicMs();
    if (nowMs - this.violationReportedMs < VIOLATION_REPORT_MS) return;
    this.violationReportedMs = nowMs;
    logger.warn(
      {
        event: "key_order_violated",
        log: this.name,
        key: key.slice(0, 200),
        sequenceId: String(sequenceId),
        total: this.state.keyOrderViolations,
      },
      `a key was dropped from the view: its key_sequence_id is ${keySequenceId} after ${lastKeySequenceId}`,
    );
  }
}

const OPTIONS: SubscriptionOptions = {
  consumer: "",
  peer: "view",
  filter: undefined,
  batchBytesMax: BATCH_BYTES_MAX,
  lingerMs: 0,
  heartbeatMs: HEARTBEAT_MS,
};

function isExplained(error: unknown): error is Error {
  return error instanceof OplogError || error instanceof StateGapError || error instanceof WireError;
}

/** The store is away, or a limit of the sidecar is reached. Everything else is the log's own and stays so. */
function isPassing(error: unknown): boolean {
  return error instanceof OplogError && (error.code === "UNAVAILABLE" || error.code === "RESOURCE_EXHAUSTED");
}
