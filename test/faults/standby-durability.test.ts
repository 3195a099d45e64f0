import { describe, expect, it } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import { Durability } from "../../src/gen/oplog/v1/oplog_pb.js";
import type { Oplogd } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";
import { aClientOf, anEtcd, anOplogd, atEnd, put } from "./stage.js";

const LOG = "semi-synchronous";
const { STORE, STANDBY_RECEIVED, STANDBY_APPLIED } = Durability;

interface Stage {
  readonly primary: OplogClient;
  readonly standbySidecar: Oplogd;
  readonly standby: OplogClient;
}

/** The master's sidecar and the standby's, on one etcd. */
async function twoSidecars(): Promise<Stage> {
  const etcd = await anEtcd();
  const start = (id: string) => anOplogd({ store: { etcd: etcd.endpoint }, args: ["--sidecar-id", id] });
  const [a, b] = await Promise.all([start("a"), start("b")]);
  const primary = aClientOf(a);
  await primary.append({ log: LOG, entries: [put("the first")] });
  return { primary, standbySidecar: b, standby: aClientOf(b) };
}

/** Follows at its sidecar and reports what it has, until it is stopped. */
class ReportingFollower {
  /** The last id whose report the sidecar has answered. */
  reported = 0n;
  private readonly stop = new AbortController();
  private readonly running: Promise<void>;

  constructor(
    private readonly client: OplogClient,
    private readonly consumer: string,
    private readonly beforeReport: () => Promise<unknown> = () => Promise.resolve(),
  ) {
    this.running = this.run();
    atEnd(() => this.kill());
  }

  async kill(): Promise<void> {
    this.stop.abort();
    await this.running;
  }

  private async run(): Promise<void> {
    const { signal } = this.stop;
    const request = { log: LOG, consumer: this.consumer, start: { case: "fromBeginning", value: true } } as const;
    for await (const event of this.client.follow(request, { signal })) {
      if (event.case !== "batch") continue;
      const last = event.value.lastSequenceId;
      await this.beforeReport();
      if (signal.aborted) return;
      await this.client.updateCursor({ log: LOG, consumer: this.consumer, appliedSequenceId: last });
      this.reported = last;
    }
  }
}

describe("an append that wants standbys", { timeout: 120_000 }, () => {
  it("is answered once the standby at the other sidecar has reported it, and not before", async () => {
    const { primary, standby } = await twoSidecars();
    let open: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => {
      open = resolve;
    });
    const follower = new ReportingFollower(standby, "b", () => gate);
    let isAnswered = false;
    const demand = { durability: STANDBY_APPLIED, standbyCount: 1, durabilityTimeoutMs: 30_000 };
    const answer = primary.append({ log: LOG, entries: [put("x")], ...demand }, { deadlineMs: 60_000 });
    void answer.then(() => {
      isAnswered = true;
    });
    // It is in the log, and other appends pass it, while it waits.
    expect(await primary.append({ log: LOG, entries: [put("y")] })).toMatchObject({
      durability: STORE,
      standbyCount: 0,
    });
    await waitFor(async () => (await standby.read({ log: LOG })).entries.length === 3, { what: "all to be readable" });
    expect(isAnswered).toBe(false);
    open();
    expect(await answer).toMatchObject({ firstSequenceId: 2n, durability: STANDBY_APPLIED, standbyCount: 1 });
    await waitFor(() => follower.reported === 3n, { what: "the follower to report all" });
  });

  it("is answered with what was reached when the time is over, and stays in the log", async () => {
    const { primary, standby } = await twoSidecars();
    const two = { durability: STANDBY_APPLIED, standbyCount: 2, durabilityTimeoutMs: 1000 };
    const operation = { log: LOG, writerId: "w", operationId: 1n, entries: [put("x")] };
    const startedMs = performance.now();
    expect(await primary.append({ ...operation, ...two })).toMatchObject({ durability: STORE, standbyCount: 0 });
    expect(performance.now() - startedMs).toBeGreaterThanOrEqual(995);

    const follower = new ReportingFollower(standby, "b");
    await waitFor(() => follower.reported === 2n, { what: "the follower to report" });
    const again = await primary.append({ ...operation, ...two });
    expect(again).toMatchObject({ duplicate: true, lastSequenceId: 2n, durability: STORE, standbyCount: 1 });
    const one = await primary.append({ ...operation, ...two, standbyCount: 1 });
    expect(one).toMatchObject({ duplicate: true, durability: STANDBY_APPLIED, standbyCount: 1 });
  });

  it("goes on through the death of the standby's sidecar, and of the standby", async () => {
    const { primary, standby, standbySidecar } = await twoSidecars();
    const append = (durabilityTimeoutMs: number) =>
      primary.append(
        { log: LOG, entries: [put("x")], durability: STANDBY_RECEIVED, standbyCount: 1, durabilityTimeoutMs },
        { deadlineMs: 60_000 },
      );
    const follower = new ReportingFollower(standby, "b");
    expect(await append(30_000)).toMatchObject({ durability: STANDBY_RECEIVED });
    await follower.kill();
    expect(await append(200)).toMatchObject({ durability: STORE, standbyCount: 0 });
    await standbySidecar.restart();
    const waiting = append(30_000);
    new ReportingFollower(aClientOf(standbySidecar), "b");
    expect(await waiting).toMatchObject({ durability: STANDBY_RECEIVED, standbyCount: 1 });
  });

  it("on a stream is answered in order among others that do not wait", async () => {
    const { primary, standby } = await twoSidecars();
    new ReportingFollower(standby, "b");
    const stream = primary.appendStream();
    const shapes = [STORE, STANDBY_APPLIED, STORE, STANDBY_RECEIVED, STORE, STANDBY_APPLIED];
    const isUnreachable = (index: number) => index % 10 === 5;
    const total = 60;
    for (let index = 0; index < total; index++) {
      const durability = shapes[index % shapes.length]!;
      const standbyCount = isUnreachable(index) ? 2 : 1;
      const demand =
        durability === STORE ? {} : { standbyCount, durabilityTimeoutMs: isUnreachable(index) ? 2000 : 30_000 };
      const append = { log: LOG, entries: [put(`${index}`)], durability, ...demand };
      await stream.send({ correlationId: BigInt(index), append });
    }
    stream.end();
    let next = 0;
    for await (const { correlationId, outcome } of stream.answers) {
      expect(correlationId).toBe(BigInt(next));
      const asked = shapes[next % shapes.length]!;
      const expected =
        asked === STORE
          ? { durability: STORE, standbyCount: 0 }
          : { durability: isUnreachable(next) ? STORE : asked, standbyCount: 1 };
      expect(outcome).toMatchObject({ case: "appended", value: { ...expected, lastSequenceId: BigInt(next + 2) } });
      next++;
    }
    expect(next).toBe(total);
  });

  it("is answered with what was reached when its sidecar is stopped", async () => {
    const etcd = await anEtcd();
    const oplogd = await anOplogd({ store: { etcd: etcd.endpoint } });
    const client = aClientOf(oplogd);
    const demand = { durability: STANDBY_APPLIED, standbyCount: 1, durabilityTimeoutMs: 60_000 };
    const unary = client.append({ log: LOG, entries: [put("x")], ...demand }, { deadlineMs: 60_000 });
    const stream = client.appendStream();
    await stream.send({ correlationId: 7n, append: { log: LOG, entries: [put("y")], ...demand } });
    const first = stream.answers.next();
    await waitFor(async () => (await client.read({ log: LOG }).catch(() => undefined))?.entries.length === 2, {
      what: "both to be in the log",
    });
    const startedMs = performance.now();
    await oplogd.kill("SIGTERM");
    expect(performance.now() - startedMs).toBeLessThan(10_000);
    expect(await unary).toMatchObject({ durability: STORE, standbyCount: 0 });
    expect((await first).value).toMatchObject({ correlationId: 7n, outcome: { case: "appended" } });
    expect(oplogd.exitCode).toBe(0);
  });

  it("is refused, and not written, while too much waits already", async () => {
    const client = aClientOf(await anOplogd({}));
    const demand = { durability: STANDBY_APPLIED, standbyCount: 1, durabilityTimeoutMs: 60_000 };
    const padding = "x".repeat(1_000_000);
    const head = async () => (await client.getStatus({ log: LOG })).log?.headSequenceId ?? 0n;
    await client.append({ log: LOG, entries: [put("the first")] });
    const released: Promise<unknown>[] = [];
    let refusal: unknown;
    for (let waiting = 0; refusal === undefined && waiting < 100; waiting++) {
      const before = await head();
      const append = client.append({ log: LOG, entries: [put("x", padding)], ...demand }, { deadlineMs: 60_000 });
      released.push(append.then(({ durability }) => durability).catch((error: unknown) => (refusal = error)));
      await waitFor(async () => refusal !== undefined || (await head()) > before, {
        what: "the append to be in the log",
      });
    }
    expect(refusal).toMatchObject({ code: "RESOURCE_EXHAUSTED", reason: "QUEUE_FULL" });
    // What has been written: 64 MiB of requests, and the first.
    const last = await head();
    expect(last).toBe(BigInt(released.length));
    expect(await client.append({ log: LOG, entries: [put("without standbys")] })).toMatchObject({ durability: STORE });
    await client.updateCursor({ log: LOG, consumer: "standby", appliedSequenceId: last });
    expect(await Promise.all(released)).toEqual([...released.slice(1).map(() => STANDBY_APPLIED), refusal]);
    expect(await client.append({ log: LOG, entries: [put("x")], ...demand, durabilityTimeoutMs: 1 })).toMatchObject({
      durability: STORE,
    });
  });

  it("is quick: what a report at one sidecar takes to release an append at the other", async () => {
    const { primary, standby } = await twoSidecars();
    new ReportingFollower(standby, "b");
    const demand = { durability: STANDBY_RECEIVED, standbyCount: 1 };
    const measure = async (rest: object) => {
      const startedMs = performance.now();
      const { durability } = await primary.append({ log: LOG, entries: [put("x")], ...rest });
      expect(durability).toBe("durability" in rest ? STANDBY_RECEIVED : STORE);
      return performance.now() - startedMs;
    };
    await measure(demand);
    const took: number[] = [];
    const stored: number[] = [];
    for (let index = 0; index < 100; index++) {
      stored.push(await measure({}));
      took.push(await measure(demand));
    }
    const median = medianOf(took);
    console.info(`STORE: median ${medianOf(stored).toFixed(1)} ms; STANDBY_RECEIVED: median ${median.toFixed(1)} ms`);
    // Well below the poll of the cursors, so that it must have been the watch that told.
    expect(median).toBeLessThan(500);
  });
});

function medianOf(times: number[]): number {
  return times.sort((a, b) => a - b)[times.length >> 1]!;
}
