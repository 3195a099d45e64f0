import { create } from "@bufbuild/protobuf";
import { type Duration, durationFromMs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { StandbyDemand } from "../cursors/standby-positions.js";
import type { Start } from "../following/start-position.js";
import type { Notice, SubscriptionOptions } from "../following/subscription.js";
import type { Cursor } from "../gen/oplog/store/v1/store_pb.js";
import { OpType } from "../gen/oplog/v1/entry_pb.js";
import {
  type AppendResponse,
  AppendResponseSchema,
  Durability,
  type Filter,
  LogStatusSchema,
  Role,
  SidecarStatusSchema,
  type SubscribeRequest,
  type SubscribeResponse,
  SubscribeResponseSchema,
  SubscriberPhase,
} from "../gen/oplog/v1/oplog_pb.js";
import type { Log } from "../log/log.js";
import type { EntryFilter } from "../oplog/batch-frame.js";
import { KEY_BYTES_MAX } from "../oplog/entries.js";
import { InvalidArgumentError } from "../oplog/errors.js";
import { requireConsumerName } from "../oplog/keys.js";
import { chainOf, isOtherChain } from "../oplog/record.js";
import type { LogView } from "../standby/log-view.js";
import type { LogState } from "../stored/log-state.js";
import type { LeaderView } from "../stored/primary.js";
import type { Appended } from "../writing/append-item.js";
import { PHASES } from "./readiness.js";

/** A chain has 16; a client hands back what it was told. */
const CHAIN_BYTES_MAX = 64;
const BATCH_BYTES_MIN = 4 * 1024;
const BATCH_BYTES_DEFAULT = 1024 * 1024;
export const BATCH_BYTES_MAX = 3 * 1024 * 1024;

/** How many subscribers, and how many cursors, a status names. */
const ITEMS_MAX = 1000;

const STANDBY_DURABILITY = { received: Durability.STANDBY_RECEIVED, applied: Durability.STANDBY_APPLIED };

/** `standbyCount`: how many standbys have got as far as was demanded. */
export function toAppendResponse(appended: Appended, demand?: StandbyDemand, standbyCount = 0): AppendResponse {
  const isMet = demand !== undefined && standbyCount >= demand.count;
  return create(AppendResponseSchema, {
    firstSequenceId: appended.first,
    lastSequenceId: appended.last,
    term: appended.term,
    duplicate: appended.isDuplicate,
    durability: isMet ? STANDBY_DURABILITY[demand.position] : Durability.STORE,
    commitTimeMs: appended.timestampMs,
    standbyCount,
  });
}

/** A false flag in a oneof counts as present. It must not mean the same as true. */
export function toStart({ start, previousTerm, previousChain }: SubscribeRequest): Start {
  const previousChainHex = toChain(previousChain, "previous_chain");
  switch (start.case) {
    case undefined:
      return { kind: "beginning" };
    case "fromBeginning":
      if (start.value) return { kind: "beginning" };
      throw new InvalidArgumentError("from_beginning", "false; name another start, or none to start at the beginning");
    case "fromHead":
      return { kind: start.value ? "head" : "beginning" };
    case "fromSnapshot":
      return { kind: start.value ? "snapshot" : "beginning" };
    case "fromSequenceId":
      if (start.value === 0n) throw new InvalidArgumentError("from_sequence_id", "0; the first entry has id 1");
      return {
        kind: "sequence",
        from: start.value,
        previous: { term: previousTerm, chain: previousChainHex },
      };
    case "fromTime":
      return { kind: "time", timestampMs: start.value.seconds * 1000n + BigInt(Math.ceil(start.value.nanos / 1e6)) };
    case "fromCursor":
      return { kind: "cursor", consumer: requireConsumerName(start.value, "from_cursor") };
  }
}

/** In hex. */
export function toChain(chain: Uint8Array, field: string): string {
  if (chain.length <= CHAIN_BYTES_MAX) return chainOf(chain);
  throw new InvalidArgumentError(field, `${chain.length} bytes, the limit is ${CHAIN_BYTES_MAX}`, {
    received: chain.length,
    limit: CHAIN_BYTES_MAX,
  });
}

export function toOptions(request: SubscribeRequest, peer: string): SubscriptionOptions {
  const { consumer, filter, maxBatchBytes, linger, heartbeatInterval } = request;
  return {
    consumer: consumer === "" ? "" : requireConsumerName(consumer),
    peer,
    filter: filter === undefined ? undefined : toFilter(filter),
    batchBytesMax:
      maxBatchBytes === 0
        ? BATCH_BYTES_DEFAULT
        : requireWithin("max_batch_bytes", maxBatchBytes, BATCH_BYTES_MIN, BATCH_BYTES_MAX, "bytes"),
    lingerMs: durationMs("linger", linger, 0, 0, 1000),
    heartbeatMs: durationMs("heartbeat_interval", heartbeatInterval, 1000, 100, 60_000),
  };
}

export function durationMs(
  field: string,
  value: Duration | undefined,
  otherwise: number,
  min: number,
  max: number,
): number {
  if (value === undefined) return otherwise;
  return requireWithin(field, Number(value.seconds) * 1000 + value.nanos / 1e6, min, max, "ms");
}

export function requireWithin(field: string, received: number, min: number, max: number, unit: string): number {
  if (received >= min && received <= max) return received;
  throw new InvalidArgumentError(field, `${received} ${unit}; ${min} to ${max} ${unit} are allowed`, {
    received,
    min,
    limit: max,
  });
}

function toFilter({ keyPrefix, opTypes }: Filter): EntryFilter | undefined {
  const prefix = Buffer.from(keyPrefix);
  if (prefix.length > KEY_BYTES_MAX) {
    throw new InvalidArgumentError("filter.key_prefix", `${prefix.length} bytes, the limit is ${KEY_BYTES_MAX}`, {
      received: prefix.length,
      limit: KEY_BYTES_MAX,
    });
  }
  for (const opType of opTypes) {
    if (opType < OpType.PUT_END || opType > OpType.EVENT) {
      throw new InvalidArgumentError("filter.op_types", `${opType} is no known type`, { received: opType });
    }
  }
  return prefix.length === 0 && opTypes.length === 0 ? undefined : { keyPrefix: prefix, opTypes: new Set(opTypes) };
}

/** What a heartbeat says beyond its notice. */
export interface HeartbeatContext {
  readonly log: Log;
  readonly wallMs: number;
  readonly view: { readonly sidecarId: string; readonly isStoreReachable: boolean } | undefined;
}

export function toFrame(notice: Notice, context: HeartbeatContext): SubscribeResponse {
  return create(SubscribeResponseSchema, { frame: frameOf(notice, context) });
}

function frameOf(notice: Notice, { log, wallMs, view }: HeartbeatContext) {
  switch (notice.kind) {
    case "heartbeat": {
      const { logId, headAgeMs } = log.feedView;
      const heartbeat = {
        headSequenceId: notice.head,
        floorSequenceId: notice.floor,
        sentSequenceId: notice.sent,
        timeMs: BigInt(wallMs),
        logId: logId ?? new Uint8Array(),
        headAgeMs: BigInt(headAgeMs),
        sentTerm: notice.sentOrigin.term,
        sentChain: Buffer.from(notice.sentOrigin.chain, "hex"),
      };
      if (view === undefined) return { case: "heartbeat" as const, value: heartbeat };
      const sidecar = {
        sidecarId: view.sidecarId,
        role: toRole(log, log.leaderView.term),
        leader: toLeader(log.leaderView),
        storeReachable: view.isStoreReachable,
      };
      return { case: "heartbeat" as const, value: { ...heartbeat, sidecar } };
    }
    case "caught up":
      return { case: "caughtUp" as const, value: { headSequenceId: notice.head } };
    case "fell behind":
      return { case: "fellBehind" as const, value: { nextSequenceId: notice.next, headSequenceId: notice.head } };
    case "leader changed":
      return { case: "leaderChanged" as const, value: { leader: toLeader(notice.leader) } };
    case "gap":
      return {
        case: "gapNotice" as const,
        value: { firstMissingSequenceId: notice.first, lastMissingSequenceId: notice.last },
      };
    case "rebootstrap required":
      return {
        case: "rebootstrapRequired" as const,
        value: { nextSequenceId: notice.next, floorSequenceId: notice.floor },
      };
  }
}

export interface SidecarState {
  readonly id: string;
  readonly version: string;
  readonly startedWallMs: number;
  readonly isShuttingDown: boolean;
  readonly store: {
    readonly kind: string;
    readonly isReachable: boolean;
    readonly version: string;
    readonly error: string;
    readonly unreachableMs: number;
  };
}

export function toSidecarStatus({ id, version, startedWallMs, isShuttingDown, store }: SidecarState) {
  return create(SidecarStatusSchema, {
    sidecarId: id,
    version,
    startedAt: timestampFromMs(startedWallMs),
    shuttingDown: isShuttingDown,
    store: {
      kind: store.kind,
      reachable: store.isReachable,
      version: store.version,
      error: store.error,
      ...(store.isReachable ? {} : { unreachableFor: durationFromMs(store.unreachableMs) }),
    },
  });
}

export function toLogStatus(log: Log, state: LogState, queueBytesMax: number, view: LogView | undefined) {
  const writer = log.primary.writer?.status;
  const head = newestHead(log, state);
  const behind = (position: bigint) => (head > position ? head - position : 0n);
  return create(LogStatusSchema, {
    log: log.name,
    logId: state.logId,
    headSequenceId: head,
    floorSequenceId: state.floor,
    role: toRole(log, state.leader.term),
    leader: toLeader(state.leader),
    vacant: state.isVacant,
    ...(state.leaseLeftMs === undefined ? {} : { leaseLeft: durationFromMs(Math.round(state.leaseLeftMs)) }),
    ...(view === undefined ? {} : { standby: toStandbyStatus(view) }),
    ...(writer === undefined
      ? {}
      : {
          writer: {
            queuedAppends: BigInt(writer.queuedAppends),
            queuedBytes: BigInt(writer.queuedBytes),
            queueBytesMax: BigInt(queueBytesMax),
            ...(writer.stalledSinceMs === undefined ? {} : { stalledSince: timestampFromMs(writer.stalledSinceMs) }),
          },
        }),
    subscribers: [...log.subscriptions].slice(0, ITEMS_MAX).map(([id, subscription]) => {
      const { sent, lagMs, phase, bufferedBytes } = subscription.status;
      return {
        id,
        consumer: subscription.options.consumer,
        peer: subscription.options.peer,
        phase: phase === "live" ? SubscriberPhase.LIVE : SubscriberPhase.CATCHING_UP,
        sentSequenceId: sent,
        lagEntries: behind(sent),
        bufferedBytes: BigInt(bufferedBytes),
        lagTime: durationFromMs(lagMs),
        connectedAt: timestampFromMs(subscription.connectedWallMs),
      };
    }),
    cursors: [
      ...state.cursors.slice(0, ITEMS_MAX).map(({ consumer, cursor }) => ({
        consumer,
        receivedSequenceId: cursor.receivedSequenceId,
        flushedSequenceId: cursor.flushedSequenceId,
        appliedSequenceId: cursor.appliedSequenceId,
        lagEntries: behind(cursor.appliedSequenceId),
        stateHash: cursor.stateHash,
        updatedAt: timestampFromMs(Number(cursor.updatedAtMs)),
        appliedChain: cursor.appliedChain,
        problem: otherHistory(log, state, cursor),
      })),
      ...state.damagedCursors.slice(0, ITEMS_MAX).map(({ consumer, problem }) => ({ consumer, problem })),
    ],
    problems: [...state.problems],
    deleting: state.isDeleting,
    subscribersLeftOut: Math.max(0, log.subscriptions.size - ITEMS_MAX),
    cursorsLeftOut:
      Math.max(0, state.cursors.length - ITEMS_MAX) + Math.max(0, state.damagedCursors.length - ITEMS_MAX),
    ...(state.observedWallMs === undefined ? {} : { observedAt: timestampFromMs(state.observedWallMs) }),
  });
}

/** The feed goes on while the store is read: subscribers and view may be beyond the head that was read. */
function newestHead(log: Log, { logId, head }: LogState): bigint {
  const { feedView } = log;
  const isSameLog = feedView.logId !== undefined && Buffer.compare(feedView.logId, logId) === 0;
  return isSameLog && feedView.head > head ? feedView.head : head;
}

/** Only what is known without a reading of its own; "" = nothing is wrong as far as that tells. */
function otherHistory(log: Log, state: LogState, { appliedSequenceId: applied, appliedChain }: Cursor): string {
  const chain = applied === state.head ? state.headChain : log.chainHere(applied);
  if (!isOtherChain(chain, chainOf(appliedChain))) return "";
  return `it has applied entry ${applied} of another history: chain ${chainOf(appliedChain)}, and the log's is ${chain}`;
}

function toStandbyStatus({ phase, history, applied, keys, divergences }: LogView) {
  const since = history.at(-1)?.atWallMs;
  return {
    phase: PHASES[phase],
    appliedSequenceId: BigInt(applied),
    keys: BigInt(keys),
    divergences: divergences.map(({ consumer, sequenceId, theirs, ours, atWallMs }) => ({
      consumer,
      sequenceId: BigInt(sequenceId),
      consumerHash: Buffer.from(theirs, "hex"),
      viewHash: Buffer.from(ours, "hex"),
      at: timestampFromMs(atWallMs),
    })),
    ...(since === undefined ? {} : { since: timestampFromMs(since) }),
  };
}

const ROLES = {
  primary: Role.PRIMARY,
  preparing: Role.PREPARING,
  standby: Role.STANDBY,
  fenced: Role.FENCED,
};

/** `term`: the highest one seen. A writer that has not tried to write since does not know yet that it has lost. */
function toRole({ primary }: Log, term: bigint): Role {
  return primary.term !== undefined && term > primary.term ? Role.FENCED : ROLES[primary.role];
}

function toLeader({ id, endpoint, term }: LeaderView) {
  return { id, endpoint, term };
}
