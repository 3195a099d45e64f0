import { fromBinary } from "@bufbuild/protobuf";
import { LeaderLeaseSchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import { LogKeys } from "../../src/oplog/keys.js";
import type { EtcdServer } from "../support/etcd.js";
import type { Oplogd } from "../support/oplogd.js";
import { machineMs } from "./candidate.js";

const KEY_PREFIX = "/oplog";
const ASK_MS_MAX = 300;
const ASK_EVERY_MS = 20;

/** What etcd shows from outside after it was broken: when it takes writes again, and when nobody leads the log any more. */
export class HealingProbe {
  /** On the clock of `machineMs`; undefined: not yet. */
  writableMs: number | undefined;
  /** Of terms above: led or not. */
  vacatedMs: number | undefined;
  private readonly stop = new AbortController();
  private readonly done: Promise<unknown>;

  constructor(
    members: readonly EtcdServer[],
    private readonly log: string,
    /** The newest that anybody was told to lead. */
    private readonly term: number,
  ) {
    this.done = Promise.all(members.map((member) => this.look(member)));
  }

  async end(): Promise<void> {
    this.stop.abort();
    await this.done;
  }

  private async look(member: EtcdServer): Promise<void> {
    while (!this.stop.signal.aborted && (this.writableMs === undefined || this.vacatedMs === undefined)) {
      try {
        await this.ask(member, "/v3/kv/put", { key: base64("/healing-probe"), value: "" });
        this.writableMs ??= machineMs();
        const { leader } = new LogKeys(KEY_PREFIX, this.log);
        const { kvs = [] } = (await this.ask(member, "/v3/kv/range", { key: base64(leader) })) as {
          kvs?: readonly { value: string }[];
        };
        const led = kvs[0] && Number(fromBinary(LeaderLeaseSchema, Buffer.from(kvs[0].value, "base64")).term);
        if (led === undefined || led > this.term) this.vacatedMs ??= machineMs();
      } catch {
        // It is away, or has no leader yet.
      }
      await new Promise((resolve) => setTimeout(resolve, ASK_EVERY_MS));
    }
  }

  private async ask({ endpoint }: EtcdServer, path: string, body: object): Promise<unknown> {
    const signal = AbortSignal.any([this.stop.signal, AbortSignal.timeout(ASK_MS_MAX)]);
    const answer = await fetch(endpoint + path, { method: "POST", body: JSON.stringify(body), signal });
    if (!answer.ok) throw new Error(await answer.text());
    return answer.json();
  }
}

/** When a sidecar has logged something first from then on, on the clock of `machineMs`. */
export function firstLoggedMs({ log }: Oplogd, event: string, fromMs: number, term?: number): number | undefined {
  const aheadMs = machineMs() - Date.now();
  for (const line of log.split("\n")) {
    if (!line.includes(`"event":"${event}"`)) continue;
    const logged = JSON.parse(line) as { time: string; term?: string };
    const atMs = Date.parse(logged.time) + aheadMs;
    if (atMs >= fromMs && (term === undefined || logged.term === String(term))) return atMs;
  }
  return undefined;
}

/** The times between moments that follow one another. One that is missing, or was before, has taken no time. */
export function partsOf<Name extends string>(
  fromMs: number,
  toMs: number,
  moments: readonly (readonly [Name, number | undefined])[],
): Record<Name, number> {
  let seenMs = fromMs;
  const parts = moments.map(([name, atMs]) => {
    const untilMs = Math.min(Math.max(seenMs, atMs ?? seenMs), toMs);
    const part = [name, Math.round(untilMs - seenMs)] as const;
    seenMs = untilMs;
    return part;
  });
  return Object.fromEntries(parts) as Record<Name, number>;
}

function base64(text: string): string {
  return Buffer.from(text).toString("base64");
}
