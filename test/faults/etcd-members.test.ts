import { expect, it } from "vitest";
import { Arena, elapsed } from "./arena.js";
import { machineMs } from "./candidate.js";
import { EtcdCluster } from "./etcd-cluster.js";
import { type Blow, MEMBER_FAULTS, type MemberFault } from "./etcd-member-faults.js";
import { inRandomOrder, randomOf, SEED, scaled } from "./scale.js";
import type { Side } from "./side.js";

const LOG = "kept-by-three";
const ROUNDS = scaled(MEMBER_FAULTS.length, 120);
const TTL_MS = 2_000;
/** Of etcd, which draws how long it waits between once and twice of this. */
const ELECTION_MS = 500;
/** By then a sidecar knows that its member is silent, or that etcd has elected another leader since. */
const NOTICED_MS_MAX = 1_000;
/** For a machine that is busy, as one is that runs other tests beside. */
const BUSY_MS = scaled(1_500, 500);
/** With one member away and the leadership kept, appends go on once that was noticed and etcd has its leader. */
const KEPT_MS_MAX = NOTICED_MS_MAX + 2 * ELECTION_MS + BUSY_MS;
/** If the lease could not be renewed in time, the other side leads once it has run out. */
const ONE_AWAY_MS_MAX = TTL_MS + KEPT_MS_MAX;
/** From when all members serve again: they may elect once more, and a new leader of etcd gives every lease its whole time. */
const RECOVERY_MS_MAX = TTL_MS + 2 * ELECTION_MS + 3_000;
/** Before a fault, and after it. */
const WORK_MS_MAX = 300;

it(`loses nothing, and no more time than it takes to notice, when members of etcd go and come back: ${ROUNDS} rounds (seed ${SEED})`, {
  timeout: 60_000 + ROUNDS * 20_000,
}, async () => {
  const random = randomOf(SEED);
  const cluster = await EtcdCluster.start(["--heartbeat-interval", "50", "--election-timeout", String(ELECTION_MS)]);
  const rounds = await Rounds.start(cluster);
  let faults: MemberFault[] = [];
  for (let round = 1; round <= ROUNDS; round++) {
    if (faults.length === 0) faults = inRandomOrder(random, MEMBER_FAULTS);
    const fault = faults.pop()!;
    const what = `round ${round}, seed ${SEED}: ${fault.name}`;
    const cost = await rounds.play(fault, random).catch((error: unknown) => {
      throw new Error(`${what}: ${error instanceof Error ? error.message : error}`, { cause: error });
    });
    expect({ what, violations: await rounds.arena.violations() }).toEqual({ what, violations: [] });
    if (!fault.leavesQuorum) continue;
    expect(cost.awayMs, what).toBeLessThanOrEqual(cost.hasChangedLeader.away ? ONE_AWAY_MS_MAX : KEPT_MS_MAX);
  }
  process.stdout.write(`${rounds.summary}\n`);
  await rounds.arena.close();
});

interface Cost {
  /** How long no append was acknowledged: while members were away, and once they were coming back. */
  readonly awayMs: number;
  readonly backMs: number;
  readonly hasChangedLeader: { readonly away: boolean; readonly back: boolean };
}

class Rounds {
  private readonly costs = new Map<string, Cost[]>();
  private readonly startedMs = machineMs();

  private constructor(
    private readonly cluster: EtcdCluster,
    readonly arena: Arena,
  ) {}

  /** Each sidecar begins at a member of its own. */
  static async start(cluster: EtcdCluster): Promise<Rounds> {
    const master = { log: LOG, ttlMs: TTL_MS, everyMs: 5, appendsAsStandby: true, deadlineMs: TTL_MS };
    const plans = ["left", "right"].map((name, index) => ({
      name,
      etcd: cluster.endpointsFrom(index).join(","),
      master,
    }));
    return new Rounds(cluster, await Arena.start(cluster, LOG, plans));
  }

  async play(fault: MemberFault, random: () => number): Promise<Cost> {
    const { arena } = this;
    const leader = await arena.leader();
    await arena.isAppendedTo(machineMs(), RECOVERY_MS_MAX);
    await elapsed(random() * WORK_MS_MAX);
    const term = leader.master.term!;

    const connected = this.cluster.at(memberOf(leader));
    const blow = await fault.strike(this.cluster, connected, random);
    const struckMs = machineMs();
    if (fault.leavesQuorum) await arena.isAppendedTo(struckMs, ONE_AWAY_MS_MAX);
    // A stop outlasts the lease, whenever that was renewed last.
    await elapsed(fault.isStop ? TTL_MS * (1 + random() / 2) : random() * WORK_MS_MAX);
    if (fault.leavesQuorum) await arena.isAppendedTo(machineMs(), ONE_AWAY_MS_MAX);
    const healedMs = machineMs();
    const termWhileAway = arena.newestTerm;
    await blow.heal();
    await arena.isAppendedTo(machineMs(), RECOVERY_MS_MAX);
    // What comes back may yet do harm.
    await elapsed(WORK_MS_MAX + random() * WORK_MS_MAX);
    await arena.isAppendedTo(machineMs(), RECOVERY_MS_MAX);
    const cost = {
      awayMs: arena.silenceMs(struckMs, healedMs),
      backMs: arena.silenceMs(healedMs, machineMs()),
      hasChangedLeader: { away: termWhileAway > term, back: arena.newestTerm > termWhileAway },
    };
    this.excuse(fault, blow, cost, termWhileAway, healedMs);
    this.costs.set(fault.name, [...(this.costs.get(fault.name) ?? []), cost]);
    return cost;
  }

  get summary(): string {
    const lines = [...this.costs].map(([name, costs]) => {
      const spread = (which: "awayMs" | "backMs") => {
        const sorted = costs.map((cost) => cost[which]).sort((a, b) => a - b);
        return `median ${sorted[sorted.length >> 1]}, longest ${sorted.at(-1)}`;
      };
      const changes = (when: "away" | "back") => costs.filter(({ hasChangedLeader }) => hasChangedLeader[when]).length;
      const away = `away ${spread("awayMs")}, ${changes("away")} new leaders`;
      return `  ${name} (${costs.length}): ${away}; back ${spread("backMs")}, ${changes("back")} new leaders`;
    });
    const seconds = Math.round((machineMs() - this.startedMs) / 1000);
    const { history, leadership } = this.arena.records;
    const counts = `${ROUNDS} rounds, ${leadership.terms.length} terms, ${history.log.last} entries in ${seconds} s`;
    return [`${counts}; ms without an acknowledgement:`, ...lines].join("\n");
  }

  /**
   * A leader of etcd that stood still has leases revoked that have run out by its own clock, before it learns that it was
   * deposed and that its successor has renewed them. No holder of a lease can rule that out, so what the candidate was
   * promised does not count from then on. Nothing is excused of what is written.
   */
  private excuse({ isStop }: MemberFault, { hitsLeader }: Blow, cost: Cost, term: number, healedMs: number): void {
    if (isStop && hitsLeader && cost.hasChangedLeader.back) this.arena.records.leadership.gaveUp(term, healedMs);
  }
}

/** The endpoint that a sidecar uses: the first that it was given, until it says that it has left one for the next. */
function memberOf({ oplogd, plan }: Side): string {
  const moves = [...oplogd.log.matchAll(/"event":"etcd.member_left".*?"next":"([^"]+)"/g)];
  return moves.at(-1)?.[1] ?? plan.etcd.split(",")[0]!;
}
