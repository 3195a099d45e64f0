import { fromBinary } from "@bufbuild/protobuf";
import { AppendRequestSchema, type AppendResponse } from "../gen/oplog/v1/oplog_pb.js";
import type { RenewObjectLeasesRequestSchema, RenewObjectLeasesResponse } from "../gen/oplog/v1/standby_pb.js";
import { backOffMs, pause } from "./back-off.js";
import { cancelled, type Request, type UnaryOptions } from "./calls.js";
import { connect, type OplogClient } from "./client.js";
import { OplogRpcError } from "./errors.js";

export interface LeaderClientOptions {
  /** How long one sidecar may take to answer; 10 s unless told. */
  readonly deadlineMs?: number;
  /** How long a call may take in all, with every attempt at every sidecar, give or take a second; 30 s unless told. */
  readonly patienceMs?: number;
  /**
   * Gives up once every target has been tried and none could be connected to, as long as no sidecar has ever answered:
   * for people, who may have mistyped it.
   */
  readonly givesUpUnanswered?: boolean;
  /** Told before each further attempt. */
  readonly onStep?: (step: LeaderStep) => void;
}

/** From one sidecar to the next, which may be the same. */
export interface LeaderStep {
  readonly from: string;
  readonly to: string;
  readonly because: OplogRpcError;
  /** 0 = at once: the sidecar has named the leader. */
  readonly waitMs: number;
}

export interface LeaderCallOptions extends UnaryOptions {
  readonly patienceMs?: number;
}

type Run<T> = (client: OplogClient, options: UnaryOptions) => Promise<T>;

const DEADLINE_MS = 10_000;
const PATIENCE_MS = 30_000;
/** What the last attempt is given, though patience ends: one that is cut short would leave open what it has done. */
const LAST_ATTEMPT_MS = 1_000;
/** How often a call is sent on without a wait in between. Two sidecars may each take the other for the leader. */
const HOPS_MAX = 3;

/**
 * Finds the sidecar that leads, and stays with it until it leads no more. A call begins where the last one succeeded.
 * Where the sidecar names another one it goes there; where nobody leads, or the sidecar cannot be reached, it waits and
 * tries the targets in turn; where the sidecar says when to come back (RetryInfo) it does. So until its patience ends: it
 * gives up at once when the wait would outlast that.
 *
 * Only for a log whose appends name no term: a leader that names its own has lost it when it is refused, and must not
 * follow. Calls may run concurrently, and leave for the next sidecar together; those of one writer_id must not: an
 * operation_id that arrives after a higher one is refused.
 */
export class LeaderClient {
  private readonly targets: readonly [string, ...string[]];
  private readonly options: LeaderClientOptions;
  private readonly running = new Set<AbortController>();
  private seat: Seat;
  private turn = 1;
  private hasBeenAnswered = false;
  private isClosed = false;

  constructor(targets: readonly string[], options: LeaderClientOptions = {}) {
    const [first, ...others] = targets;
    if (first === undefined) throw new Error("LeaderClient needs at least one target");
    this.targets = [first, ...others];
    this.options = options;
    this.seat = new Seat(first);
  }

  /** Where the next call goes. */
  get target(): string {
    return this.seat.client.target;
  }

  /**
   * With writer_id and operation_id exactly once, however often it is sent; without, an append that may have been written
   * is not sent again. When an attempt may have been written and none was acknowledged: UNKNOWN (OUTCOME_UNKNOWN).
   */
  append(request: Request<typeof AppendRequestSchema>, options?: LeaderCallOptions): Promise<AppendResponse> {
    return this.call(
      (client, callOptions) => client.append(request, callOptions),
      () => hasOperation(request),
      options,
    );
  }

  renewObjectLeases(
    request: Request<typeof RenewObjectLeasesRequestSchema>,
    options?: LeaderCallOptions,
  ): Promise<RenewObjectLeasesResponse> {
    return this.call(
      (client, callOptions) => client.renewObjectLeases(request, callOptions),
      () => true,
      options,
    );
  }

  /** Calls that are under way are cancelled. */
  close(): void {
    this.isClosed = true;
    for (const abort of this.running) abort.abort();
    this.seat.leave();
  }

  /** What is repeatable may be done twice; the rest is repeated only after an answer that proves that it was not done. */
  private async call<T>(run: Run<T>, isRepeatable: () => boolean, options: LeaderCallOptions = {}): Promise<T> {
    const abort = new AbortController();
    const onAbort = () => abort.abort(options.signal?.reason);
    this.running.add(abort);
    options.signal?.addEventListener("abort", onAbort, { once: true });
    if (this.isClosed || options.signal?.aborted) onAbort();
    try {
      return await this.seek(run, isRepeatable, options, abort.signal);
    } finally {
      this.running.delete(abort);
      options.signal?.removeEventListener("abort", onAbort);
    }
  }

  private async seek<T>(
    run: Run<T>,
    isRepeatable: () => boolean,
    options: LeaderCallOptions,
    signal: AbortSignal,
  ): Promise<T> {
    const giveUpAtMs = performance.now() + (options.patienceMs ?? this.options.patienceMs ?? PATIENCE_MS);
    const attemptMs = options.deadlineMs ?? this.options.deadlineMs ?? DEADLINE_MS;
    const search = new Search(isRepeatable, giveUpAtMs);
    for (;;) {
      if (signal.aborted) throw search.outcome(cancelled(signal));
      const { seat } = this;
      const deadlineMs = Math.min(attemptMs, Math.max(giveUpAtMs - performance.now(), LAST_ATTEMPT_MS));
      let error: OplogRpcError;
      try {
        const result = await seat.use((client) => run(client, { deadlineMs, signal }));
        this.hasBeenAnswered = true;
        return result;
      } catch (caught) {
        if (!(caught instanceof OplogRpcError)) throw caught;
        error = caught;
      }
      if (error.reason !== "") this.hasBeenAnswered = true;
      const waitMs = search.nextIn(error, seat.client.target);
      if (waitMs === undefined || this.isHopeless(search) || signal.aborted) throw search.outcome(error);
      const to = this.moveOn(seat, error, waitMs);
      this.options.onStep?.({ from: seat.client.target, to, because: error, waitMs });
      await pause(waitMs, signal);
    }
  }

  private isHopeless({ attempts }: Search): boolean {
    const { givesUpUnanswered = false } = this.options;
    return givesUpUnanswered && !this.hasBeenAnswered && attempts >= this.targets.length;
  }

  /** Where the call goes next. If another call has moved on from there already, where that one went. */
  private moveOn(seat: Seat, error: OplogRpcError, waitMs: number): string {
    if (this.seat !== seat) return this.target;
    const to = waitMs === 0 ? endpointOf(error)! : this.nextTarget(error);
    if (to !== this.target) {
      this.seat = new Seat(to);
      seat.leave();
    }
    return to;
  }

  private nextTarget(error: OplogRpcError): string {
    // The sidecar that asks for patience is the right one, unless it is cut off from the store.
    if (error.retryAfterMs !== undefined && error.reason !== "STORE_UNREACHABLE") return this.target;
    const to = this.targets[this.turn % this.targets.length]!;
    this.turn += 1;
    return to;
  }
}

/** One call's way to the leader. */
class Search {
  attempts = 0;
  private hops = 0;
  private doubt: OplogRpcError | undefined;

  constructor(
    private readonly isRepeatable: () => boolean,
    private readonly giveUpAtMs: number,
  ) {}

  /** How long to wait before the next attempt; undefined = there is to be none. */
  nextIn(error: OplogRpcError, target: string): number | undefined {
    if (error.mayHaveCommitted) this.doubt = error;
    if (error.mayHaveCommitted ? !this.isRepeatable() : !isOfThisMoment(error)) return undefined;
    const endpoint = endpointOf(error);
    if (endpoint !== undefined && endpoint !== target && this.hops < HOPS_MAX) {
      this.hops += 1;
      return performance.now() < this.giveUpAtMs ? 0 : undefined;
    }
    this.hops = 0;
    const waitMs = backOffMs(this.attempts, error.retryAfterMs);
    this.attempts += 1;
    return performance.now() + waitMs < this.giveUpAtMs ? waitMs : undefined;
  }

  /** What the caller gets in the end: a later refusal does not tell what became of an earlier attempt. */
  outcome(error: OplogRpcError): OplogRpcError {
    if (this.doubt === undefined || error.mayHaveCommitted) return error;
    const message = `an earlier attempt may have been carried out (${this.doubt.message}), and the last one failed: ${error.message}`;
    return new OplogRpcError({ code: "UNKNOWN", reason: "OUTCOME_UNKNOWN", message, cause: error });
  }
}

/** The connection to one sidecar, closed when it has been left and the last call over it has ended. */
class Seat {
  readonly client: OplogClient;
  private users = 0;
  private isLeft = false;

  constructor(target: string) {
    this.client = connect(target);
  }

  async use<T>(run: (client: OplogClient) => Promise<T>): Promise<T> {
    this.users += 1;
    try {
      return await run(this.client);
    } finally {
      this.users -= 1;
      this.closeIfDone();
    }
  }

  leave(): void {
    this.isLeft = true;
    this.closeIfDone();
  }

  private closeIfDone(): void {
    if (this.isLeft && this.users === 0) this.client.close();
  }
}

/** What another sidecar may well do at once. */
const REASONS = new Set(["NOT_PRIMARY", "SHUTTING_DOWN"]);

/** Refusals of what this sidecar cannot do now, and another one, or this one later, may well do. */
function isOfThisMoment(error: OplogRpcError): boolean {
  return error.isConnectFailure || REASONS.has(error.reason) || error.retryAfterMs !== undefined;
}

const ADDRESS = /^[\x21-\x7e]{1,256}$/;

/** Where the sidecar says that the leader is; undefined if it does not. */
function endpointOf({ reason, metadata }: OplogRpcError): string | undefined {
  const endpoint = reason === "NOT_PRIMARY" ? metadata.endpoint : undefined;
  return endpoint !== undefined && ADDRESS.test(endpoint) ? endpoint : undefined;
}

function hasOperation(request: Request<typeof AppendRequestSchema>): boolean {
  const { writerId, operationId } = Buffer.isBuffer(request) ? fromBinary(AppendRequestSchema, request) : request;
  return writerId !== undefined && writerId !== "" && operationId !== undefined && operationId !== 0n;
}
