import type { IEvent, IWatchResponse } from "etcd3";
import {
  CompactedError,
  type StoreError,
  StoreRefusedError,
  StoreReplacedError,
  StoreUnreachableError,
  type WatchBatch,
  type WatchEvent,
  WatchLostError,
  type WatchRequest,
} from "../../oplog/kv-store.js";
import type { Cluster, Opened } from "./cluster.js";
import { Deadline } from "./deadline.js";
import { isServiceError, isTokenFault } from "./failures.js";
import type { WatchMessage } from "./member.js";
import { decodeInteger, decodeKey, decodePair, encodeRange } from "./wire.js";

/**
 * One watch on a stream of its own, without resumption: whatever breaks it ends it.
 *
 * Back-pressure goes all the way to etcd: what the consumer has not taken waits in at most 16 messages of the stream
 * (2 MiB each, since etcd splits larger ones), then in the flow-control window, then in etcd.
 */
export async function* watch(
  cluster: Cluster,
  request: WatchRequest,
  signal: AbortSignal,
  establishMs: number,
): AsyncGenerator<WatchBatch> {
  if (signal.aborted) return;
  const message = createMessage(request);
  const deadline = new Deadline(establishMs);
  const opened = await open(cluster, message, deadline, signal);
  if (opened === undefined) return;
  const { member, stream } = opened;
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    stream.cancel();
  }, deadline.remainingMs);
  const cancel = () => stream.cancel();
  signal.addEventListener("abort", cancel);
  try {
    const revisions = new RevisionBatches(request.startRevision);
    for await (const response of stream as AsyncIterable<IWatchResponse>) {
      cluster.requireWatched(member, response.header);
      if (response.canceled) throw cancelled(cluster, response, request);
      if (response.created) {
        clearTimeout(timer);
        yield { revision: request.startRevision - 1n, events: [] };
      }
      for (const batch of revisions.add(response)) {
        if (signal.aborted) return;
        yield batch;
      }
      if (signal.aborted) return;
    }
    throw new WatchLostError(`etcd at ${member.address} ended the watch`);
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof StoreReplacedError) throw new WatchLostError(error.message, { cause: error });
    if (late) throw new WatchLostError(`etcd at ${member.address} did not set up the watch in ${establishMs} ms`);
    if (!isServiceError(error)) throw error;
    const { message: because } = cluster.failed(member, error);
    throw new WatchLostError(because, { cause: error });
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", cancel);
    stream.cancel();
  }
}

/**
 * Cuts the event stream into one batch per revision. A fragment may end in the middle of a revision, so the last
 * revision of a fragment is held until it is known to be complete: never more than one transaction.
 *
 * After a change of member etcd can send events again that were sent before, and events from before the start revision
 * when that lay in its future; both are dropped.
 */
export class RevisionBatches {
  private held: WatchEvent[] = [];
  private heldRevision = 0n;
  private delivered: bigint;

  constructor(startRevision: bigint) {
    this.delivered = startRevision - 1n;
  }

  *add({ events, fragment }: Pick<IWatchResponse, "events" | "fragment">): Generator<WatchBatch> {
    for (const event of events) {
      const revision = decodeInteger(event.kv.mod_revision);
      if (revision <= this.delivered) continue;
      if (revision !== this.heldRevision) yield* this.release();
      if (revision <= this.delivered) continue;
      this.heldRevision = revision;
      this.held.push(decodeEvent(event, revision));
    }
    if (!fragment) yield* this.release();
  }

  private *release(): Generator<WatchBatch> {
    if (this.held.length === 0) return;
    const batch = { revision: this.heldRevision, events: this.held };
    this.delivered = this.heldRevision;
    this.held = [];
    yield batch;
  }
}

function decodeEvent(event: IEvent, modRevision: bigint): WatchEvent {
  return event.type === "Delete"
    ? { kind: "delete", key: decodeKey(event.kv.key), modRevision }
    : { kind: "put", pair: decodePair(event.kv) };
}

function createMessage({ from, to, startRevision }: WatchRequest): WatchMessage {
  if (startRevision < 1n) throw new StoreRefusedError(`a watch from revision ${startRevision}; the first is 1`);
  return { create_request: { ...encodeRange(from, to), start_revision: startRevision.toString(), fragment: true } };
}

type WatchStream = Opened<WatchMessage, IWatchResponse>;

/** Undefined when the signal aborts first. */
async function open(
  cluster: Cluster,
  message: WatchMessage,
  deadline: Deadline,
  signal: AbortSignal,
): Promise<WatchStream | undefined> {
  const opening = cluster.stream("Watch", deadline, ({ stub, metadata }) => {
    const stream = stub.watch(metadata, {});
    stream.write(message);
    return stream;
  });
  let abort = (): void => undefined;
  const aborted = new Promise<undefined>((resolve) => {
    abort = () => resolve(undefined);
    signal.addEventListener("abort", abort);
  });
  try {
    const opened = await Promise.race([opening, aborted]);
    if (opened === undefined) {
      opening.then(
        ({ stream }) => stream.cancel(),
        () => undefined, // Nobody waits for it any more.
      );
    }
    return opened;
  } catch (error) {
    if (error instanceof StoreUnreachableError) throw new WatchLostError(error.message, { cause: error });
    throw error;
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

function cancelled(cluster: Cluster, response: IWatchResponse, request: WatchRequest): StoreError {
  const compacted = decodeInteger(response.compact_revision);
  if (compacted > 0n) {
    return new CompactedError(`revision ${request.startRevision} was asked for, etcd is compacted up to ${compacted}`);
  }
  if (isTokenFault(response.cancel_reason)) cluster.forgetToken();
  return new WatchLostError(`etcd cancelled the watch: ${response.cancel_reason || "it gave no reason"}`);
}
