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
import { ShuttingDownError } from "../oplog/errors.js";
import { ViewBehindError } from "../oplog/log-errors.js";
import { linkSignals } from "../oplog/timing.js";
import type { LogView, LogViews, ScanEnd, ViewEntry } from "../standby/log-view.js";
import type { ReadinessReader } from "../standby/readiness-reader.js";
import type { AnsweringCall, Call } from "./call.js";
import { renewObjectLeases, requireKey } from "./lease-renewal.js";
import { PHASES, toReadiness } from "./readiness.js";
import type { StreamWriter } from "./stream-writer.js";

export interface StandbyServiceParts {
  readonly views: LogViews;
  readonly readiness: ReadinessReader;
  /** The term under which a candidate at this sidecar leads the log. Rejects with OplogError: who leads instead. */
  readonly leadingTerm: (log: string) => Promise<bigint>;
  /** Aborts when the sidecar is about to stop. */
  readonly draining: AbortSignal;
}

const FRAME_BYTES = 64 * 1024;
const SCAN_BYTES_MAX = 1024 * 1024;
const END_BYTES = 64;
/** How long a call waits for a view that is behind what the client wants to read. */
const BEHIND_MS_MAX = 5000;

/** oplog.v1.StandbyService. Each method throws OplogError for what the client is to be told. */
export class StandbyService {
  constructor(private readonly parts: StandbyServiceParts) {}

  async getEntry(
    { log, key, minSequenceId }: GetEntryRequest,
    call: Pick<Call, "signal">,
  ): Promise<MessageInitShape<typeof GetEntryResponseSchema>> {
    const bytes = requireKey("key", Buffer.from(key));
    const view = this.parts.views.get(log);
    if (minSequenceId > 0n) await this.stopping(call, (signal) => awaitEntry(view, minSequenceId, signal));
    const { entry, applied } = await view.reader.get(bytes);
    return {
      appliedSequenceId: BigInt(applied),
      ...(entry === undefined ? {} : { entry: toEntry(entry) }),
    };
  }

  async getStateHash({ log }: GetStateHashRequest): Promise<MessageInitShape<typeof GetStateHashResponseSchema>> {
    const view = this.parts.views.get(log);
    const { stateHash, applied, keys, bytes, keyOrderViolations } = await view.reader.summary();
    return {
      stateHash,
      appliedSequenceId: BigInt(applied),
      headSequenceId: view.head,
      phase: PHASES[view.phase],
      keys: BigInt(keys),
      bytes: BigInt(bytes),
      keyOrderViolations: BigInt(keyOrderViolations),
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

  async scanState({ log, minSequenceId }: ScanStateRequest, call: AnsweringCall): Promise<void> {
    const view = this.parts.views.get(log);
    await this.stopping(call, async (signal) => {
      if (minSequenceId > 0n) await awaitEntry(view, minSequenceId, signal);
      await scan(view, call.writer(SCAN_BYTES_MAX), signal);
    });
  }

  /** Runs `work` until the client leaves; ShuttingDownError when the sidecar is about to stop. */
  private async stopping(call: Pick<Call, "signal">, work: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const { draining } = this.parts;
    const { signal, unlink } = linkSignals(call.signal, draining);
    try {
      await work(signal);
    } catch (error) {
      if (!draining.aborted) throw error;
    } finally {
      unlink();
    }
    if (draining.aborted) throw new ShuttingDownError();
  }
}

/** Throws OplogError when the view still lacks the entry after a while, or can never have it. */
async function awaitEntry(view: LogView, id: bigint, signal: AbortSignal): Promise<void> {
  if (await view.awaitApplied(Number(id), signal, BEHIND_MS_MAX)) return;
  view.requireWorking();
  throw new ViewBehindError(view.name, view.applied, id);
}

async function scan({ reader }: LogView, writer: StreamWriter, signal: AbortSignal): Promise<void> {
  const parts = reader.scan(FRAME_BYTES, signal);
  for (;;) {
    const { done, value } = await parts.next();
    if (done) {
      if (value !== undefined)
        await writer.write(create(ScanStateResponseSchema, { frame: toScanEnd(value) }), END_BYTES);
      return;
    }
    const bytes = value.reduce((sum, { key, payload }) => sum + key.length + payload.length, 0);
    const frame = { case: "entries" as const, value: { entries: value.map(toEntry) } };
    await writer.write(create(ScanStateResponseSchema, { frame }), bytes);
  }
}

function toScanEnd({ start, end }: ScanEnd) {
  const { applied, stateHash } = end;
  const value = { startSequenceId: BigInt(start), endSequenceId: BigInt(applied), stateHash };
  return { case: "end" as const, value };
}

function toEntry({ key, payload, sequenceId, keySequenceId, timestampMs, leaseUntilMs }: ViewEntry) {
  return {
    key: key.toString(),
    payload,
    sequenceId: BigInt(sequenceId),
    keySequenceId,
    timestampMs: BigInt(timestampMs),
    leaseUntilMs: BigInt(leaseUntilMs),
  };
}
