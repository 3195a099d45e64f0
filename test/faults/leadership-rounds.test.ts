import { expect, it } from "vitest";
import type { EtcdServer } from "../support/etcd.js";
import { Arena, elapsed } from "./arena.js";
import { machineMs } from "./candidate.js";
import { FAULTS, type Fault } from "./leadership-faults.js";
import { inRandomOrder, randomOf, SEED, scaled } from "./scale.js";
import { aFaultProxy, anEtcd } from "./stage.js";

const LOG = "fought-over";
const ROUNDS = scaled(FAULTS.length, 200);
const TTL_MS = 1_000;
const FAULT_MS_MAX = 3 * TTL_MS;
const ELECTION_MS = 500;
/** Once everything runs again: an etcd that comes back gives every lease its whole time again, and an election's more. */
const RECOVERY_MS_MAX = TTL_MS + ELECTION_MS + 2_000;
/** Before a fault, and after it. */
const WORK_MS_MAX = 300;

it(`holds to one leader at a time, and loses nothing, through ${ROUNDS} rounds of faults (seed ${SEED})`, {
  timeout: 60_000 + ROUNDS * 20_000,
}, async () => {
  const random = randomOf(SEED);
  const rounds = await Rounds.start();
  let faults: Fault[] = [];
  for (let round = 1; round <= ROUNDS; round++) {
    if (faults.length === 0) faults = inRandomOrder(random, FAULTS);
    const fault = faults.pop()!;
    const lastsMs = fault.lasts ? random() * FAULT_MS_MAX : 0;
    const what = `round ${round}, seed ${SEED}: ${fault.name} for ${Math.round(lastsMs)} ms`;
    await rounds.play(fault, lastsMs, random() * WORK_MS_MAX).catch((error: unknown) => {
      throw new Error(`${what}: ${error instanceof Error ? error.message : error}`, { cause: error });
    });
    expect({ what, violations: await rounds.arena.violations() }).toEqual({ what, violations: [] });
  }
  process.stdout.write(`${rounds.summary}\n`);
  await rounds.arena.close();
  // Each full set of faults takes the leadership away several times.
  expect(rounds.terms).toBeGreaterThan(ROUNDS / 3);
});

/** Two sides that fight for one log, each with its own way to etcd. */
class Rounds {
  /** How long no append was acknowledged, from the beginning of the fault. */
  private readonly silencesMs = new Map<string, number[]>();
  private readonly startedMs = machineMs();

  private constructor(
    private readonly etcd: EtcdServer,
    readonly arena: Arena,
  ) {}

  static async start(): Promise<Rounds> {
    const etcd = await anEtcd(["--heartbeat-interval", "50", "--election-timeout", String(ELECTION_MS)]);
    const master = {
      log: LOG,
      ttlMs: TTL_MS,
      aliveWithinMs: TTL_MS,
      everyMs: 5,
      appendsAsStandby: true,
      deadlineMs: TTL_MS,
    };
    const plans = await Promise.all(
      ["left", "right"].map(async (name) => {
        const proxy = await aFaultProxy(etcd.port);
        return { name, etcd: proxy.endpoint, proxy, master };
      }),
    );
    return new Rounds(etcd, await Arena.start(etcd, LOG, plans));
  }

  async play(fault: Fault, lastsMs: number, workMs: number): Promise<void> {
    const { arena } = this;
    const leader = await arena.leader();
    await arena.isAppendedTo(machineMs(), RECOVERY_MS_MAX);
    await elapsed(workMs);

    const struckMs = machineMs();
    const heal = await fault.strike(leader, this.etcd);
    await elapsed(lastsMs);
    await heal();
    const firstMs = await arena.isAppendedTo(machineMs(), RECOVERY_MS_MAX);
    // Those who were cut off or stopped may yet write what they have kept.
    await elapsed(workMs);
    const silenceMs = arena.silenceMs(struckMs, firstMs);
    this.silencesMs.set(fault.name, [...(this.silencesMs.get(fault.name) ?? []), silenceMs]);
  }

  get terms(): number {
    return this.arena.records.leadership.terms.length;
  }

  get summary(): string {
    const lines = [...this.silencesMs].map(([name, times]) => {
      const sorted = [...times].sort((a, b) => a - b);
      return `  ${name}: median ${sorted[sorted.length >> 1]}, longest ${sorted.at(-1)}`;
    });
    const seconds = Math.round((machineMs() - this.startedMs) / 1000);
    const counts = `${ROUNDS} rounds, ${this.terms} terms, ${this.arena.records.history.log.last} entries in ${seconds} s`;
    return [`${counts}; ms without an acknowledgement:`, ...lines].join("\n");
  }
}
