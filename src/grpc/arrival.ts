import type { ServerHttp2Stream } from "node:http2";
import type { Metadata, ServerInterceptingCallInterface } from "@grpc/grpc-js";
import { QueueFullError } from "../oplog/append-errors.js";
import { type OplogError, TooLargeError } from "../oplog/errors.js";
import type { RequestBudget } from "./request-budget.js";

interface KeptMetadata {
  readonly internalRepr: ReadonlyMap<string, readonly (string | Buffer)[]>;
}

/**
 * Internals of grpc-js for a call that arrives: the only way to know of a request before all of it is in memory. The
 * version of grpc-js is pinned, and `requireInternals` checks that the internals are still there.
 */
export type ArrivingCall = ServerInterceptingCallInterface & {
  readonly stream: ServerHttp2Stream;
  readonly metadata: Metadata & KeptMetadata;
  readonly receivedHalfClose: boolean;
  readonly isReadPending: boolean;
  readonly decoder: {
    write(data: Buffer): Buffer[];
    readonly readState: number;
    readonly readMessageSize: number;
    readonly readCompressFlag: Buffer;
  };
};

export interface ArrivalRules {
  /** Several requests may come, and wait for room. Otherwise the only request is refused if it finds no room. */
  readonly isStream: boolean;
  /** Larger requests are refused, and smaller ones not counted; undefined = they are counted. */
  readonly bytesMax: number | undefined;
  /** What a compressed request is counted with until its size is known. */
  readonly inflatedBytesMax: number;
  readonly budget: RequestBudget;
  readonly refuse: (error: OplogError) => void;
}

/** Of the flag and the length before each message. */
const PREFIX_BYTES = 5;
const READING_MESSAGE = 2;
const RETRY_MS = 100;

/**
 * The requests of one call on their way in. The length of a request is read before its body, and then room for all of it is
 * taken from the budget; while there is no room a stream is not read any further. So a request whose body is being read can
 * always be completed, and all that is held exceeds the budget by at most one frame of HTTP/2 for each call.
 */
export class Arrival {
  /** Of requests that are complete and have not been claimed, in order. */
  private readonly charges: number[] = [];
  /** Taken for the request that is arriving. */
  private reserved = 0;
  private isCounted = false;
  private stopWaiting: (() => void) | undefined;
  private isOver = false;
  private onEnd: () => void = () => undefined;
  /** When the request that is arriving was begun; undefined = none is. */
  arrivingSinceMs: number | undefined;

  constructor(
    private readonly call: ArrivingCall,
    private readonly rules: ArrivalRules,
    private readonly nowMs: () => number,
  ) {
    const { decoder } = call;
    const write = decoder.write.bind(decoder);
    decoder.write = (data) => {
      const messages = write(data);
      return this.receive(messages) ? messages : [];
    };
    if (!rules.isStream) {
      this.arrivingSinceMs = nowMs();
      return;
    }
    const startRead = call.startRead.bind(call);
    call.startRead = () => {
      startRead();
      if (this.stopWaiting !== undefined) call.stream.pause();
    };
  }

  /** The bytes that the next request is counted with; who claims them gives them back to the budget. */
  claim(length: number): number {
    const charge = this.charges.shift() ?? 0;
    const surplus = charge - (length + PREFIX_BYTES);
    if (surplus <= 0) return charge;
    this.rules.budget.shrink(surplus);
    return charge - surplus;
  }

  /** Calls the listener once the call has ended and the transport has taken all of its answer. For one listener. */
  whenOver(listener: () => void): void {
    if (this.isOver) listener();
    else this.onEnd = listener;
  }

  /** The call has ended: gives back what nobody has claimed. */
  end(): void {
    this.isOver = true;
    this.onEnd();
    this.stopWaiting?.();
    const { budget } = this.rules;
    if (this.isCounted) budget.give(this.reserved);
    for (const charge of this.charges) budget.give(charge);
    this.charges.length = 0;
    this.isCounted = false;
  }

  private receive(messages: readonly Buffer[]): boolean {
    if (this.isOver) return true;
    for (const message of messages) if (!this.complete(message)) return false;
    const { decoder } = this.call;
    if (decoder.readState === READING_MESSAGE) {
      return this.isCounted || this.begin(decoder.readMessageSize + PREFIX_BYTES, decoder.readCompressFlag[0] === 1);
    }
    if (this.rules.isStream) {
      this.arrivingSinceMs = undefined;
      if (this.rules.bytesMax === undefined && this.rules.budget.isFull) this.hold(0);
    }
    return true;
  }

  private complete(message: Buffer): boolean {
    const { budget, bytesMax } = this.rules;
    if (bytesMax !== undefined) return this.isSmall(message.length);
    if (this.isCounted) {
      this.isCounted = false;
      this.charges.push(this.reserved);
      return true;
    }
    const bytes = this.sizeOf(message.length, message[0] === 1);
    if (!this.rules.isStream && !budget.hasRoomFor(bytes)) return this.refuseFull(bytes);
    budget.take(bytes);
    this.charges.push(bytes);
    return true;
  }

  private begin(length: number, isCompressed: boolean): boolean {
    const { budget, bytesMax, isStream } = this.rules;
    this.arrivingSinceMs ??= this.nowMs();
    if (bytesMax !== undefined) return this.isSmall(length);
    const bytes = this.sizeOf(length, isCompressed);
    if (budget.hasRoomFor(bytes)) this.reserve(bytes);
    else if (isStream) this.hold(bytes);
    else return this.refuseFull(bytes);
    return true;
  }

  private reserve(bytes: number): void {
    this.rules.budget.take(bytes);
    this.reserved = bytes;
    this.isCounted = true;
  }

  /** Reads no further until there is room for so much. */
  private hold(bytes: number): void {
    if (this.stopWaiting !== undefined) return;
    const { call, rules } = this;
    call.stream.pause();
    // The client is not to blame for the time that its request waits here.
    this.arrivingSinceMs = undefined;
    this.stopWaiting = rules.budget.wait(bytes, () => {
      this.stopWaiting = undefined;
      if (bytes > 0) {
        this.reserve(bytes);
        this.arrivingSinceMs = this.nowMs();
      }
      if (bytes > 0 || call.isReadPending) call.stream.resume();
    });
  }

  private sizeOf(length: number, isCompressed: boolean): number {
    return isCompressed ? length + this.rules.inflatedBytesMax : length;
  }

  private isSmall(length: number): boolean {
    const { bytesMax = 0, refuse } = this.rules;
    const received = length - PREFIX_BYTES;
    if (received <= bytesMax) return true;
    refuse(new TooLargeError("request", received, bytesMax));
    return false;
  }

  private refuseFull(bytes: number): boolean {
    const { budget, refuse } = this.rules;
    const [what, received, limit] =
      budget.requests < budget.requestsMax
        ? (["bytes", bytes, budget.bytesMax] as const)
        : (["appends", 1, budget.requestsMax] as const);
    refuse(new QueueFullError(what, received, limit, RETRY_MS));
    return false;
  }
}

/** Throws when grpc-js is not what Arrival was written for. */
export function requireInternals(call: Partial<ArrivingCall>): asserts call is ArrivingCall {
  const { stream, metadata, decoder, receivedHalfClose, isReadPending } = call;
  const isKnown =
    typeof stream?.pause === "function" &&
    typeof decoder?.write === "function" &&
    typeof decoder.readState === "number" &&
    typeof decoder.readMessageSize === "number" &&
    Buffer.isBuffer(decoder.readCompressFlag) &&
    typeof receivedHalfClose === "boolean" &&
    typeof isReadPending === "boolean" &&
    (metadata as KeptMetadata | undefined)?.internalRepr instanceof Map;
  if (!isKnown) throw new Error("this version of grpc-js does not tell of requests that arrive");
}
