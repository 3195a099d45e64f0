import { setTimeout as pause } from "node:timers/promises";
import { fromBinary } from "@bufbuild/protobuf";
import { LeaderLeaseSchema, SuccessorSchema, TermSchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import { LogKeys } from "../../src/oplog/keys.js";
import { decodeRecord } from "../../src/oplog/record.js";
import type { EtcdServer } from "../support/etcd.js";
import type { LeadershipHistory, Revision } from "../support/leadership-history.js";
import { waitFor } from "../support/wait.js";

const PREFIX = "/oplog";
/** Within what is watched, and no key of a log. */
const MARKER = "/oplog-marker";
const AGAIN_MS = 50;

interface Event {
  readonly type?: "DELETE";
  readonly kv: { readonly key: string; readonly value?: string; readonly mod_revision: string };
}

/** Asked anew for its endpoint whenever the watch has broken. */
export type WatchedEtcd = Pick<EtcdServer, "endpoint" | "ask">;

/** Everything that ever happens to the keys of a log, from the first revision of etcd on, into a history. */
export class StoreWatch {
  private seen = 0;
  private readonly keys: LogKeys;
  private readonly stop = new AbortController();
  private readonly done: Promise<void>;
  private failure: unknown;

  constructor(
    private readonly etcd: WatchedEtcd,
    log: string,
    private readonly history: LeadershipHistory,
  ) {
    this.keys = new LogKeys(PREFIX, log);
    this.done = this.run();
  }

  /** Returns when everything up to now has been seen. */
  async reachesNow(): Promise<void> {
    const put = { key: base64(MARKER), value: "" };
    const { header } = (await this.etcd.ask("/v3/kv/put", put)) as { header: { revision: string } };
    const hasSeen = () => {
      if (this.failure !== undefined) throw this.failure;
      return this.seen >= Number(header.revision);
    };
    await waitFor(hasSeen, { what: `the watch of the test to reach revision ${header.revision}` });
  }

  async close(): Promise<void> {
    this.stop.abort();
    await this.done;
  }

  private async run(): Promise<void> {
    while (!this.stop.signal.aborted) {
      for await (const line of this.lines()) {
        try {
          this.take(line);
        } catch (error) {
          this.failure = error;
          return;
        }
      }
      await pause(AGAIN_MS);
    }
  }

  /** Ends when the connection breaks. */
  private async *lines(): AsyncGenerator<string> {
    const { etcd, stop, seen } = this;
    const create_request = { key: base64(PREFIX), range_end: base64("/oplog0"), start_revision: String(seen + 1) };
    const body = JSON.stringify({ create_request });
    let rest = "";
    try {
      const answer = await fetch(`${etcd.endpoint}/v3/watch`, { method: "POST", body, signal: stop.signal });
      const decoder = new TextDecoder();
      for await (const chunk of answer.body!) {
        const lines = (rest + decoder.decode(chunk as Uint8Array, { stream: true })).split("\n");
        rest = lines.pop()!;
        yield* lines;
      }
    } catch {
      // etcd is away; or this is the end.
    }
  }

  private take(line: string): void {
    const { result } = JSON.parse(line) as { result?: { canceled?: boolean; events?: Event[] } };
    if (result === undefined || result.canceled) throw new Error(`the watch of the test was ended: ${line}`);
    const byRevision = new Map<number, Event[]>();
    for (const event of result.events ?? []) {
      const revision = Number(event.kv.mod_revision);
      byRevision.set(revision, [...(byRevision.get(revision) ?? []), event]);
    }
    for (const [revision, events] of byRevision) {
      this.history.committed(events.reduce((change, event) => this.add(change, event), { revision } as Revision));
      this.seen = revision;
    }
  }

  private add(change: Revision, { type, kv }: Event): Revision {
    const { keys } = this;
    const key = Buffer.from(kv.key, "base64").toString();
    const value = Buffer.from(kv.value ?? "", "base64");
    const isDeleted = type === "DELETE";
    if (key === keys.term) {
      const { term, owner, elected } = fromBinary(TermSchema, value);
      return { ...change, term: { term: Number(term), owner, isElected: elected } };
    }
    if (key === keys.leader) {
      if (isDeleted) return { ...change, leader: null };
      const { id, term, nonce } = fromBinary(LeaderLeaseSchema, value);
      return { ...change, leader: { id, term: Number(term), nonce: Buffer.from(nonce).toString("hex") } };
    }
    if (key === keys.successor) {
      const { id, finalSequenceId } = fromBinary(SuccessorSchema, value);
      // Announced, it is not invited yet.
      return { ...change, successor: isDeleted || finalSequenceId === undefined ? null : id };
    }
    if (keys.recordId(key) === undefined || isDeleted) return change;
    const { firstSequenceId, lastSequenceId, term } = decodeRecord(value).header;
    const record = { first: Number(firstSequenceId), last: Number(lastSequenceId), term: Number(term) };
    return { ...change, records: [...(change.records ?? []), record] };
  }
}

function base64(text: string): string {
  return Buffer.from(text).toString("base64");
}
