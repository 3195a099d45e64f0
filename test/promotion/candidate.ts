import { OplogError } from "../../src/oplog/errors.js";
import type { OpenCampaign } from "../../src/promotion/campaigns.js";
import type { CampaignMessage, Candidate, Lost } from "../../src/promotion/messages.js";
import type { Dice } from "../log/support.js";
import type { VirtualTime } from "../support/virtual-time.js";
import type { SimulatedSidecar } from "./sidecar.js";

export const LOG = "log";

type Answer = "right" | "late" | "wrong" | "never" | "of an older term";

/** That nobody else leads, as a candidate was told. */
export interface Promised {
  readonly term: bigint;
  readonly fromMs: number;
  readonly untilMs: number;
}

/** A change of the leader that was asked for, from its leader's side. */
export interface AskedHandOver {
  readonly target: string;
  readonly term: bigint;
  readonly fromMs: number;
  untilMs: number;
  /** "ok", or the reason of the refusal. */
  outcome: string | undefined;
}

function answerTo(term: bigint, applied: bigint): string {
  return `${applied} in term ${term}`;
}

/** One candidacy as its master sees it; judges what it is told. */
export class Contender {
  readonly promised: Promised[] = [];
  readonly led: bigint[] = [];
  readonly handOvers: AskedHandOver[] = [];
  readonly violations: string[] = [];
  open: OpenCampaign | undefined;
  /** When it gave up by itself, or was told to. */
  resignedMs = Infinity;
  /** When it was told that it is over, or its sidecar died. */
  endedMs = Infinity;
  outcome: Lost | OplogError | undefined;
  /** It hears, says and reads nothing. */
  silentUntilMs = 0;
  wasSilent = false;
  isWell = false;
  private prepared: { readonly term: bigint; readonly final: bigint } | undefined;
  private readonly answered = new Set<string>();
  private hasMissedLeading = false;
  private answers: Answer[] = [];

  constructor(
    readonly candidate: Candidate,
    readonly sidecar: SimulatedSidecar,
    private readonly time: VirtualTime,
    private readonly dice: Dice,
  ) {
    this.open = sidecar.campaigns.enter(LOG, candidate, (message) => this.hear(message));
    const end = (outcome: unknown) => this.end(outcome);
    this.open.ended.then(end, end);
    if (candidate.aliveWithinMs !== undefined) this.keepAlive(candidate.aliveWithinMs);
  }

  get isOver(): boolean {
    return this.endedMs !== Infinity;
  }

  get isLeading(): boolean {
    return !this.isOver && this.open?.campaign.leading !== undefined;
  }

  /** Of the term it leads, or led last. */
  get term(): bigint {
    return this.led.at(-1) ?? 0n;
  }

  get name(): string {
    return `"${this.candidate.id}" at ${this.sidecar.name}`;
  }

  resign(): void {
    if (this.resignedMs === Infinity) this.resignedMs = this.time.nowMs;
    this.time.at(this.sidecar, 1, () => this.open?.campaign.resign("the candidate has left"));
  }

  /** Its sidecar has died. */
  die(): void {
    this.endedMs = Math.min(this.endedMs, this.time.nowMs);
  }

  fallSilent(ms: number): void {
    this.silentUntilMs = this.time.nowMs + ms;
    this.wasSilent = true;
  }

  /** Whether anything but the store may end its leadership at this time, for this reason. */
  hasGivenUp(atMs: number): boolean {
    return (
      atMs >= this.resignedMs ||
      atMs >= this.endedMs ||
      this.handOvers.some(({ fromMs, untilMs, outcome }) => {
        const isDone = outcome !== undefined && outcome !== "ok" && outcome !== "STORE_UNREACHABLE";
        return atMs >= fromMs && (!isDone || atMs <= untilMs);
      })
    );
  }

  private get isSilent(): boolean {
    return this.time.nowMs < this.silentUntilMs;
  }

  private say(ms: number, what: (open: OpenCampaign) => void): void {
    this.time.at(undefined, ms, () => {
      if (this.isSilent || this.isOver) return;
      this.time.at(this.sidecar, 1, () => this.open && !this.isOver && what(this.open));
    });
  }

  private keepAlive(withinMs: number): void {
    this.say(0, ({ campaign }) => campaign.alive());
    this.time.at(undefined, withinMs / 3, () => {
      if (!this.isOver) this.keepAlive(withinMs);
    });
  }

  private end(outcome: unknown): void {
    if (this.isOver) return;
    this.endedMs = this.time.nowMs;
    if (outcome instanceof OplogError) this.outcome = outcome;
    else if (outcome instanceof Error) this.violations.push(`${this.name} ended with ${outcome.stack}`);
    else this.outcome = outcome as Lost;
  }

  /** What the sidecar sends: told at that moment, whenever it arrives. */
  private hear(message: CampaignMessage): boolean {
    if (this.isOver) {
      this.violations.push(`${this.name} was told ${message.kind} after its end`);
      return true;
    }
    if (this.isSilent && this.dice.chance(0.3)) {
      // An answer to "the newest" would be taken for one to this.
      if (message.kind === "prepare") this.prepared = undefined;
      if (message.kind === "leading") this.hasMissedLeading = true;
      return false;
    }
    switch (message.kind) {
      case "waiting":
        if (this.led.length > 0) this.violations.push(`${this.name} was told to wait after it had led ${this.term}`);
        break;
      case "prepare":
        this.prepare(message.term, message.final.id);
        break;
      case "leading":
        this.lead(message.term, message.nextSequenceId);
        break;
      case "lease renewed":
        if (this.led.length === 0) this.violations.push(`${this.name} was promised a lease before it led`);
        this.promised.push({
          term: this.term,
          fromMs: this.time.nowMs,
          untilMs: this.time.nowMs + Math.floor(message.validUntilMs - this.time.clock.monotonicMs()),
        });
    }
    return true;
  }

  private prepare(term: bigint, final: bigint): void {
    this.prepared = { term, final };
    if (!this.candidate.needsHandshake) return;
    const { dice } = this;
    const bad: Answer[] = ["late", "wrong", "never", "of an older term"];
    const answer = !this.isWell && dice.chance(0.15) ? bad[dice.below(bad.length)]! : "right";
    this.answers.push(answer);
    if (answer === "never") return;
    const delayMs = this.candidate.readyTimeoutMs * (answer === "late" ? 1.5 : dice.roll() * 0.6);
    const wrong = final > 0n && dice.chance(0.5) ? final - 1n : final + 1n;
    const applied = answer === "wrong" ? wrong : final;
    const ofTerm = answer === "of an older term" ? term - 1n : dice.chance(0.5) || answer === "late" ? term : 0n;
    this.say(delayMs, ({ campaign }) => {
      if (ofTerm === 0n && this.prepared?.final !== final) return;
      this.answered.add(answerTo(ofTerm === 0n ? this.prepared!.term : ofTerm, applied));
      const { view } = this.sidecar;
      const appliedChain = view !== undefined && BigInt(view.applied) === applied ? view.appliedChain : "";
      campaign.ready({ applied, stateHash: new Uint8Array(), appliedChain, term: ofTerm });
    });
  }

  private lead(term: bigint, next: bigint): void {
    const { candidate, led, sidecar, violations } = this;
    const final = next - 1n;
    if (led.length > 0 && term <= this.term) violations.push(`${this.name} leads term ${term} after ${this.term}`);
    // Between a first term that it was not told of and a further one, others may have appended here.
    if (led.length === 0 && !this.hasMissedLeading) {
      if (this.prepared !== undefined && this.prepared.final !== final) {
        violations.push(`${this.name} leads from ${next}, was to prepare for ${this.prepared?.final}`);
      }
      if (candidate.needsHandshake && !this.answered.has(answerTo(this.prepared?.term ?? term, final))) {
        violations.push(`${this.name} leads from ${next}, had answered ${[...this.answered]}`);
      }
      const { view } = sidecar;
      if (view !== undefined && BigInt(view.state.applied) < final) {
        violations.push(`${this.name} leads from ${next}, the view had applied ${view.state.applied}`);
      }
    }
    led.push(term);
    sidecar.finals.set(term, final);
  }

  /** That the end it came to was due. */
  judgeEnd(isByToken: boolean, isTakenBy: (term: bigint) => boolean, hasNamesake: boolean): void {
    const { outcome, violations, name } = this;
    if (outcome === undefined) return;
    if (outcome instanceof OplogError) {
      const isDue =
        (outcome.reason === "LEADERSHIP_BY_TOKEN" && isByToken) ||
        (outcome.reason === "CANDIDATE_EXISTS" && hasNamesake && this.led.length === 0) ||
        (["NOT_CAUGHT_UP", "BEYOND_HEAD"].includes(outcome.reason) && this.answers.includes("wrong"));
      if (!isDue) violations.push(`${name} was refused: ${outcome.message}`);
      return;
    }
    const hasGivenUp = this.resignedMs !== Infinity;
    const due: Record<Lost["reason"], () => boolean> = {
      resigned: () => hasGivenUp,
      silent: () => this.wasSilent || this.sidecar.wasPaused,
      "handed over": () => this.handOvers.some(({ outcome: each }) => each !== "HAND_OVER_ABANDONED"),
      fenced: () => isByToken || isTakenBy(this.term),
      "not ready": () => this.answers.some((each) => each !== "right") || this.wasSilent || this.sidecar.wasTroubled,
      expired: () => this.sidecar.wasTroubled,
      "store unreachable": () => this.sidecar.wasTroubled,
      "store replaced": () => false,
    };
    if (!due[outcome.reason]())
      violations.push(
        `${name} lost for no reason: ${outcome.reason}, ${outcome.message}; hand-overs ${this.handOvers.map((h) => h.outcome)}`,
      );
  }
}
