import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { STATE_HASH_BYTES_MAX } from "../cursors/cursor-rules.js";
import {
  type AppendResponse,
  type DescribeRecordRequest,
  type DescribeRecordResponseSchema,
  type GetStatusRequest,
  type GetStatusResponseSchema,
  type ListLogsRequest,
  type ListLogsResponseSchema,
  ResolveAppendResponse_Outcome as Outcome,
  ReadRequestSchema,
  ReadResponseSchema,
  type ResolveAppendRequest,
  type ResolveAppendResponse,
  ResolveAppendResponseSchema,
  type SubscribeRequest,
  type UpdateCursorRequest,
  type UpdateCursorResponseSchema,
  type WatchStatusRequest,
} from "../gen/oplog/v1/oplog_pb.js";
import type { Logs } from "../log/logs.js";
import type { Clock } from "../oplog/clock.js";
import type { AppendLimits } from "../oplog/entries.js";
import { InvalidArgumentError } from "../oplog/errors.js";
import { requireConsumerName, requireLogName } from "../oplog/keys.js";
import { linkSignals } from "../oplog/timing.js";
import type { LogViews } from "../standby/log-view.js";
import type { QueueBudget } from "../writing/append-item.js";
import { requireOperation } from "./append-request.js";
import { AppendStreamSession } from "./append-stream.js";
import type { AnsweringCall, Call, DuplexCall } from "./call.js";
import {
  BATCH_BYTES_MAX,
  durationMs,
  requireWithin,
  type SidecarState,
  toChain,
  toFrame,
  toOptions,
  toStart,
} from "./convert.js";
import { decode } from "./decode.js";
import type { RequestBudget } from "./request-budget.js";
import { StatusReader } from "./status-reader.js";
import { UnaryAppends } from "./unary-append.js";

export interface OpLogServiceParts {
  readonly logs: Logs;
  readonly views: LogViews;
  readonly limits: AppendLimits;
  readonly clock: Clock;
  readonly sidecar: () => SidecarState;
  readonly budget: QueueBudget;
  /** Of all calls. */
  readonly requests: RequestBudget;
  readonly subscriberBytesMax: number;
  /** Aborts when the sidecar is about to stop: no new work. */
  readonly draining: AbortSignal;
}

const READ_ENTRIES_DEFAULT = 1000;
const READ_ENTRIES_MAX = 10_000;
const READ_BYTES_DEFAULT = 1024 * 1024;
const PAGE_SIZE_DEFAULT = 100;
const PAGE_SIZE_MAX = 1000;
const STATUS_BYTES_MAX = 1024 * 1024;
const NOTICE_BYTES = 64;
const LOG_ID_BYTES = 16;

/** oplog.v1.OpLogService. Each method throws OplogError for what the client is to be told. */
export class OpLogService {
  private readonly appends: UnaryAppends;
  private readonly statuses: StatusReader;

  constructor(private readonly parts: OpLogServiceParts) {
    this.appends = new UnaryAppends(parts.logs, parts.limits, parts.requests);
    this.statuses = new StatusReader(parts);
  }

  append(request: Buffer, call: Call): Promise<AppendResponse> {
    return this.appends.append(request, call);
  }

  appendStream(call: DuplexCall): Promise<void> {
    return new AppendStreamSession(call, this.parts).run();
  }

  async resolveAppend(request: ResolveAppendRequest): Promise<ResolveAppendResponse> {
    const { log, writerId, operationId, answerHere } = request;
    requireLogName(log);
    if (writerId === "") throw new InvalidArgumentError("writer_id", "empty");
    requireOperation(writerId, operationId === 0n ? 1n : operationId);
    const resolution = await this.parts.logs.get(log).resolveAppend(writerId, operationId, answerHere);
    switch (resolution.outcome) {
      case "committed":
        return create(ResolveAppendResponseSchema, {
          outcome: Outcome.COMMITTED,
          firstSequenceId: resolution.operation.first,
          lastSequenceId: resolution.operation.last,
          term: resolution.operation.term,
          highestOperationId: resolution.highest,
        });
      case "not committed":
        return create(ResolveAppendResponseSchema, {
          outcome: Outcome.NOT_COMMITTED,
          highestOperationId: resolution.highest,
        });
      case "forgotten":
        return unknown(resolution.highest, "older than the operations that are remembered of this writer");
      case "unknown":
        return unknown(resolution.highest, resolution.because);
    }
  }

  async read(bytesOfRequest: Buffer, { signal }: Pick<Call, "signal">): Promise<Buffer> {
    const request = decode(ReadRequestSchema, bytesOfRequest);
    const { maxEntries, maxBytes } = request;
    const entries =
      maxEntries === 0
        ? READ_ENTRIES_DEFAULT
        : requireWithin("max_entries", maxEntries, 1, READ_ENTRIES_MAX, "entries");
    const bytes =
      maxBytes === 0 ? READ_BYTES_DEFAULT : requireWithin("max_bytes", maxBytes, 1, BATCH_BYTES_MAX, "bytes");
    const page = await this.parts.logs.get(request.log).read(request.fromSequenceId, entries, bytes, signal);
    const rest = create(ReadResponseSchema, {
      nextSequenceId: page.next,
      headSequenceId: page.head,
      floorSequenceId: page.floor,
    });
    // ReadResponse.entries has the number of Batch.entries: bodies are parts of the message as they are.
    return Buffer.concat([...page.bodies, toBinary(ReadResponseSchema, rest)]);
  }

  async subscribe(request: SubscribeRequest, call: AnsweringCall): Promise<void> {
    const { logs, clock, sidecar, subscriberBytesMax } = this.parts;
    if (request.logId.length !== 0 && request.logId.length !== LOG_ID_BYTES) {
      throw new InvalidArgumentError("log_id", `${request.logId.length} bytes; it has ${LOG_ID_BYTES}, or is left out`);
    }
    const options = toOptions(request, call.peer);
    const start = toStart(request);
    const log = logs.get(request.log);
    const writer = call.writer(subscriberBytesMax);
    const sink = {
      batch: (frame: Buffer) => writer.write(frame, frame.length),
      notice: (notice: Parameters<typeof toFrame>[0]) => {
        const { id, store } = sidecar();
        const view = request.includeSidecarView ? { sidecarId: id, isStoreReachable: store.isReachable } : undefined;
        return writer.write(toFrame(notice, { log, wallMs: clock.wallMs(), view }), NOTICE_BYTES);
      },
      get bufferedBytes() {
        return writer.bufferedBytes;
      },
      get hasRoom() {
        return writer.hasRoom;
      },
      room: () => writer.room(),
    };
    await log.subscribe(options, start, request.logId, sink, call.signal);
  }

  async updateCursor(request: UpdateCursorRequest): Promise<MessageInitShape<typeof UpdateCursorResponseSchema>> {
    if (request.stateHash.length > STATE_HASH_BYTES_MAX) {
      throw new InvalidArgumentError(
        "state_hash",
        `${request.stateHash.length} bytes, the limit is ${STATE_HASH_BYTES_MAX}`,
        {
          received: request.stateHash.length,
          limit: STATE_HASH_BYTES_MAX,
        },
      );
    }
    const { head, floor } = await this.parts.logs.get(request.log).updateCursor({
      consumer: requireConsumerName(request.consumer),
      received: request.receivedSequenceId,
      flushed: request.flushedSequenceId,
      applied: request.appliedSequenceId,
      stateHash: request.stateHash,
      appliedChain: toChain(request.appliedChain, "applied_chain"),
      isRewindAllowed: request.rewind,
    });
    this.parts.views.find(request.log)?.compareHash(request.consumer, request.appliedSequenceId, request.stateHash);
    return { headSequenceId: head, floorSequenceId: floor };
  }

  getStatus({ log }: GetStatusRequest): Promise<MessageInitShape<typeof GetStatusResponseSchema>> {
    return this.statuses.read(log);
  }

  async watchStatus({ log, minInterval }: WatchStatusRequest, call: AnsweringCall): Promise<void> {
    const intervalMs = durationMs("min_interval", minInterval, 1000, 100, 3_600_000);
    const writer = call.writer(STATUS_BYTES_MAX);
    const { signal: left, unlink } = linkSignals(call.signal, this.parts.draining);
    try {
      for await (const bytes of this.statuses.watch(log, intervalMs, left)) await writer.write(bytes, bytes.length);
    } finally {
      unlink();
    }
  }

  async describeRecord(request: DescribeRecordRequest): Promise<MessageInitShape<typeof DescribeRecordResponseSchema>> {
    const record = await this.parts.logs.get(request.log).describeRecord(request.sequenceId);
    return {
      logId: record.logId,
      firstSequenceId: record.first,
      lastSequenceId: record.last,
      term: record.term,
      timestampMs: record.timestampMs,
      chain: Buffer.from(record.chain, "hex"),
      previousChain: Buffer.from(record.previousChain, "hex"),
      headSequenceId: record.head,
      floorSequenceId: record.floor,
    };
  }

  async listLogs({ pageSize, pageToken }: ListLogsRequest): Promise<MessageInitShape<typeof ListLogsResponseSchema>> {
    const limit = pageSize === 0 ? PAGE_SIZE_DEFAULT : requireWithin("page_size", pageSize, 1, PAGE_SIZE_MAX, "logs");
    const { logs, last, foreign, isLast } = await this.parts.logs.list(pageToken, limit);
    return {
      logs: logs.map(({ head, isDeleting, ...summary }) => ({
        ...summary,
        headSequenceId: head,
        deleting: isDeleting,
      })),
      nextPageToken: isLast ? "" : (last ?? ""),
      problem:
        foreign === undefined
          ? ""
          : `${foreign.count} of the names belong to no log, the first one is ${foreign.first}`,
    };
  }
}

function unknown(highest: bigint, explanation: string): ResolveAppendResponse {
  return create(ResolveAppendResponseSchema, { outcome: Outcome.UNKNOWN, highestOperationId: highest, explanation });
}
