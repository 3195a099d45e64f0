import type { Client } from "@grpc/grpc-js";
import {
  AdminService,
  type AdoptResponse,
  type DeleteCursorRequestSchema,
  type DeleteCursorResponse,
  type DeleteLogRequestSchema,
  type DeleteLogResponse,
} from "../gen/oplog/v1/admin_pb.js";
import {
  type ClaimTermRequestSchema,
  type ClaimTermResponse,
  type GetLeaderRequestSchema,
  type GetLeaderResponse,
  type HandOverRequestSchema,
  type HandOverResponse,
  LeadershipService,
  type ResignRequestSchema,
  type ResignResponse,
  type WatchLeaderRequestSchema,
  type WatchLeaderResponse,
} from "../gen/oplog/v1/leadership_pb.js";
import {
  type AppendRequestSchema,
  type AppendResponse,
  type DescribeRecordRequestSchema,
  type DescribeRecordResponse,
  type GetStatusRequestSchema,
  type GetStatusResponse,
  type ListLogsRequestSchema,
  type ListLogsResponse,
  OpLogService,
  type ReadRequestSchema,
  type ReadResponse,
  type ResolveAppendRequestSchema,
  type ResolveAppendResponse,
  type SubscribeRequestSchema,
  type SubscribeResponse,
  type UpdateCursorRequestSchema,
  type UpdateCursorResponse,
  type WatchStatusRequestSchema,
  type WatchStatusResponse,
} from "../gen/oplog/v1/oplog_pb.js";
import {
  type GetEntryRequestSchema,
  type GetEntryResponse,
  type GetPromotionReadinessRequestSchema,
  type GetPromotionReadinessResponse,
  type GetStateHashRequestSchema,
  type GetStateHashResponse,
  type RenewObjectLeasesRequestSchema,
  type RenewObjectLeasesResponse,
  type ScanStateRequestSchema,
  type ScanStateResponse,
  StandbyService,
} from "../gen/oplog/v1/standby_pb.js";
import { AppendStream, type AppendStreamOptions } from "./append-stream.js";
import { Appender } from "./appender.js";
import { type Request, type StreamOptions, serverStream, type UnaryOptions, unary } from "./calls.js";
import { Campaign, type CampaignOptions, type CandidateInit } from "./campaign.js";
import { openChannel } from "./channel.js";
import { type FollowEvent, type FollowRequest, follow } from "./follow.js";
import { withPort } from "./target.js";

export interface ConnectOptions {
  /** Deadline of unary calls that do not name their own; 10 s unless told. */
  readonly deadlineMs?: number;
}

/** A client of the sidecar at "host:port", "host" (port 7450) or "unix:///path". Connects when first used. */
export function connect(target: string, options: ConnectOptions = {}): OplogClient {
  return new OplogClient(target, options);
}

const DEADLINE_MS = 10_000;

/**
 * Requests are plain objects, messages or their bytes. Every failure is an OplogRpcError; an aborted call fails with
 * code CANCELLED. Streams that follow have a connection of their own, so that any number of them leaves room for the
 * other calls.
 */
export class OplogClient {
  private readonly calls: Client;
  private readonly streams: Client;
  private readonly deadlineMs: number;

  /** With its port, also where that was left out. */
  readonly target: string;

  constructor(target: string, options: ConnectOptions = {}) {
    this.target = withPort(target);
    this.deadlineMs = options.deadlineMs ?? DEADLINE_MS;
    this.calls = openChannel(this.target);
    this.streams = openChannel(this.target);
  }

  append(request: Request<typeof AppendRequestSchema>, options?: UnaryOptions): Promise<AppendResponse> {
    return unary(this.calls, OpLogService.method.append, request, this.withDeadline(options));
  }

  resolveAppend(
    request: Request<typeof ResolveAppendRequestSchema>,
    options?: UnaryOptions,
  ): Promise<ResolveAppendResponse> {
    return unary(this.calls, OpLogService.method.resolveAppend, request, this.withDeadline(options));
  }

  read(request: Request<typeof ReadRequestSchema>, options?: UnaryOptions): Promise<ReadResponse> {
    return unary(this.calls, OpLogService.method.read, request, this.withDeadline(options));
  }

  updateCursor(
    request: Request<typeof UpdateCursorRequestSchema>,
    options?: UnaryOptions,
  ): Promise<UpdateCursorResponse> {
    return unary(this.calls, OpLogService.method.updateCursor, request, this.withDeadline(options));
  }

  getStatus(request: Request<typeof GetStatusRequestSchema> = {}, options?: UnaryOptions): Promise<GetStatusResponse> {
    return unary(this.calls, OpLogService.method.getStatus, request, this.withDeadline(options));
  }

  describeRecord(
    request: Request<typeof DescribeRecordRequestSchema>,
    options?: UnaryOptions,
  ): Promise<DescribeRecordResponse> {
    return unary(this.calls, OpLogService.method.describeRecord, request, this.withDeadline(options));
  }

  /** One page. */
  listLogs(request: Request<typeof ListLogsRequestSchema> = {}, options?: UnaryOptions): Promise<ListLogsResponse> {
    return unary(this.calls, OpLogService.method.listLogs, request, this.withDeadline(options));
  }

  claimTerm(request: Request<typeof ClaimTermRequestSchema>, options?: UnaryOptions): Promise<ClaimTermResponse> {
    return unary(this.calls, LeadershipService.method.claimTerm, request, this.withDeadline(options));
  }

  getLeader(request: Request<typeof GetLeaderRequestSchema>, options?: UnaryOptions): Promise<GetLeaderResponse> {
    return unary(this.calls, LeadershipService.method.getLeader, request, this.withDeadline(options));
  }

  watchLeader(
    request: Request<typeof WatchLeaderRequestSchema>,
    options: StreamOptions = {},
  ): AsyncGenerator<WatchLeaderResponse, void, undefined> {
    return serverStream(this.streams, LeadershipService.method.watchLeader, request, options);
  }

  /** Stands for the leadership of a log. On the connection of the calls, so that streams that follow leave room for it. */
  campaign(candidate: CandidateInit, options?: CampaignOptions): Campaign {
    return new Campaign(this.calls, candidate, options);
  }

  /** Of whoever leads at this sidecar, which need not be this process. */
  resign(request: Request<typeof ResignRequestSchema>, options?: UnaryOptions): Promise<ResignResponse> {
    return unary(this.calls, LeadershipService.method.resign, request, this.withDeadline(options));
  }

  /** The deadline must leave room for the timeout of the hand-over. */
  handOver(request: Request<typeof HandOverRequestSchema>, options?: UnaryOptions): Promise<HandOverResponse> {
    return unary(this.calls, LeadershipService.method.handOver, request, this.withDeadline(options));
  }

  getPromotionReadiness(
    request: Request<typeof GetPromotionReadinessRequestSchema>,
    options?: UnaryOptions,
  ): Promise<GetPromotionReadinessResponse> {
    return unary(this.calls, StandbyService.method.getPromotionReadiness, request, this.withDeadline(options));
  }

  getStateHash(
    request: Request<typeof GetStateHashRequestSchema>,
    options?: UnaryOptions,
  ): Promise<GetStateHashResponse> {
    return unary(this.calls, StandbyService.method.getStateHash, request, this.withDeadline(options));
  }

  getEntry(request: Request<typeof GetEntryRequestSchema>, options?: UnaryOptions): Promise<GetEntryResponse> {
    return unary(this.calls, StandbyService.method.getEntry, request, this.withDeadline(options));
  }

  /** A scan that ends without its frame "end" is not complete. */
  scanState(
    request: Request<typeof ScanStateRequestSchema>,
    options: StreamOptions = {},
  ): AsyncGenerator<ScanStateResponse, void, undefined> {
    return serverStream(this.streams, StandbyService.method.scanState, request, options);
  }

  renewObjectLeases(
    request: Request<typeof RenewObjectLeasesRequestSchema>,
    options?: UnaryOptions,
  ): Promise<RenewObjectLeasesResponse> {
    return unary(this.calls, StandbyService.method.renewObjectLeases, request, this.withDeadline(options));
  }

  /** Takes the store of the sidecar as it is now for the right one. */
  adopt(options?: UnaryOptions): Promise<AdoptResponse> {
    return unary(this.calls, AdminService.method.adopt, {}, this.withDeadline(options));
  }

  deleteCursor(
    request: Request<typeof DeleteCursorRequestSchema>,
    options?: UnaryOptions,
  ): Promise<DeleteCursorResponse> {
    return unary(this.calls, AdminService.method.deleteCursor, request, this.withDeadline(options));
  }

  /** It goes on when the deadline has passed; the same call again completes what was interrupted. */
  deleteLog(request: Request<typeof DeleteLogRequestSchema>, options?: UnaryOptions): Promise<DeleteLogResponse> {
    return unary(this.calls, AdminService.method.deleteLog, request, this.withDeadline(options));
  }

  /** The bare AppendStream call; appender() is easier to use. */
  appendStream(options?: AppendStreamOptions): AppendStream {
    return new AppendStream(this.calls, options);
  }

  appender(options?: AppendStreamOptions): Appender {
    return new Appender(this.appendStream(options));
  }

  /** One Subscribe call, as it is; follow() also resumes. With `raw`: the bytes of SubscribeResponse. */
  subscribe(
    request: Request<typeof SubscribeRequestSchema>,
    options: StreamOptions & { readonly raw: true },
  ): AsyncGenerator<Buffer, void, undefined>;
  subscribe(
    request: Request<typeof SubscribeRequestSchema>,
    options?: StreamOptions & { readonly raw?: false },
  ): AsyncGenerator<SubscribeResponse, void, undefined>;
  subscribe(
    request: Request<typeof SubscribeRequestSchema>,
    options: StreamOptions & { readonly raw?: boolean } = {},
  ): AsyncGenerator<SubscribeResponse | Buffer, void, undefined> {
    return serverStream(this.streams, OpLogService.method.subscribe, request, options);
  }

  /** Subscribes, and resumes after every break exactly where it stopped. Ends when the signal aborts. */
  follow(request: FollowRequest, options: StreamOptions = {}): AsyncGenerator<FollowEvent, void, undefined> {
    return follow((resumed, streamOptions) => this.subscribe(resumed, streamOptions), request, options.signal);
  }

  watchStatus(
    request: Request<typeof WatchStatusRequestSchema> = {},
    options: StreamOptions = {},
  ): AsyncGenerator<WatchStatusResponse, void, undefined> {
    return serverStream(this.streams, OpLogService.method.watchStatus, request, options);
  }

  /** Calls that are open are cancelled. */
  close(): void {
    this.calls.close();
    this.streams.close();
  }

  private withDeadline(options: UnaryOptions = {}): UnaryOptions & { readonly deadlineMs: number } {
    return { deadlineMs: options.deadlineMs ?? this.deadlineMs, signal: options.signal };
  }
}
