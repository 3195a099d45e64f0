import { create } from "@bufbuild/protobuf";
import type { ServerDuplexStream } from "@grpc/grpc-js";
import type { StandbyDemand, StandbyPositions } from "../cursors/standby-positions.js";
import { AppendStreamResponseSchema } from "../gen/oplog/v1/oplog_pb.js";
import type { Logs } from "../log/logs.js";
import { OutcomeUnknownError, StreamEndedError } from "../oplog/append-errors.js";
import type { AppendLimits } from "../oplog/entries.js";
import { OplogError, ShuttingDownError } from "../oplog/errors.js";
import type { Appended, AppendItem, AppendOutcome } from "../writing/append-item.js";
import { type ParsedAppend, parseAppend, parseStreamRequest } from "./append-request.js";
import type { DuplexCall } from "./call.js";
import { toAppendResponse } from "./convert.js";
import type { RequestBudget } from "./request-budget.js";
import { toStatus } from "./status.js";
import { StreamWriter } from "./stream-writer.js";

/** What one stream may have in flight; beyond it the stream is not read. */
const IN_FLIGHT_BYTES_MAX = 4 * 1024 * 1024;
const IN_FLIGHT_APPENDS_MAX = 4096;
/** What an append is counted with while it waits for standbys. */
const WAITING_BYTES = 512;
const ANSWER_BYTES = 64;
const ANSWERS_BUFFERED_BYTES_MAX = 256 * 1024;

/** Not the fault of the append itself: the next append would fail too, or worse, be written although this one was not. */
const BREAKS_THE_STREAM = new Set([
  "OUTCOME_UNKNOWN",
  "STORE_UNREACHABLE",
  "NOT_PRIMARY",
  "LOG_DELETED",
  "NOT_READY",
  "RULED_OUT",
  "STORE_REFUSED",
  "STORE_REPLACED",
  "STORE_ADOPTED",
  "STORE_DAMAGED",
  "HISTORY_DIVERGED",
  "STREAM_ENDED",
  "DATA_LOSS",
]);

export interface AppendStreamParts {
  readonly logs: Logs;
  readonly limits: AppendLimits;
  /** Of the requests of all calls; what has been claimed is given back to it. */
  readonly requests: RequestBudget;
  /** Aborts when the sidecar is about to stop. */
  readonly draining: AbortSignal;
}

interface Slot {
  correlationId: bigint;
  /** What it is counted with, here and in the budget of all requests. */
  bytes: number;
  outcome: AppendOutcome | undefined;
  demand: StandbyDemand | undefined;
  /** Standbys that had passed it when its wait was over. */
  standbyCount: number;
  /** Ends its wait for standbys. */
  release: () => void;
}

interface Received {
  readonly slot: Slot;
  readonly message: Buffer;
}

/**
 * One AppendStream: its requests go to the writer in order, and the answers come back in the same order. It is driven by
 * events, because async iteration would destroy the stream at its end, and answers that are still to be sent.
 */
export class AppendStreamSession {
  /** Received and not yet looked at. */
  private inbox: Received[] = [];
  /** Of all requests that were received, also unread ones, and have not been answered. */
  private slots: Slot[] = [];
  private answered = 0;
  private inFlightBytes = 0;
  private isReading = false;
  private isAwaitingRoom = false;
  private hasEnded = false;
  /** What comes after is not looked at: the status of the stream tells that it was not written. */
  private isFinished = false;
  private log = "";
  /** Why nothing further is written: an append was not acknowledged, and later ones must not overtake it. */
  private failure: OplogError | undefined;
  private readonly writer: StreamWriter;
  private readonly gone = new AbortController();
  private finish: (error?: OplogError) => void = () => undefined;
  private readonly call: ServerDuplexStream<Buffer, unknown>;
  private readonly claim: DuplexCall["claim"];

  constructor(
    { stream, claim }: DuplexCall,
    private readonly parts: AppendStreamParts,
  ) {
    this.call = stream;
    this.claim = claim;
    this.writer = new StreamWriter(stream, ANSWERS_BUFFERED_BYTES_MAX);
  }

  /** Resolves when the client has ended the stream and all is answered, or it has left; rejects with OplogError. */
  async run(): Promise<void> {
    const { call } = this;
    const { draining } = this.parts;
    const finished = new Promise<void>((resolve, reject) => {
      this.finish = (error) => {
        this.isFinished = true;
        if (error === undefined) resolve();
        else reject(error);
      };
    });
    const leave = () => {
      this.gone.abort();
      for (const { slot } of this.inbox) this.giveBack(slot);
      this.inbox = [];
      for (const slot of [...this.slots]) slot.release();
      this.finish();
    };
    const drain = () => this.finishWhenSettled();
    call.on("cancelled", leave);
    call.on("close", leave);
    call.on("error", leave);
    draining.addEventListener("abort", drain);
    call.on("data", (message: Buffer) => {
      if (this.isFinished) return;
      this.inbox.push({ slot: this.openSlot(this.claim(message.length)), message });
      if (this.isReading) this.pace();
      else void this.read().catch((error) => this.finish(error));
    });
    call.on("end", () => {
      this.hasEnded = true;
      this.finishWhenSettled();
    });
    try {
      if (draining.aborted) drain();
      await finished;
    } finally {
      draining.removeEventListener("abort", drain);
    }
  }

  private async read(): Promise<void> {
    this.isReading = true;
    while (this.inbox.length > 0 && !this.gone.signal.aborted) {
      const all = this.inbox;
      this.inbox = [];
      for (const received of all) {
        const append = this.parse(received);
        if (append !== undefined) await this.append(received.slot, append);
      }
      this.pace();
    }
    this.isReading = false;
    this.finishWhenSettled();
  }

  private parse({ slot, message }: Received): ParsedAppend | undefined {
    try {
      const { correlationId, start, end } = parseStreamRequest(message);
      slot.correlationId = correlationId;
      return parseAppend(message, this.parts.limits, start, end, this.log, (log) => {
        this.log = log;
      });
    } catch (error) {
      this.refuse(slot, error);
      return undefined;
    }
  }

  private async append(slot: Slot, append: ParsedAppend): Promise<void> {
    try {
      this.requireUnbroken();
      const log = this.parts.logs.get(append.log);
      const item: AppendItem = {
        ...append,
        isAbandoned: () => this.gone.signal.aborted,
        settle: (outcome) =>
          append.standbys === undefined || "error" in outcome
            ? this.settle(slot, outcome)
            : this.awaitStandbys(slot, outcome, log.standbys, append.standbys),
      };
      // Back-pressure instead of a refusal: what a stream has sent stays in order.
      await log.append(item, { paced: this.gone.signal, confirm: () => this.requireUnbroken() });
    } catch (error) {
      this.refuse(slot, error);
    }
  }

  private requireUnbroken(): void {
    if (this.failure !== undefined) throw new StreamEndedError();
  }

  private openSlot(bytes: number): Slot {
    const slot: Slot = {
      correlationId: 0n,
      bytes,
      outcome: undefined,
      demand: undefined,
      standbyCount: 0,
      release: () => undefined,
    };
    this.slots.push(slot);
    this.inFlightBytes += bytes;
    return slot;
  }

  private giveBack({ bytes }: Slot): void {
    this.inFlightBytes -= bytes;
    this.parts.requests.give(bytes);
  }

  private refuse(slot: Slot, error: unknown): void {
    if (!(error instanceof OplogError)) throw error;
    this.settle(slot, { error });
  }

  /** Later appends are written all the same; their answers wait behind this one. */
  private awaitStandbys(
    slot: Slot,
    outcome: { readonly appended: Appended },
    standbys: StandbyPositions,
    demand: StandbyDemand,
  ): void {
    slot.demand = demand;
    // Its entries are in the log, and no longer in memory.
    const freed = slot.bytes - WAITING_BYTES;
    if (freed > 0) {
      slot.bytes -= freed;
      this.inFlightBytes -= freed;
      this.parts.requests.shrink(freed);
    }
    slot.release = standbys.wait(outcome.appended.last, demand, (reached) => {
      slot.standbyCount = reached;
      this.settle(slot, outcome);
    });
    if (this.gone.signal.aborted) slot.release();
  }

  private settle(slot: Slot, outcome: AppendOutcome): void {
    slot.outcome = outcome;
    if ("error" in outcome && BREAKS_THE_STREAM.has(outcome.error.reason)) this.failure ??= outcome.error;
    if (slot !== this.slots[0]) return;
    let settled = 0;
    for (const ready of this.slots) {
      if (ready.outcome === undefined) break;
      settled++;
      this.giveBack(ready);
      this.writer.send(answer(ready, ready.outcome), ANSWER_BYTES);
    }
    this.slots.splice(0, settled);
    this.answered += settled;
    this.pace();
    this.finishWhenSettled();
  }

  /** Reads only while what is in flight, and what the client has not taken of the answers, is within bounds. */
  private pace(): void {
    const isFull = this.inFlightBytes >= IN_FLIGHT_BYTES_MAX || this.slots.length >= IN_FLIGHT_APPENDS_MAX;
    if (isFull || !this.writer.hasRoom) {
      this.call.pause();
      if (!isFull) void this.awaitRoom();
    } else if (this.call.isPaused()) {
      this.call.resume();
    }
  }

  private async awaitRoom(): Promise<void> {
    if (this.isAwaitingRoom) return;
    this.isAwaitingRoom = true;
    await this.writer.room();
    this.isAwaitingRoom = false;
    this.pace();
  }

  private finishWhenSettled(): void {
    if (this.slots.length > 0 || this.isReading) return;
    if (this.hasEnded) this.finish();
    else if (this.parts.draining.aborted) this.finishWith(new ShuttingDownError());
    else if (this.failure !== undefined)
      this.finishWith(this.failure instanceof OutcomeUnknownError ? new StreamEndedError() : this.failure);
  }

  /** A client may see the end before the answers that are on their way to it. */
  private finishWith(error: OplogError): void {
    this.finish(error.with({ answered: this.answered }));
  }
}

function answer({ correlationId, demand, standbyCount }: Slot, outcome: AppendOutcome) {
  return create(AppendStreamResponseSchema, {
    correlationId,
    outcome:
      "error" in outcome
        ? { case: "error", value: toStatus(outcome.error) }
        : { case: "appended", value: toAppendResponse(outcome.appended, demand, standbyCount) },
  });
}
