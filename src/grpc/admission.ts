import { status as GrpcCode, type Metadata, type ServerInterceptor } from "@grpc/grpc-js";
import type { Clock, Timer } from "../oplog/clock.js";
import { OplogError, TooLargeError, TooSlowError } from "../oplog/errors.js";
import { Arrival, type ArrivingCall, requireInternals } from "./arrival.js";
import { CallLimit } from "./call-limit.js";
import type { Method } from "./method.js";
import type { RequestBudget } from "./request-budget.js";
import { toServiceError } from "./status.js";

export interface AdmissionParts {
  readonly methods: readonly Method[];
  readonly budget: RequestBudget;
  readonly clock: Clock;
  /** No request is larger, also after it has been inflated. */
  readonly messageBytesMax: number;
  /** Called for calls that no handler has seen. */
  readonly onRefused: (method: string, code: string) => void;
}

/** Of methods whose requests are not counted. */
export const SMALL_REQUEST_BYTES_MAX = 64 * 1024;
/** Of health and reflection, each. */
const OTHER_CALLS_MAX = 1000;
/** How long after its first byte a request must be complete. */
export const ARRIVAL_MS_MAX = 30_000;
const SWEEP_MS = 2000;
/** Each key with its value, and 32 bytes for the pair. */
export const METADATA_BYTES_MAX = 8 * 1024;
const METADATA_PAIR_BYTES = 32;

interface Gate {
  readonly name: string;
  readonly limit: CallLimit;
  readonly isStream: boolean;
  /** Undefined: requests are counted. */
  readonly bytesMax: number | undefined;
}

/**
 * Every call comes in here, before a byte of its request has been read. A call beyond the limit of its kind, or whose
 * requests find no room in the budget, is refused. What a call has taken is given back when its HTTP/2 stream has closed.
 */
export class Admission {
  private readonly gates: ReadonlyMap<string, Gate>;
  private readonly otherCalls = new CallLimit("calls of health and reflection", OTHER_CALLS_MAX);
  private readonly open = new Map<
    Metadata,
    { readonly call: ArrivingCall; readonly arrival: Arrival; readonly gate: Gate }
  >();

  private sweep: Timer;

  constructor(private readonly parts: AdmissionParts) {
    this.gates = new Map(
      parts.methods.map(({ descriptor, kind, limit, request }) => [
        `/${descriptor.parent.typeName}/${descriptor.name}`,
        {
          name: descriptor.name,
          limit,
          isStream: kind === "duplex",
          bytesMax: request === "counted" ? undefined : SMALL_REQUEST_BYTES_MAX,
        },
      ]),
    );
    this.sweep = this.nextSweep();
  }

  readonly interceptor: ServerInterceptor = ({ path, requestStream }, intercepted) => {
    const call: Partial<ArrivingCall> = intercepted as ArrivingCall;
    requireInternals(call);
    const gate = this.gates.get(path) ?? {
      name: path,
      limit: this.otherCalls,
      isStream: requestStream,
      bytesMax: SMALL_REQUEST_BYTES_MAX,
    };
    this.admit(call, gate);
    return intercepted as ReturnType<ServerInterceptor>;
  };

  close(): void {
    this.sweep.cancel();
  }

  /** Of the call that has this metadata. */
  arrivalOf(metadata: Metadata): Arrival | undefined {
    return this.open.get(metadata)?.arrival;
  }

  private admit(call: ArrivingCall, gate: Gate): void {
    const { clock, budget, messageBytesMax: inflatedBytesMax } = this.parts;
    try {
      requireSmall(call.metadata);
      gate.limit.enter();
    } catch (error) {
      this.parts.onRefused(gate.name, this.refuse(call, error));
      return;
    }
    const { isStream, bytesMax } = gate;
    const refuse = (error: OplogError) => this.refuseRequest(call, gate, error);
    const arrival = new Arrival(call, { isStream, bytesMax, inflatedBytesMax, budget, refuse }, () =>
      clock.monotonicMs(),
    );
    this.open.set(call.metadata, { call, arrival, gate });
    call.stream.once("close", () => {
      this.open.delete(call.metadata);
      arrival.end();
      gate.limit.leave();
    });
  }

  private refuseRequest(call: ArrivingCall, { name, isStream }: Gate, error: OplogError): void {
    const code = this.refuse(call, error);
    // The handler of a stream has begun with it, and tells of its end.
    if (!isStream) this.parts.onRefused(name, code);
  }

  private refuse(call: ArrivingCall, error: unknown): string {
    if (!(error instanceof OplogError)) throw error;
    const { code, details, metadata } = toServiceError(error);
    const { stream } = call;
    // A client that does not end its half would keep what has arrived of it in memory.
    const { headersSent } = stream;
    if (headersSent) stream.once("wantTrailers", () => setImmediate(() => stream.close()));
    call.sendStatus({ code, details, metadata });
    if (!headersSent) stream.close();
    return GrpcCode[code];
  }

  private nextSweep(): Timer {
    return this.parts.clock.setTimer(SWEEP_MS, () => this.refuseSlow(), true);
  }

  private refuseSlow(): void {
    this.sweep = this.nextSweep();
    const dueMs = this.parts.clock.monotonicMs() - ARRIVAL_MS_MAX;
    for (const { call, arrival, gate } of this.open.values()) {
      const { arrivingSinceMs } = arrival;
      if (arrivingSinceMs === undefined || arrivingSinceMs > dueMs || call.receivedHalfClose) continue;
      arrival.arrivingSinceMs = undefined;
      this.refuseRequest(call, gate, new TooSlowError(ARRIVAL_MS_MAX));
    }
  }
}

/** It is kept as long as the call is open. */
function requireSmall({ internalRepr }: ArrivingCall["metadata"]): void {
  let bytes = 0;
  for (const [key, values] of internalRepr) {
    for (const value of values) bytes += key.length + value.length + METADATA_PAIR_BYTES;
  }
  if (bytes > METADATA_BYTES_MAX) throw new TooLargeError("metadata", bytes, METADATA_BYTES_MAX);
}
