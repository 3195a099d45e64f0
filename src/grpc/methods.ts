import { AdminService as Admin } from "../gen/oplog/v1/admin_pb.js";
import { LeadershipService as Leadership } from "../gen/oplog/v1/leadership_pb.js";
import { OpLogService as OpLog } from "../gen/oplog/v1/oplog_pb.js";
import { StandbyService as Standby } from "../gen/oplog/v1/standby_pb.js";
import type { AdminService } from "./admin-service.js";
import { CallLimit } from "./call-limit.js";
import type { LeadershipService } from "./leadership-service.js";
import { counted, duplex, type Method, serverStream, unary, unaryOfBytes } from "./method.js";
import type { OpLogService } from "./oplog-service.js";
import type { StandbyService } from "./standby-service.js";

export interface Services {
  readonly opLog: OpLogService;
  readonly leadership: LeadershipService;
  readonly standby: StandbyService;
  readonly admin: AdminService;
}

/** How many calls may be open at once: of each kind of stream, and of all that are answered once. */
export interface MethodLimits {
  readonly callsMax: number;
  readonly appendStreamsMax: number;
  readonly campaignsMax: number;
  readonly subscriptionsMax: number;
}

/** The table of all methods: its kind, who may call it, how many of its calls may be open, and its handler. */
export function methodsOf({ opLog, leadership, standby, admin }: Services, limits: MethodLimits): readonly Method[] {
  const calls = new CallLimit("calls", limits.callsMax);
  const appendStreams = new CallLimit("append streams", limits.appendStreamsMax);
  const campaigns = new CallLimit("campaigns", limits.campaignsMax);
  const subscriptions = new CallLimit("subscriptions", limits.subscriptionsMax);
  const statusStreams = new CallLimit("status streams", limits.subscriptionsMax);
  const leaderStreams = new CallLimit("leader streams", limits.subscriptionsMax);
  const scans = new CallLimit("scans of states", limits.subscriptionsMax);
  return [
    counted(unaryOfBytes(OpLog.method.append, "append", calls, (bytes, call) => opLog.append(bytes, call))),
    counted(duplex(OpLog.method.appendStream, "append", appendStreams, (call) => opLog.appendStream(call))),
    unary(OpLog.method.resolveAppend, "append", calls, (request) => opLog.resolveAppend(request)),
    unaryOfBytes(OpLog.method.read, "read", calls, (bytes, call) => opLog.read(bytes, call)),
    serverStream(OpLog.method.subscribe, "follow", subscriptions, (request, call) => opLog.subscribe(request, call)),
    unary(OpLog.method.updateCursor, "follow", calls, (request) => opLog.updateCursor(request)),
    unary(OpLog.method.getStatus, "read", calls, (request) => opLog.getStatus(request)),
    serverStream(OpLog.method.watchStatus, "read", statusStreams, (request, call) => opLog.watchStatus(request, call)),
    unary(OpLog.method.describeRecord, "read", calls, (request) => opLog.describeRecord(request)),
    unary(OpLog.method.listLogs, "read", calls, (request) => opLog.listLogs(request)),

    duplex(Leadership.method.campaign, "lead", campaigns, (call) => leadership.campaign(call)),
    unary(Leadership.method.resign, "operate", calls, (request) => leadership.resign(request)),
    unary(Leadership.method.handOver, "operate", calls, (request) => leadership.handOver(request)),
    unary(Leadership.method.claimTerm, "lead", calls, (request) => leadership.claimTerm(request)),
    unary(Leadership.method.getLeader, "read", calls, (request) => leadership.getLeader(request)),
    serverStream(Leadership.method.watchLeader, "read", leaderStreams, (request, call) =>
      leadership.watchLeader(request, call),
    ),

    unary(Standby.method.getEntry, "read", calls, (request, call) => standby.getEntry(request, call)),
    serverStream(Standby.method.scanState, "read", scans, (request, call) => standby.scanState(request, call)),
    unary(Standby.method.getStateHash, "read", calls, (request) => standby.getStateHash(request)),
    unary(Standby.method.getPromotionReadiness, "read", calls, (request) => standby.getPromotionReadiness(request)),
    counted(unary(Standby.method.renewObjectLeases, "append", calls, (request) => standby.renewObjectLeases(request))),

    unary(Admin.method.adopt, "operate", calls, (request) => admin.adopt(request)),
    unary(Admin.method.deleteCursor, "operate", calls, (request) => admin.deleteCursor(request)),
    unary(Admin.method.deleteLog, "operate", calls, (request) => admin.deleteLog(request)),
  ];
}
