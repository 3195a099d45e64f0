import { OplogError } from "../../src/oplog/errors.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import type { Candidate } from "../../src/promotion/messages.js";
import type { AppendOutcome } from "../../src/writing/append-item.js";
import {
  type AppendBuilder,
  anAppend,
  Dice,
  keysOf,
  putHeadAgain,
  readAtRest,
  resolveFromStore,
} from "../log/support.js";
import { VirtualTime } from "../support/virtual-time.js";
import { type AskedHandOver, Contender, LOG } from "./candidate.js";
import { Chronicle, type Reign } from "./chronicle.js";
import { DRIZZLE, FAIR, STORM, SWAMP } from "./network.js";
import { isRefusedByLeadership, SimulatedSidecar } from "./sidecar.js";

const keys = keysOf(LOG);
const TTL_MS_MAX = 3000;
const READY_MS_MAX = 1500;
/** The lease of the dead, one candidate that does not get ready, and the pauses between attempts. */
const RECOVERY_MS_MAX = TTL_MS_MAX + READY_MS_MAX + 1000;
/** A call that was lost before the peace has to time out first. */
const END_MS_MAX = TTL_MS_MAX + 1000;

interface Sent {
  readonly content: string;
  readonly entries: number;
  readonly atMs: number;
  /** Of the writer that would have taken it. */
  readonly term: bigint | undefined;
  outcome?: AppendOutcome;
  settledMs?: number;
}

export interface Verdict {
  readonly violations: string[];
  readonly commits: number;
  readonly reigns: number;
  readonly handOvers: Record<string, number>;
  readonly ends: Record<string, number>;
  /** From when nothing failed any more to the next acknowledged append; 0 where tokens decide. */
  readonly recoveryMs: number;
}

/** Sidecars and candidates that contend for one log, by a seed. */
export class Contest {
  readonly time: VirtualTime;
  private readonly dice: Dice;
  private readonly store: MemoryKvStore;
  readonly chronicle: Chronicle;
  private readonly finals = new Map<bigint, bigint>();
  readonly sidecars: SimulatedSidecar[];
  private readonly dead: SimulatedSidecar[] = [];
  readonly candidacies: Contender[] = [];
  private readonly ids: string[];
  private readonly violations: string[] = [];
  private readonly sent: Sent[] = [];
  private readonly writers = ["u", "v"].map((id) => ({
    id,
    operation: 1n,
    isBusy: false,
    told: new Map<bigint, string>(),
  }));
  private readonly hasViews: boolean;
  private readonly withTokens: boolean;
  private token = 0n;
  private births = 0;
  private recoveryMs = 0;

  constructor(readonly seed: number) {
    const dice = new Dice(seed);
    const time = new VirtualTime(() => dice.roll());
    this.dice = dice;
    this.time = time;
    this.store = new MemoryKvStore({ clock: time.clock });
    this.chronicle = new Chronicle(keys, () => time.nowMs);
    this.hasViews = dice.chance(0.3);
    this.withTokens = dice.chance(0.1);
    this.ids = Array.from({ length: 2 + dice.below(3) }, (_, index) => `c${index}`);
    this.sidecars = Array.from({ length: 2 + dice.below(2) }, () => this.aSidecar());
  }

  async play(steps: number): Promise<Verdict> {
    const { time, store } = this;
    const over = new AbortController();
    const following = this.chronicle.follow(store, over.signal);
    this.expire();
    try {
      for (const id of this.ids) this.enter(id, false);
      for (let step = 0; step < steps; step++) {
        this.act();
        await time.pass(1 + this.dice.below(200));
      }
      await this.makePeace();
      await this.endAll();
      await this.judge();
    } finally {
      over.abort();
      await following;
    }
    return this.verdict();
  }

  private aSidecar(): SimulatedSidecar {
    const { dice, time, store, finals } = this;
    const shape = {
      hasView: this.hasViews,
      objectLeaseMs: dice.chance(0.5) ? 1000 : undefined,
      writeDeadlineMs: 300 + dice.below(2000),
    };
    return new SimulatedSidecar(`s${this.births++}`, store, time, dice, shape, finals);
  }

  private expire(): void {
    this.time.at(undefined, 40, () => {
      this.store.expireLeases();
      this.expire();
    });
  }

  private pick<T>(from: readonly T[]): T {
    return from[this.dice.below(from.length)]!;
  }

  private enter(id: string, isWell: boolean): void {
    const { dice } = this;
    const sidecar = this.pick(this.sidecars);
    const isThere = this.running.some((each) => each.sidecar === sidecar && each.candidate.id === id);
    if (!sidecar.canHear || isThere) return;
    const candidate: Candidate = {
      id,
      endpoint: "",
      ttlMs: 1000 + dice.below(TTL_MS_MAX - 1000),
      readyTimeoutMs: 300 + dice.below(READY_MS_MAX - 300),
      needsHandshake: dice.chance(0.7),
      aliveWithinMs: dice.chance(0.4) ? 500 + dice.below(1000) : undefined,
    };
    const candidacy = new Contender(candidate, sidecar, this.time, dice);
    candidacy.isWell = isWell;
    this.candidacies.push(candidacy);
  }

  private get running(): Contender[] {
    return this.candidacies.filter(({ isOver }) => !isOver);
  }

  private act(): void {
    const { dice } = this;
    const roll = dice.roll();
    const sidecar = this.pick(this.sidecars);
    if (roll < 0.35) this.sendPlain();
    else if (roll < 0.5) this.sendOperation();
    else if (roll < 0.6) this.change(sidecar);
    else if (roll < 0.64) this.pick(this.running)?.fallSilent(200 + dice.below(4000));
    else if (roll < 0.67) this.resign();
    else if (roll < 0.8) this.handOver(this.pick(this.ids), 50 + dice.below(2500));
    else if (roll < 0.82) sidecar.pause(dice.below(4000));
    else if (roll < 0.84) this.replace(sidecar);
    else if (roll < 0.86) void this.resolve();
    else if (roll < 0.87 && this.withTokens) this.claimByToken(sidecar);
    else if (roll < 0.875) this.enter(this.pick(this.ids), false);
    else if (roll < 0.88 && this.chronicle.head > 0n) this.store.compact(BigInt(this.chronicle.commits.length));
    else this.enterMissing(false);
  }

  private enterMissing(isWell: boolean): void {
    const present = new Set(this.running.map(({ candidate }) => candidate.id));
    for (const id of this.ids) if (!present.has(id)) this.enter(id, isWell);
  }

  private change(sidecar: SimulatedSidecar): void {
    const changes = [
      () => sidecar.setWeather(STORM),
      () => sidecar.setWeather(DRIZZLE),
      () => sidecar.setWeather(SWAMP),
      () => sidecar.setWeather(FAIR),
      () => sidecar.goAway(),
      () => sidecar.comeBack(),
      () => sidecar.comeBack(),
      () => this.time.at(sidecar, 0, () => sidecar.network.breakWatches()),
    ];
    this.pick(changes)();
  }

  private resign(): void {
    const leaders = this.running.filter(({ isLeading }) => isLeading);
    this.pick(this.dice.chance(0.6) && leaders.length > 0 ? leaders : this.running)?.resign();
  }

  /** Dies, and another one starts in its place; the candidates come back to whichever they like. */
  private replace(sidecar: SimulatedSidecar): void {
    sidecar.die();
    this.dead.push(sidecar);
    for (const candidacy of this.running) if (candidacy.sidecar === sidecar) candidacy.die();
    this.sidecars[this.sidecars.indexOf(sidecar)] = this.aSidecar();
  }

  private async resolve(): Promise<void> {
    if (this.chronicle.head === 0n) return;
    if (this.dice.chance(0.5)) await putHeadAgain(this.store, keys);
    else await resolveFromStore(this.store, keys, "nobody", BigInt(1 + this.dice.below(20)));
  }

  private claimByToken(sidecar: SimulatedSidecar): void {
    if (!sidecar.canHear) return;
    const token = ++this.token;
    const claim = sidecar.logs.get(LOG).primary.claimByToken(token, { id: "t", endpoint: "" });
    claim.catch((error: unknown) => {
      if (!(error instanceof OplogError)) this.violations.push(`ClaimTerm: ${String(error)}`);
    });
  }

  private handOver(target: string, timeoutMs: number): void {
    const leader = this.pick(this.running.filter(({ isLeading, sidecar }) => isLeading && sidecar.canHear));
    if (leader === undefined || (leader.candidate.id === target && this.dice.chance(0.9))) return;
    const { sidecar, term } = leader;
    const asked: AskedHandOver = { target, term, fromMs: this.time.nowMs, untilMs: Infinity, outcome: undefined };
    leader.handOvers.push(asked);
    const close = (outcome: string) => {
      asked.outcome = outcome;
      asked.untilMs = this.time.nowMs;
    };
    sidecar.campaigns.handOver(LOG, target, timeoutMs).then(
      ({ term: taken, finalSequenceId }) => {
        close("ok");
        const { reigns } = this.chronicle;
        const reign = reigns.find((each) => each.term === taken);
        // Told late, it may be a further term of the target.
        const since = reigns.filter((each) => each.term > term && each.term <= taken);
        const isNext = ({ nonce }: Reign) => since.every((each) => each.nonce === nonce);
        if (reign?.id !== target) this.violations.push(`handed over to "${target}", ${taken} is of "${reign?.id}"`);
        else if (since[0]?.final !== finalSequenceId && isNext(reign)) {
          this.violations.push(`handed over after ${finalSequenceId}, the term before ended with ${since[0]?.final}`);
        }
      },
      (error: unknown) => {
        close(error instanceof OplogError ? error.reason : String(error));
        if (!(error instanceof OplogError)) this.violations.push(`HandOver: ${String(error)}`);
        else if (asked.outcome === "NOT_PRIMARY") {
          const { primary, term: claimed } = error.facts as { primary?: string; term?: bigint };
          const { reign } = this.chronicle;
          const { leading } = leader.open?.campaign ?? {};
          // A claim by token is known to the hand-over before the leader has settled what is in flight.
          const isKnown = (claimed ?? 0n) <= term;
          const isStill = leading?.claim.term === term && !leading.isOver && leading.writer.end === undefined;
          const isLeadingStill = isKnown && reign?.term === term && isStill;
          if (isLeadingStill) {
            this.violations.push(`HandOver: ${error.message}, though ${leader.name} leads ${term} still`);
          }
          const own = this.chronicle.reigns.find((each) => each.term === term);
          const isSince = (claimed ?? 0n) > (own?.next?.term ?? 0n);
          if (own?.next?.id === target && own.next.isInvited && primary === leader.candidate.id && !isSince) {
            this.violations.push(`HandOver to "${target}", which has taken ${own.next.term}: ${error.message}`);
          }
        }
      },
    );
  }

  private sendPlain(): void {
    const content = `plain/${this.sent.length}`;
    const entries = 1 + this.dice.below(3);
    const payload = Buffer.from(content);
    const shape = { entries: Array.from({ length: entries }, () => ({ opType: 1, key: "p", payload })) };
    this.send(anAppend().with(shape), content, entries, () => undefined);
  }

  private send(builder: AppendBuilder, content: string, entries: number, then: (outcome: AppendOutcome) => void): void {
    const leading = this.running.find(({ isLeading }) => isLeading);
    const sidecar = leading !== undefined && this.dice.chance(0.7) ? leading.sidecar : this.pick(this.sidecars);
    const leader = this.running.find((each) => each.sidecar === sidecar && each.isLeading);
    const term = sidecar.logs.get(LOG).primary.writer?.term;
    const sent: Sent = { content, entries, atMs: this.time.nowMs, term };
    this.sent.push(sent);
    const onSettled = (outcome: AppendOutcome) => {
      sent.outcome = outcome;
      sent.settledMs = this.time.nowMs;
      then(outcome);
    };
    const expected = leader && this.dice.chance(0.7) ? { expectedTerm: leader.term } : {};
    sidecar.append(builder.with({ ...expected, onSettled }));
  }

  private sendOperation(): void {
    const writer = this.pick(this.writers);
    if (writer.isBusy) return;
    const { id } = writer;
    const operation = writer.operation > 1n && this.dice.chance(0.2) ? writer.operation - 1n : writer.operation;
    const content = `${id}/${operation}`;
    writer.isBusy = true;
    // A client whose sidecar died gives up on its answer.
    this.time.at(undefined, 5000, () => {
      writer.isBusy = false;
    });
    this.send(anAppend().by(id, operation).saying(content), content, 1, (outcome) => {
      writer.isBusy = false;
      if ("error" in outcome) return;
      const { first, last, term } = outcome.appended;
      const ids = `${first}..${last} of term ${term}`;
      const before = writer.told.get(operation) ?? ids;
      if (before !== ids) this.violations.push(`${content} was ${before}, and again ${ids}`);
      writer.told.set(operation, ids);
      if (operation === writer.operation) writer.operation++;
    });
  }

  /** Nothing fails any more: somebody must lead before long, and append. */
  private async makePeace(): Promise<void> {
    const { time, chronicle } = this;
    for (const sidecar of this.sidecars) {
      sidecar.comeBack();
      sidecar.setWeather(FAIR);
    }
    for (const each of this.running) {
      each.isWell = true;
      each.silentUntilMs = 0;
    }
    await time.pass(Math.max(10, ...this.sidecars.map(({ pausedUntilMs }) => pausedUntilMs - time.nowMs)));
    const peaceMs = time.nowMs;
    this.enterMissing(true);
    // A call that is under way may have to time out, a term that is led be found to be lost, a token come late.
    const withinMs = TTL_MS_MAX + 2 * READY_MS_MAX + 4000;
    const isLed = () => {
      this.enterMissing(true);
      return chronicle.reign !== undefined && this.leaderOf(chronicle.reign.term) !== undefined;
    };
    if (!(await time.until(() => chronicle.isByToken || isLed(), withinMs))) {
      this.violations.push(`nobody leads ${withinMs} ms after the last fault`);
    }
    let isAppended = false;
    for (let passedMs = 0; passedMs < withinMs && !isAppended && !chronicle.isByToken; passedMs += 100) {
      this.enterMissing(true);
      const leader = chronicle.reign && this.leaderOf(chronicle.reign.term);
      const item = leader?.sidecar.append(anAppend().of(1));
      await time.pass(100);
      isAppended = item?.settled !== undefined && "appended" in item.settled;
    }
    if (chronicle.isByToken) {
      if (!(await time.until(() => this.running.length === 0, withinMs))) {
        this.violations.push(`${this.running.map(({ name }) => name)} campaign on though a token has been claimed`);
      }
      return;
    }
    this.recoveryMs = time.nowMs - peaceMs;
    if (this.recoveryMs > RECOVERY_MS_MAX) {
      this.violations.push(`the next append was acknowledged ${this.recoveryMs} ms after the last fault`);
    }
    if (!isAppended) this.violations.push(`no append succeeds ${withinMs} ms after the last fault`);
  }

  private leaderOf(term: bigint): Contender | undefined {
    return this.running.find((each) => each.isLeading && each.term === term);
  }

  private async endAll(): Promise<void> {
    const { time, violations } = this;
    for (const candidacy of this.running) candidacy.resign();
    if (!(await time.until(() => this.running.length === 0, END_MS_MAX))) {
      violations.push(`${this.running.map(({ name }) => name)} did not end ${END_MS_MAX} ms after having resigned`);
    }
    const { reign } = this.chronicle;
    if (this.candidacies.some(({ led, outcome }) => outcome !== undefined && reign && led.includes(reign.term))) {
      violations.push("the leader key is there though all have resigned");
    }
    let ended = 0;
    for (const sidecar of this.sidecars) void sidecar.end().then(() => ended++);
    if (!(await time.until(() => ended === this.sidecars.length, 5000))) violations.push("a sidecar did not end");
    await time.pass(TTL_MS_MAX);
    for (const sidecar of this.sidecars) {
      const { name, network, broken } = sidecar;
      if (network.openWatches > 0) violations.push(`${name} has left ${network.openWatches} watches`);
      const timers = time.timersOf(sidecar);
      if (timers > 0) violations.push(`${name} has left ${timers} timers`);
      for (const error of broken) violations.push(`${name}: ${String(error)}`);
    }
  }

  private async judge(): Promise<void> {
    const { chronicle, violations, time } = this;
    // What was promised to the dead lasts no longer than their leases.
    await time.pass(TTL_MS_MAX + 1000);
    const { pairs } = await this.store.page({
      from: keys.leader,
      to: keys.leadershipTo,
      limit: 100,
      bytesMax: 1024 * 1024,
    });
    for (const { key } of pairs) violations.push(`${key} was left`);
    for (const [term, final] of this.finals) {
      if (chronicle.finals.get(term) !== final) {
        violations.push(
          `the leader of ${term} was told ${final}, the term before ended with ${chronicle.finals.get(term)}`,
        );
      }
    }
    for (const candidacy of this.candidacies) this.judgeCandidacy(candidacy);
    await this.judgeLog();
    for (const sent of this.sent) this.judgeRefusal(sent);
  }

  private judgeCandidacy(candidacy: Contender): void {
    const { chronicle, violations } = this;
    const isTakenBy = (term: bigint) => {
      const own = chronicle.reigns.find((each) => each.term === term);
      return own === undefined || chronicle.reigns.some((each) => each.term > term && each.nonce !== own.nonce);
    };
    const { id } = candidacy.candidate;
    const hasNamesake = this.candidacies.some((each) => each.candidate.id === id && each.sidecar !== candidacy.sidecar);
    candidacy.judgeEnd(chronicle.isByToken, isTakenBy, hasNamesake);
    violations.push(...candidacy.violations);
    if (chronicle.isByToken) return;
    for (const { term, fromMs, untilMs } of candidacy.promised) {
      // Of further terms of the same candidacy each goes on where the one before ends.
      let reign = chronicle.reigns.find((each) => each.term === term);
      while (reign?.next !== undefined && reign.next.nonce === reign.nonce) reign = reign.next;
      const endMs = reign?.untilMs ?? 0;
      if (endMs < untilMs && !candidacy.hasGivenUp(endMs) && !candidacy.hasGivenUp(fromMs)) {
        violations.push(
          `${candidacy.name} was promised ${fromMs}..${untilMs} of term ${term}, which ended at ${endMs}`,
        );
      }
      if (endMs < fromMs && candidacy.handOvers.some((each) => each.outcome === "ok" && each.untilMs < fromMs)) {
        violations.push(`${candidacy.name} was promised ${fromMs}..${untilMs} after it had handed over`);
      }
    }
    for (const { target, term, untilMs, outcome } of candidacy.handOvers) {
      const reign = chronicle.reigns.find((each) => each.term === term);
      const isTaken = reign?.next?.isInvited && reign.next.id === target;
      const isOther = candidacy.handOvers.some((each) => each.term === term && each.outcome !== outcome);
      if (outcome === "HAND_OVER_ABANDONED" && isTaken && !isOther && reign.untilMs > untilMs) {
        violations.push(`"${target}" took the place of ${candidacy.name} though the hand-over was abandoned`);
      }
    }
  }

  private async judgeLog(): Promise<void> {
    const { violations } = this;
    const records = await readAtRest(this.store, keys);
    const found = new Map<string, bigint[]>();
    for (const { sequenceId, payload } of records.flatMap(({ entries }) => entries)) {
      const content = Buffer.from(payload).toString();
      found.set(content, [...(found.get(content) ?? []), sequenceId]);
    }
    for (const { content, entries, outcome } of this.sent) {
      if (!content.startsWith("plain")) continue;
      const at = found.get(content) ?? [];
      const isWhole =
        at.length === 0 || (at.length === entries && at.every((id, index) => id === at[0]! + BigInt(index)));
      const isTrue =
        outcome === undefined ||
        ("appended" in outcome
          ? at[0] === outcome.appended.first
          : outcome.error.reason === "OUTCOME_UNKNOWN" || at.length === 0);
      if (!isWhole || !isTrue) violations.push(`${content} was told ${tell(outcome)}, the log has it at [${at}]`);
    }
    for (const { id, told } of this.writers) {
      for (const [content, at] of found) {
        if (content.startsWith(`${id}/`) && at.length > 1) violations.push(`${content} is in the log at [${at}]`);
      }
      for (const [operation, ids] of told) {
        const at = found.get(`${id}/${operation}`) ?? [];
        if (!ids.startsWith(`${at[0]}..`)) violations.push(`${id}/${operation} was ${ids}, the log has it at [${at}]`);
      }
    }
  }

  /** Whoever goes on leading has refused nothing for want of leadership. */
  private judgeRefusal({ content, term, outcome, settledMs = Infinity }: Sent): void {
    if (outcome === undefined || !("error" in outcome) || term === undefined) return;
    if (!isRefusedByLeadership(outcome.error)) return;
    const goesOn = ({ atMs, outcome: later }: Sent) =>
      atMs > settledMs &&
      later !== undefined &&
      "appended" in later &&
      !later.appended.isDuplicate &&
      later.appended.term === term;
    if (this.sent.some((each) => goesOn(each))) {
      this.violations.push(`${content} was refused by term ${term}, which goes on: ${outcome.error.message}`);
    }
  }

  private verdict(): Verdict {
    const { chronicle } = this;
    const handOvers: Record<string, number> = {};
    const ends: Record<string, number> = {};
    for (const candidacy of this.candidacies) {
      for (const { outcome } of candidacy.handOvers) handOvers[String(outcome)] = (handOvers[String(outcome)] ?? 0) + 1;
      const { outcome } = candidacy;
      const end = outcome?.reason ?? "died";
      ends[end] = (ends[end] ?? 0) + 1;
    }
    return {
      violations: [...this.violations, ...chronicle.violations],
      commits: chronicle.commits.length,
      reigns: chronicle.reigns.length,
      handOvers,
      ends,
      recoveryMs: this.recoveryMs,
    };
  }
}

function tell(outcome: AppendOutcome | undefined): string {
  if (outcome === undefined) return "nothing";
  return "error" in outcome ? outcome.error.reason : `${outcome.appended.first}..${outcome.appended.last}`;
}
