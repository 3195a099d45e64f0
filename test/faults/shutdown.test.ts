import { expect, it } from "vitest";
import type { AppendStream } from "../../src/client/append-stream.js";
import type { OplogClient } from "../../src/client/client.js";
import { OplogRpcError } from "../../src/client/errors.js";
import { History } from "../support/history.js";
import { within } from "../support/wait.js";
import { readBack } from "./recording-follower.js";
import { aClientOf, anEtcd, anOplogd, put } from "./stage.js";

const LOG = "closing";
const DEADLINE_MS = 5_000;
/** Beyond the deadline: for the process to close its store and exit. */
const EXIT_MS_MAX = 2_000;
const STREAMS = { live: 10, unread: 5, idle: 10, appending: 15, status: 10 };
/** More than what the transport takes for a subscriber that does not read. */
const BACKLOG_ENTRIES = 400;
const PADDING = "x".repeat(64 * 1024);

it.each(["embedded", "etcd"] as const)(
  "answers everything and ends in time on SIGTERM, on %s",
  { timeout: 90_000 },
  async (store) => {
    const etcd = store === "etcd" ? await anEtcd() : undefined;
    const args = ["--shutdown-deadline", `${DEADLINE_MS}ms`, "--subscribe-buffer-bytes-max", "64KiB"];
    const oplogd = await anOplogd({ args, ...(etcd === undefined ? {} : { store: { etcd: etcd.endpoint } }) });
    const client = aClientOf(oplogd);
    const history = new History();
    await appendBacklog(client, history);

    const live = await Promise.all(many(STREAMS.live, (index) => liveSubscriber(client, history, `live-${index}`)));
    const unread = await Promise.all(many(STREAMS.unread, () => unreadSubscriber(client)));
    const idle = many(STREAMS.idle, () => client.appendStream());
    const idleEnds = idle.map((stream) => endOf(stream.answers));
    const status = await Promise.all(many(STREAMS.status, () => statusStream(client)));
    const appending = many(STREAMS.appending, (index) => appendWithoutEnd(client, history, `writer-${index}`));
    await Promise.all(appending.map(({ isUnderWay }) => isUnderWay));

    const startedMs = performance.now();
    await within(oplogd.kill("SIGTERM"), { deadlineMs: DEADLINE_MS + EXIT_MS_MAX, what: "oplogd to end" });
    const tookMs = performance.now() - startedMs;
    const ends = await within(
      Promise.all([
        Promise.all(live.map(({ ended }) => ended)),
        Promise.all(idleEnds),
        Promise.all(status.map(({ ended }) => ended)),
        Promise.all(appending.map(({ ended }) => ended)),
      ]),
      { what: "all streams to end" },
    );

    expect(oplogd.exitCode, oplogd.log).toBe(0);
    expect(tookMs).toBeLessThan(DEADLINE_MS + EXIT_MS_MAX);
    const [liveEnds, idleStreamEnds, statusEnds, writerEnds] = ends;
    for (const end of [...liveEnds, ...idleStreamEnds]) {
      expect(end).toMatchObject({ code: "UNAVAILABLE", reason: "SHUTTING_DOWN" });
    }
    // A watcher of the status is ended at once, in good order or with the reason.
    for (const end of statusEnds) expect([undefined, "SHUTTING_DOWN"]).toContain(end?.reason);
    for (const { answered, unanswered, claims, refusals } of writerEnds) {
      expect(answered).toBeGreaterThan(0);
      expect(claims).toBe(true);
      // Whatever the sidecar had read it has answered; an item it never read has no answer, and is in no log.
      for (const refusal of refusals) expect(refusal).toMatchObject({ code: "UNAVAILABLE", reason: "SHUTTING_DOWN" });
      expect(unanswered).toBeLessThanOrEqual(IN_FLIGHT_MAX);
    }

    await oplogd.restart();
    await readBack(client, history, LOG);
    expect(history.violations()).toEqual([]);
    for (const events of unread) await events.return();
  },
);

const IN_FLIGHT_MAX = 16;

const many = <T>(count: number, make: (index: number) => T): T[] => Array.from({ length: count }, (_, i) => make(i));

async function appendBacklog(client: OplogClient, history: History): Promise<void> {
  const appender = client.appender({ inFlightMax: 8 });
  const answers = many(BACKLOG_ENTRIES, async (index) => {
    const operationId = BigInt(index + 1);
    const entries = [put(`backlog ${index}`, PADDING)];
    history.sent("backlog", operationId, entries);
    history.acknowledged(
      "backlog",
      operationId,
      await appender.append({ log: LOG, writerId: "backlog", operationId, entries }),
    );
  });
  await Promise.all(answers);
  await appender.end();
}

/** Resolves once it is live, with the promise of what its stream ends with. */
async function liveSubscriber(client: OplogClient, history: History, name: string) {
  const frames = client.subscribe({ log: LOG, consumer: name });
  const seen = history.subscriber(name);
  for (;;) {
    const { value } = await frames.next();
    if (value?.frame.case === "batch") for (const entry of value.frame.value.entries) seen.add(entry);
    if (value?.frame.case === "caughtUp") break;
  }
  const ended = endOf(frames, ({ frame }) => {
    if (frame.case === "batch") for (const entry of frame.value.entries) seen.add(entry);
  });
  return { ended };
}

async function unreadSubscriber(client: OplogClient) {
  const frames = client.subscribe({ log: LOG, consumer: "unread" });
  await frames.next();
  return frames;
}

/** Resolves once it delivers, with the promise of its end. */
async function statusStream(client: OplogClient) {
  const frames = client.watchStatus({ log: LOG });
  await frames.next();
  return { ended: endOf(frames) };
}

/** The OplogRpcError it ended with, or undefined for an end in good order. */
async function endOf<T>(items: AsyncIterable<T>, take: (item: T) => void = () => undefined) {
  try {
    for await (const item of items) take(item);
    return undefined;
  } catch (error) {
    if (error instanceof OplogRpcError) return error;
    throw error;
  }
}

interface WriterEnd {
  answered: number;
  unanswered: number;
  /** The sidecar has said by the end of the stream how many it had answered. */
  claims: boolean;
  readonly refusals: OplogRpcError[];
}

/** Appends one after the other, several in flight, until it is refused or its stream ends. */
function appendWithoutEnd(client: OplogClient, history: History, writerId: string) {
  const stream = client.appendStream({ inFlightMax: IN_FLIGHT_MAX });
  const end: WriterEnd = { answered: 0, unanswered: 0, claims: false, refusals: [] };
  let markUnderWay: () => void = () => undefined;
  const isUnderWay = new Promise<void>((resolve) => {
    markUnderWay = resolve;
  });
  let sent = 0n;
  const sending = sendUntilEnd(stream, () => {
    if (end.refusals.length > 0) return undefined;
    sent++;
    const entries = [put(`${writerId} ${sent}`)];
    history.sent(writerId, sent, entries);
    return { correlationId: sent, append: { log: LOG, writerId, operationId: sent, entries } };
  });
  const receiving = endOf(stream.answers, ({ correlationId, outcome }) => {
    if (outcome.case === "appended") {
      end.answered++;
      history.acknowledged(writerId, correlationId, outcome.value);
      if (end.answered > IN_FLIGHT_MAX) markUnderWay();
    } else if (outcome.case === "error") {
      end.refusals.push(OplogRpcError.fromStreamStatus(outcome.value));
      history.refused(writerId, correlationId);
    }
  });
  const ended = Promise.all([sending, receiving]).then(([, error]) => {
    expect(error).toMatchObject({ code: "UNAVAILABLE" });
    // What it had not answered was not written, says the sidecar; the log is compared with that.
    const claimed = error?.metadata.answered;
    if (claimed !== undefined) for (let id = BigInt(claimed) + 1n; id <= sent; id++) history.refused(writerId, id);
    end.claims = claimed !== undefined;
    end.unanswered = Number(sent) - end.answered - end.refusals.length;
    return end;
  });
  return { isUnderWay, ended };
}

/** Until there is nothing more to send, or the stream has ended. The stream stays open. */
async function sendUntilEnd(
  stream: AppendStream,
  next: () => Parameters<AppendStream["send"]>[0] | undefined,
): Promise<void> {
  try {
    for (let request = next(); request !== undefined; request = next()) await stream.send(request);
  } catch (error) {
    if (!(error instanceof OplogRpcError)) throw error;
  }
}
