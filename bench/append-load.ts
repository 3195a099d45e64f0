import { connect, type OplogClient } from "../src/client/client.js";
import { OplogRpcError } from "../src/client/errors.js";
import { appendRequests, streamRequests } from "./entry-bytes.js";
import type { Measured } from "./generator.js";
import { type Timing, Window } from "./window.js";

export interface AppendLoad extends Timing {
  readonly target: string;
  readonly log: string;
  readonly entriesPerAppend: number;
  /** Unanswered appends. */
  readonly inFlight: number;
  /** Of fillLog, which has no use for the times. */
  readonly appends: number;
}

/** As fast as one stream takes it. */
export async function appendStream(load: AppendLoad): Promise<Measured> {
  const window = new Window(load);
  await pump(
    load,
    () => window.isOver,
    () => window.add(load.entriesPerAppend),
  );
  return { entriesPerSecond: window.perSecond };
}

/** A number of appends, however long they take. */
export async function fillLog(load: AppendLoad): Promise<Measured> {
  let sent = 0;
  await pump(
    load,
    () => sent++ >= load.appends,
    () => undefined,
  );
  return { entries: load.appends * load.entriesPerAppend };
}

/** So many callers, each of which waits for its answer. */
export async function appendUnary(load: AppendLoad): Promise<Measured> {
  const client = connect(load.target);
  const requests = appendRequests(load.log, load.entriesPerAppend);
  const window = new Window(load);
  const caller = async (_: unknown, number: number) => {
    for (let next = number; !window.isOver; next++) {
      await client.append(requests[next % requests.length]!);
      window.add(load.entriesPerAppend);
    }
  };
  await Promise.all(Array.from({ length: load.inFlight }, caller));
  client.close();
  return { entriesPerSecond: window.perSecond };
}

async function pump(load: AppendLoad, isOver: () => boolean, onAcknowledged: () => void): Promise<void> {
  const client = connect(load.target);
  const requests = streamRequests(load.log, load.entriesPerAppend);
  const stream = client.appendStream({ inFlightMax: load.inFlight });
  const answered = receive(stream, onAcknowledged);
  for (let next = 0; !isOver(); next++) await stream.send(requests[next % requests.length]!);
  stream.end();
  await answered;
  client.close();
}

async function receive(stream: ReturnType<OplogClient["appendStream"]>, onAcknowledged: () => void): Promise<void> {
  for await (const { outcome } of stream.answers) {
    if (outcome.case === "error") throw OplogRpcError.fromStreamStatus(outcome.value);
    onAcknowledged();
  }
}
