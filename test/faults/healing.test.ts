import { expect, it } from "vitest";
import { Arena, elapsed } from "./arena.js";
import { machineMs } from "./candidate.js";
import { EtcdCluster } from "./etcd-cluster.js";
import { firstLoggedMs, HealingProbe, partsOf } from "./healing-parts.js";
import { type Mix, strikeSome } from "./mixed-faults.js";
import { randomOf, SEED, scaled } from "./scale.js";

const LOG = "healed";
const ROUNDS = scaled(6, 100);
const TTL_MS = 1_000;
const ELECTION_MS = 500;
/** Most are short. Some last long enough for every back-off to grow to its longest. */
const FAULT_MS_MAX = scaled(5_000, 15_000);
const WORK_MS_MAX = 300;
/** What goes beyond the bound is to be seen with its parts. */
const GIVEN_UP_MS = 60_000;

/** From when every process runs again to the next acknowledged append, one after the other, and the longest of each. */
const PARTS_MS_MAX = {
  /** A killed member starts; then at most two elections, each of at most twice the election timeout. */
  etcd: 1_000 + 2 * 2 * ELECTION_MS,
  /** The longest back-off of a connection to a member, with its jitter. */
  connection: 1_200,
  /** A new leader of etcd gives a lease its whole time and that of an election, and looks twice a second what has run out. */
  lease: TTL_MS + ELECTION_MS + 500,
  /** Whoever waits looks at least twice per TTL, and waits for half a TTL after a look that failed. */
  claim: TTL_MS,
  /** A standby that was cut off from its sidecar follows again: the back-off of its connection, and then of its stream. */
  preparation: 1_200 + 1_000,
  /** A call of the master that nobody will answer has this deadline; then it tries again. */
  append: TTL_MS + 200,
} as const;
type Part = keyof typeof PARTS_MS_MAX;

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
const ONE_TERM_MS_MAX = sum(Object.values(PARTS_MS_MAX));
/** A store that is slow lets a lease of a second run out again before its candidate leads: then the next one follows. */
const FURTHER_TERM_MS_MAX = PARTS_MS_MAX.lease + PARTS_MS_MAX.claim + PARTS_MS_MAX.preparation;

interface Healing {
  readonly what: string;
  readonly tookMs: number;
  readonly parts: Readonly<Record<Part, number>>;
  /** 0: who led before leads on. */
  readonly terms: number;
}

it(`goes on soon after all is healed, whatever was killed and stopped: ${ROUNDS} rounds (seed ${SEED})`, {
  timeout: 60_000 + ROUNDS * 90_000,
}, async () => {
  const random = randomOf(SEED);
  const cluster = await EtcdCluster.start(["--heartbeat-interval", "50", "--election-timeout", String(ELECTION_MS)]);
  const master = { log: LOG, ttlMs: TTL_MS, aliveWithinMs: TTL_MS, everyMs: 10, appendsAsStandby: true };
  const plans = ["left", "middle", "right"].map((name, index) => ({
    name,
    etcd: cluster.endpointsFrom(index).join(","),
    master: { ...master, deadlineMs: TTL_MS },
  }));
  const arena = await Arena.start(cluster, LOG, plans);
  const healings: Healing[] = [];
  for (let round = 1; round <= ROUNDS; round++) {
    await arena.isAppendedTo(machineMs(), GIVEN_UP_MS);
    await elapsed(random() * WORK_MS_MAX);
    const mix = await strikeSome(cluster, arena.sides, random);
    const lastsMs = random() ** 2 * FAULT_MS_MAX;
    await elapsed(lastsMs);
    const what = `round ${round}, seed ${SEED}: ${mix.name} for ${Math.round(lastsMs)} ms`;
    const healing = { what, ...(await heal(cluster, arena, mix)) };
    healings.push(healing);
    expect({ what, violations: await arena.violations() }).toEqual({ what, violations: [] });
    const boundMs = ONE_TERM_MS_MAX + Math.max(0, healing.terms - 1) * FURTHER_TERM_MS_MAX;
    expect(healing.tookMs, JSON.stringify(healing)).toBeLessThanOrEqual(boundMs);
  }
  process.stdout.write(`${summaryOf(healings)}\n`);
  await arena.close();
});

async function heal(cluster: EtcdCluster, arena: Arena, mix: Mix): Promise<Omit<Healing, "what">> {
  const { membersAreWell } = await mix.heal();
  const healedMs = machineMs();
  const term = arena.newestTerm;
  const probe = new HealingProbe(cluster.members, LOG, term);
  const next = await arena.nextAcknowledged(healedMs, GIVEN_UP_MS);
  await membersAreWell;
  await probe.end();
  // A member of etcd that stood still revokes leases that its successor has renewed. Nothing is excused of what is written.
  if (mix.stopsMember) arena.records.leadership.gaveUp(term, healedMs);
  const logged = (event: string, ofTerm?: number) => firstLoggedMs(next.side.oplogd, event, healedMs, ofTerm);
  const parts = partsOf<Part>(healedMs, next.atMs, [
    ["etcd", probe.writableMs],
    ["connection", logged("store_reachable")],
    ["lease", next.term > term ? probe.vacatedMs : undefined],
    ["claim", logged("campaign_preparing", next.term)],
    ["preparation", logged("leading", next.term)],
    ["append", next.atMs],
  ]);
  return { tookMs: Math.round(next.atMs - healedMs), parts, terms: next.term - term };
}

function summaryOf(healings: readonly Healing[]): string {
  const sorted = healings.toSorted((a, b) => a.tookMs - b.tookMs);
  const longest = sorted.at(-1)!;
  const names = Object.keys(PARTS_MS_MAX) as Part[];
  const worst = names.map((name) => `${name} ${Math.max(...healings.map(({ parts }) => parts[name]))}`);
  return [
    `${healings.length} times healed; ms to the next acknowledged append:`,
    `  median ${sorted[sorted.length >> 1]!.tookMs}, longest ${longest.tookMs}, explained up to ${ONE_TERM_MS_MAX} and ${FURTHER_TERM_MS_MAX} for each further term`,
    `  the longest by its parts: ${JSON.stringify(longest.parts)} (${longest.terms} terms; ${longest.what})`,
    `  the longest of each part: ${worst.join(", ")}`,
  ].join("\n");
}
