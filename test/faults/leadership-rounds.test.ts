import { expect, it } from "vitest";
import { OplogRpcError } from "../../src/client/errors.js";
import { isTransient } from "../../src/client/follow.js";
import type { EtcdServer } from "../support/etcd.js";
import { History } from "../support/history.js";
import { LeadershipHistory } from "../support/leadership-history.js";
import { waitFor } from "../support/wait.js";
import { machineMs } from "./candidate.js";
import { FAULTS, type Fault } from "./leadership-faults.js";
import type { Records } from "./master.js";
import { RecordingFollower, readBack } from "./recording-follower.js";
import { inRandomOrder, randomOf, SEED, scaled } from "./scale.js";
import { Side } from "./side.js";
import { aFaultProxy, anEtcd, atEnd } from "./stage.js";
import { StoreWatch } from "./store-watch.js";

const LOG = "fought-over";
const ROUNDS = scaled(FAULTS.length, 200);
const TTL_MS = 1_000;
const FAULT_MS_MAX = 3 * TTL_MS;
const ELECTION_MS = 500;
/** Once everything runs again: an etcd that comes back gives every lease its whole time again, and an election's more. */
const RECOVERY_MS_MAX = TTL_MS + ELECTION_MS + 2_000;
const FOLLOW_MS_MAX = 20_000;
/** Before a fault, and after it. */
const WORK_MS_MAX = 300;

it(`holds to one leader at a time, and loses nothing, through ${ROUNDS} rounds of faults (seed ${SEED})`, {
  timeout: 60_000 + ROUNDS * 20_000,
}, async () => {
  const random = randomOf(SEED);
  const arena = await Arena.start();
  let faults: Fault[] = [];
  for (let round = 1; round <= ROUNDS; round++) {
    if (faults.length === 0) faults = inRandomOrder(random, FAULTS);
    const fault = faults.pop()!;
    const lastsMs = fault.lasts ? random() * FAULT_MS_MAX : 0;
    const what = `round ${round}, seed ${SEED}: ${fault.name} for ${Math.round(lastsMs)} ms`;
    await arena.round(fault, lastsMs, random() * WORK_MS_MAX).catch((error: unknown) => {
      throw new Error(`${what}: ${error instanceof Error ? error.message : error}`, { cause: error });
    });
    expect({ what, violations: await arena.violations() }).toEqual({ what, violations: [] });
  }
  process.stdout.write(`${arena.summary}\n`);
  await arena.close();
  // Each full set of faults takes the leadership away several times.
  expect(arena.terms).toBeGreaterThan(ROUNDS / 3);
});

/** Two sides that fight for one log, each with its own way to etcd and a follower. */
class Arena {
  /** How long no append was acknowledged, from the beginning of the fault. */
  private readonly silencesMs = new Map<string, number[]>();
  private readonly startedMs = machineMs();

  private constructor(
    private readonly etcd: EtcdServer,
    private readonly records: Records,
    private readonly watch: StoreWatch,
    private readonly sides: readonly Side[],
    private readonly followers: readonly RecordingFollower[],
  ) {}

  static async start(): Promise<Arena> {
    const etcd = await anEtcd(["--heartbeat-interval", "50", "--election-timeout", String(ELECTION_MS)]);
    const records = { history: new History(), leadership: new LeadershipHistory() };
    const watch = new StoreWatch(etcd, LOG, records.leadership);
    atEnd(() => watch.close());
    const master = {
      log: LOG,
      ttlMs: TTL_MS,
      aliveWithinMs: TTL_MS,
      everyMs: 5,
      appendsAsStandby: true,
      deadlineMs: TTL_MS,
    };
    const sides = await Promise.all(
      ["left", "right"].map(async (name) => {
        const proxy = await aFaultProxy(etcd.port);
        return Side.start({ name, etcd: proxy.endpoint, proxy, master }, records);
      }),
    );
    const followers = sides.map(
      ({ name, client }) => new RecordingFollower(client, records.history, LOG, `follower-${name}`),
    );
    return new Arena(etcd, records, watch, sides, followers);
  }

  async round(fault: Fault, lastsMs: number, workMs: number): Promise<void> {
    const leader = await this.leader();
    await this.isAppendedTo(machineMs(), RECOVERY_MS_MAX);
    await elapsed(workMs);

    const struckMs = machineMs();
    const heal = await fault.strike(leader, this.etcd);
    await elapsed(lastsMs);
    await heal();
    const firstMs = await this.isAppendedTo(machineMs(), RECOVERY_MS_MAX);
    // Those who were cut off or stopped may yet write what they have kept.
    await elapsed(workMs);
    const before = this.acknowledgements().filter((atMs) => atMs > struckMs && atMs < firstMs);
    const times = [struckMs, ...before, firstMs].sort((a, b) => a - b);
    const silenceMs = Math.max(...times.slice(1).map((atMs, index) => atMs - times[index]!));
    this.silencesMs.set(fault.name, [...(this.silencesMs.get(fault.name) ?? []), silenceMs]);
  }

  /** While nobody appends, so that everything that there is to see has been seen. */
  async violations(): Promise<string[]> {
    const { history, leadership } = this.records;
    const masters = this.sides.map(({ master }) => master);
    await Promise.all(masters.map((master) => master.hold()));
    const head = await this.readOn();
    await Promise.all(this.followers.map((follower) => follower.reaches(head, FOLLOW_MS_MAX)));
    await this.watch.reachesNow();
    const hashes = new Set(await Promise.all(this.sides.map((side) => side.stateHash(BigInt(head)))));
    for (const master of masters) master.letGo();
    return [
      ...history.violations(),
      ...leadership.violations(),
      ...(hashes.size === 1 ? [] : [`views that differ: ${[...hashes].join(", ")}`]),
    ];
  }

  async close(): Promise<void> {
    for (const follower of this.followers) await follower.close();
  }

  get terms(): number {
    return this.records.leadership.terms.length;
  }

  get summary(): string {
    const lines = [...this.silencesMs].map(([name, times]) => {
      const sorted = times.map(Math.round).sort((a, b) => a - b);
      return `  ${name}: median ${sorted[sorted.length >> 1]}, longest ${sorted.at(-1)}`;
    });
    const seconds = Math.round((machineMs() - this.startedMs) / 1000);
    const counts = `${ROUNDS} rounds, ${this.terms} terms, ${this.records.history.log.last} entries in ${seconds} s`;
    return [`${counts}; ms without an acknowledgement:`, ...lines].join("\n");
  }

  /** Its sidecar may just be on its way back to etcd. */
  private async readOn(): Promise<number> {
    const read = () =>
      readBack(this.sides[0]!.client, this.records.history, LOG).catch((error: unknown) => {
        if (error instanceof OplogRpcError && isTransient(error)) return undefined;
        throw error;
      });
    return (await waitFor(read, { what: "the log to be readable" }))!;
  }

  private async leader(): Promise<Side> {
    const leading = () => this.sides.filter(({ master }) => master.term !== undefined);
    await waitFor(() => leading().length > 0, { what: "a side to lead" });
    return leading().sort((a, b) => b.master.term! - a.master.term!)[0]!;
  }

  /** When the first append was acknowledged that was sent after that moment. */
  private async isAppendedTo(sentMs: number, deadlineMs: number): Promise<number> {
    const found = () => {
      const answers = this.sides.flatMap(({ master }) => master.acknowledged.filter((each) => each.sentMs >= sentMs));
      return answers.length === 0 ? undefined : Math.min(...answers.map(({ atMs }) => atMs));
    };
    return (await waitFor(found, { deadlineMs, what: "an append to be acknowledged" }))!;
  }

  private acknowledgements(): number[] {
    return this.sides.flatMap(({ master }) => master.acknowledged.map(({ atMs }) => atMs));
  }
}

async function elapsed(ms: number): Promise<void> {
  const untilMs = machineMs() + ms;
  await waitFor(() => machineMs() >= untilMs, { deadlineMs: 2 * ms + 1_000, what: `${Math.round(ms)} ms to pass` });
}
