import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  type GetEntryRequest,
  type GetEntryResponseSchema,
  type GetPromotionReadinessRequest,
  type GetPromotionReadinessResponse,
  type GetStateHashRequest,
  type GetStateHashResponseSchema,
  type RenewObjectLeasesRequest,
  type RenewObjectLeasesResponseSchema,
  type ScanStateRequest,
  ScanStateResponseSchema,
} from "../gen/oplog/v1/standby_pb.js";
import type { Clock } from "../oplog/clock.js";
import { ShuttingDownError } from "../oplog/errors.js";
import { linkSignals } from "../oplog/timing.js";
import type { ObjectLeases } from "../standby/object-leases.js";
import type { ReadinessReader } from "../standby/readiness-reader.js";
import type { StateEntry } from "../standby/standby-state.js";
import type { View } from "../standby/view.js";
import type { Views } from "../standby/views.js";
import type { AnsweringCall } from "./call.js";
import { renewObjectLeases, requireKey } from "./lease-renewal.js";
import { PHASES, toReadiness } from "./readiness.js";
import type { StreamWriter } from "./stream-writer.js";

export interface StandbyServiceParts {
  readonly views: Views;
  readonly readiness: ReadinessReader;
  readonly clock: Clock;
  /** The term under which a candidate at this sidecar leads the log. Rejects with OplogError: who leads instead. */
  readonly leadingTerm: (log: string) => Promise<bigint>;
  /** Aborts when the sidecar is about to stop. */
  readonly draining: AbortSignal;
}

const FRAME_BYTES = 64 * 1024;
const SCAN_BYTES_MAX = 1024 * 1024;
/** What an entry is counted with beyond its key and payload. */
const ENTRY_BYTES = 40;

/** oplog.v1.StandbyService. Each method throws OplogError for what the client is to be told. */
export class StandbyService {
  constructor(private readonly parts: StandbyServiceParts) {}

  async getEntry({ log, key }: GetEntryRequest): Promise<MessageInitShape<typeof GetEntryResponseSchema>> {
    const bytes = requireKey("key", Buffer.from(key));
    const { state, leases } = this.parts.views.get(log);
    const entry = state.get(bytes);
    return {
      appliedSequenceId: BigInt(state.applied),
      ...(entry === undefined ? {} : { entry: toEntry(entry, leases) }),
    };
  }

  async getStateHash({ log }: GetStateHashRequest): Promise<MessageInitShape<typeof GetStateHashResponseSchema>> {
    const view = this.parts.views.get(log);
    const { state } = view;
    return {
      stateHash: state.stateHash,
      appliedSequenceId: BigInt(state.applied),
      headSequenceId: view.head,
      phase: PHASES[view.phase],
      keys: BigInt(state.keys),
      bytes: BigInt(state.bytes),
      keyOrderViolations: BigInt(state.keyOrderViolations),
    };
  }

  async getPromotionReadiness({ log }: GetPromotionReadinessRequest): Promise<GetPromotionReadinessResponse> {
    return toReadiness(await this.parts.readiness.read(log, this.parts.draining));
  }

  async renewObjectLeases(
    request: RenewObjectLeasesRequest,
  ): Promise<MessageInitShape<typeof RenewObjectLeasesResponseSchema>> {
    const { views, leadingTerm, draining } = this.parts;
    const view = views.get(request.log);
    const missingKeys = await renewObjectLeases(view, request, () => leadingTerm(request.log), draining);
    return { missingKeys };
  }

  async scanState({ log }: ScanStateRequest, call: AnsweringCall): Promise<void> {
    const { views, clock, draining } = this.parts;
    const view = views.get(log);
    const { signal, unlink } = linkSignals(call.signal, draining);
    try {
      await scan(view, call.writer(SCAN_BYTES_MAX), clock, signal);
      if (draining.aborted) throw new ShuttingDownError();
    } finally {
      unlink();
    }
  }
}

async function scan(view: View, writer: StreamWriter, clock: Clock, signal: AbortSignal): Promise<void> {
  const { state, leases } = view;
  const startSequenceId = BigInt(state.applied);
  let entries: ReturnType<typeof toEntry>[] = [];
  let bytes = 0;
  const flush = async () => {
    if (entries.length === 0) return;
    const frame = { case: "entries" as const, value: { entries } };
    await writer.write(create(ScanStateResponseSchema, { frame }), bytes);
    entries = [];
    bytes = 0;
  };
  for (const entry of state.scan()) {
    const entryBytes = ENTRY_BYTES + entry.key.length + entry.payload.length;
    if (bytes + entryBytes > FRAME_BYTES) {
      await flush();
      await clock.yieldTurn();
      if (signal.aborted) return;
      view.requireWorking();
    }
    entries.push(toEntry(entry, leases));
    bytes += entryBytes;
  }
  const end = { startSequenceId, endSequenceId: BigInt(state.applied), stateHash: state.stateHash };
  await flush();
  await writer.write(create(ScanStateResponseSchema, { frame: { case: "end", value: end } }), ENTRY_BYTES);
}

function toEntry(entry: StateEntry, leases: ObjectLeases) {
  const { key, payload, sequenceId, keySequenceId, timestampMs } = entry;
  return {
    key: key.toString(),
    payload,
    sequenceId: BigInt(sequenceId),
    keySequenceId,
    timestampMs: BigInt(timestampMs),
    leaseUntilMs: BigInt(leases.endOf(entry)),
  };
}
