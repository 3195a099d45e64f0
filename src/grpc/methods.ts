import { AdminService as Admin } from "../gen/oplog/v1/admin_pb.js";
import { LeadershipService as Leadership } from "../gen/oplog/v1/leadership_pb.js";
import { OpLogService as OpLog } from "../gen/oplog/v1/oplog_pb.js";
import { StandbyService as Standby } from "../gen/oplog/v1/standby_pb.js";
import type { AdminService } from "./admin-service.js";
import { CallLimit } from "./call-limit.js";
import type { LeadershipService } from "./leadership-service.js";
import { duplex, type Method, serverStream, unary, unaryOfBytes } from "./method.js";
import type { OpLogService } from "./oplog-service.js";
import type { StandbyService } from "./standby-service.js";

export interface Services {
  readonly opLog: OpLogService;
  readonly leadership: LeadershipService;
  readonly standby: StandbyService;
  readonly admin: AdminService;
}

export interface MethodLimits {
  /** Of each of these: status streams, leader streams, scans. */
  readonly streamsMax: number;
}

/** All that is served: what each method is, whom it is for, how many of its calls may be open, and who serves it. */
export function methodsOf(
  { opLog, leadership, standby, admin }: Services,
  { streamsMax }: MethodLimits,
): readonly Method[] {
  const statusStreams = new CallLimit("status streams", streamsMax);
  const leaderStreams = new CallLimit("leader streams", streamsMax);
  const scans = new CallLimit("scans of states", streamsMax);
  const none = undefined;
  return [
    unaryOfBytes(OpLog.method.append, "append", none, (bytes, call) => opLog.append(bytes, call)),
    duplex(OpLog.method.appendStream, "append", none, (call) => opLog.appendStream(call)),
    unary(OpLog.method.resolveAppend, "append", none, (request) => opLog.resolveAppend(request)),
    unaryOfBytes(OpLog.method.read, "read", none, (bytes) => opLog.read(bytes)),
    serverStream(OpLog.method.subscribe, "follow", none, (request, call) => opLog.subscribe(request, call)),
    unary(OpLog.method.updateCursor, "follow", none, (request) => opLog.updateCursor(request)),
    unary(OpLog.method.getStatus, "read", none, (request) => opLog.getStatus(request)),
    serverStream(OpLog.method.watchStatus, "read", statusStreams, (request, call) => opLog.watchStatus(request, call)),
    unary(OpLog.method.listLogs, "read", none, (request) => opLog.listLogs(request)),

    duplex(Leadership.method.campaign, "lead", none, (call) => leadership.campaign(call)),
    unary(Leadership.method.resign, "operate", none, (request) => leadership.resign(request)),
    unary(Leadership.method.handOver, "operate", none, (request) => leadership.handOver(request)),
    unary(Leadership.method.claimTerm, "lead", none, (request) => leadership.claimTerm(request)),
    unary(Leadership.method.getLeader, "read", none, (request) => leadership.getLeader(request)),
    serverStream(Leadership.method.watchLeader, "read", leaderStreams, (request, call) =>
      leadership.watchLeader(request, call),
    ),

    unary(Standby.method.getEntry, "read", none, (request) => standby.getEntry(request)),
    serverStream(Standby.method.scanState, "read", scans, (request, call) => standby.scanState(request, call)),
    unary(Standby.method.getStateHash, "read", none, (request) => standby.getStateHash(request)),
    unary(Standby.method.getPromotionReadiness, "read", none, (request) => standby.getPromotionReadiness(request)),
    unary(Standby.method.renewObjectLeases, "append", none, (request) => standby.renewObjectLeases(request)),

    unary(Admin.method.adopt, "operate", none, (request) => admin.adopt(request)),
    unary(Admin.method.deleteCursor, "operate", none, (request) => admin.deleteCursor(request)),
  ];
}
