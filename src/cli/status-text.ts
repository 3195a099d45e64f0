import { type Duration, durationMs, type Timestamp, timestampMs } from "@bufbuild/protobuf/wkt";
import {
  type CursorStatus,
  type GetStatusResponse,
  type LogStatus,
  Role,
  type SidecarStatus,
  SubscriberPhase,
  type SubscriberStatus,
} from "../gen/oplog/v1/oplog_pb.js";
import { StandbyPhase } from "../gen/oplog/v1/standby_pb.js";
import { deletionAdvice } from "./logs.js";
import { humanBytes, humanDuration, keyText, table } from "./render.js";

const LABEL_WIDTH = 12;

const ROLES: Record<Role, string> = {
  [Role.UNSPECIFIED]: "unknown",
  [Role.PRIMARY]: "primary",
  [Role.STANDBY]: "standby",
  [Role.PREPARING]: "preparing: a candidate here has claimed the term, and appends are refused until it is ready",
  [Role.FENCED]:
    "fenced: it has lost the term and refuses appends until the log is claimed here again, by a campaign or a token; where there has been neither, by the first append after a restart",
};

const PHASES: Record<SubscriberPhase, string> = {
  [SubscriberPhase.UNSPECIFIED]: "unknown",
  [SubscriberPhase.SNAPSHOT]: "snapshot",
  [SubscriberPhase.CATCHING_UP]: "catching up",
  [SubscriberPhase.LIVE]: "live",
};

export function statusText(status: Pick<GetStatusResponse, "sidecar" | "log">, nowMs: number): string {
  const lines: string[] = [];
  if (status.sidecar) lines.push(...sidecarLines(status.sidecar, nowMs));
  if (status.log) lines.push("", ...logLines(status.log, nowMs));
  return lines.join("\n");
}

function sidecarLines(sidecar: SidecarStatus, nowMs: number): string[] {
  const { store } = sidecar;
  const up = sidecar.startedAt ? `, up ${since(sidecar.startedAt, nowMs)}` : "";
  const lines = [labelled("sidecar", `${keyText(sidecar.sidecarId)}, version ${sidecar.version}${up}`)];
  if (sidecar.shuttingDown) lines.push(labelled("", "shutting down"));
  if (store) {
    const kind = `${store.kind} ${store.version}`.trim();
    const outage = store.unreachableFor ? ` for ${ofDuration(store.unreachableFor)}` : "";
    const problem = store.error === "" ? "" : `: ${keyText(store.error)}`;
    const refuses = problem === "" ? "reachable" : `reachable, and REFUSES${problem}`;
    lines.push(labelled("store", `${kind}, ${store.reachable ? refuses : `NOT REACHABLE${outage}${problem}`}`));
  }
  return lines;
}

function logLines(log: LogStatus, nowMs: number): string[] {
  const { leader, writer } = log;
  const readable = log.headSequenceId + 1n - log.floorSequenceId;
  const lines = [
    labelled("log", log.log),
    labelled("head", log.headSequenceId.toString()),
    labelled("floor", `${log.floorSequenceId} (${readable} readable)`),
    labelled("role", ROLES[log.role] ?? String(log.role)),
  ];
  if (leader) {
    const at = leader.endpoint === "" ? "" : ` at ${keyText(leader.endpoint)}`;
    const lease = log.leaseLeft ? `, lease ends in ${ofDuration(log.leaseLeft)} unless renewed` : "";
    const who = `${keyText(leader.id)}${at}, term ${leader.term}${lease}`;
    lines.push(labelled("leader", leader.id === "" ? "none" : log.vacant ? `NOBODY; the last one was ${who}` : who));
  }
  if (log.standby) {
    const { phase, since: from, appliedSequenceId, keys } = log.standby;
    const name = StandbyPhase[phase]?.toLowerCase().replaceAll("_", " ") ?? String(phase);
    const time = from ? ` for ${since(from, nowMs)}` : "";
    lines.push(labelled("view", `${name}${time}, applied ${appliedSequenceId}, ${keys} keys`));
  }
  for (const { consumer, sequenceId } of log.standby?.divergences ?? []) {
    lines.push(labelled("DIVERGED", `the state of ${keyText(consumer)} at ${sequenceId} is not that of the view`));
  }
  if (writer) {
    const bytes = `${humanBytes(writer.queuedBytes)} of ${humanBytes(writer.queueBytesMax)}`;
    const stalled = writer.stalledSince ? `, STALLED for ${since(writer.stalledSince, nowMs)}` : "";
    lines.push(labelled("writer", `${writer.queuedAppends} appends queued (${bytes})${stalled}`));
  }
  if (log.deleting) lines.push(labelled("DELETING", `it can be used no more; ${deletionAdvice(log.log, log.logId)}`));
  for (const problem of log.problems) lines.push(labelled("DAMAGED", keyText(problem)));
  if (log.observedAt) lines.push(labelled("observed", `${since(log.observedAt, nowMs)} ago`));
  lines.push(...section("subscribers", SUBSCRIBER_HEADER, log.subscribers.map(subscriberRow)));
  lines.push(
    ...section(
      "cursors",
      CURSOR_HEADER,
      log.cursors.map((cursor) => cursorRow(cursor, nowMs)),
    ),
  );
  return lines;
}

const SUBSCRIBER_HEADER = ["ID", "CONSUMER", "PEER", "PHASE", "SENT", "LAG", "BEHIND", "BUFFERED"];

function subscriberRow(subscriber: SubscriberStatus): string[] {
  return [
    subscriber.id.toString(),
    subscriber.consumer || "-",
    subscriber.peer,
    PHASES[subscriber.phase] ?? String(subscriber.phase),
    subscriber.sentSequenceId.toString(),
    subscriber.lagEntries.toString(),
    subscriber.lagTime ? ofDuration(subscriber.lagTime) : "-",
    humanBytes(subscriber.bufferedBytes),
  ];
}

const CURSOR_HEADER = ["CONSUMER", "RECEIVED", "FLUSHED", "APPLIED", "LAG", "UPDATED"];

function cursorRow(cursor: CursorStatus, nowMs: number): string[] {
  if (cursor.problem !== "" && cursor.appliedSequenceId === 0n)
    return [keyText(cursor.consumer), "DAMAGED", "-", "-", "-", keyText(cursor.problem)];
  return [
    cursor.consumer,
    cursor.receivedSequenceId.toString(),
    cursor.flushedSequenceId.toString(),
    cursor.appliedSequenceId.toString(),
    cursor.lagEntries.toString(),
    cursor.problem !== "" ? keyText(cursor.problem) : cursor.updatedAt ? `${since(cursor.updatedAt, nowMs)} ago` : "-",
  ];
}

function section(title: string, header: readonly string[], rows: string[][]): string[] {
  if (rows.length === 0) return [labelled(title, "none")];
  return ["", title, ...table(header, rows).map((line) => `  ${line}`)];
}

export function labelled(label: string, text: string): string {
  return `${label.padEnd(LABEL_WIDTH)} ${text}`;
}

function since(timestamp: Timestamp, nowMs: number): string {
  return humanDuration(Math.max(0, nowMs - timestampMs(timestamp)));
}

function ofDuration(duration: Duration): string {
  return humanDuration(durationMs(duration));
}
