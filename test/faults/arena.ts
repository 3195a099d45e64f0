import { OplogRpcError } from "../../src/client/errors.js";
import { isTransient } from "../../src/client/follow.js";
import { History } from "../support/history.js";
import { LeadershipHistory } from "../support/leadership-history.js";
import { waitFor } from "../support/wait.js";
import { machineMs } from "./candidate.js";
import type { Records } from "./master.js";
import { RecordingFollower, readBack } from "./recording-follower.js";
import { Side, type SidePlan } from "./side.js";
import { atEnd } from "./stage.js";
import { StoreWatch, type WatchedEtcd } from "./store-watch.js";

const FOLLOW_MS_MAX = 20_000;

/** Sides that stand for one log, each with a follower, and the record of all that they do. */
export class Arena {
  private constructor(
    readonly sides: readonly Side[],
    readonly records: Records,
    private readonly log: string,
    private readonly watch: StoreWatch,
    private readonly followers: readonly RecordingFollower[],
  ) {}

  static async start(etcd: WatchedEtcd, log: string, plans: readonly SidePlan[]): Promise<Arena> {
    const records = { history: new History(), leadership: new LeadershipHistory() };
    const watch = new StoreWatch(etcd, log, records.leadership);
    atEnd(() => watch.close());
    const sides = await Promise.all(plans.map((plan) => Side.start(plan, records)));
    const followers = sides.map(
      ({ name, client }) => new RecordingFollower(client, records.history, log, `follower-${name}`),
    );
    return new Arena(sides, records, log, watch, followers);
  }

  /** The side that leads, by the newest term that any was told. */
  async leader(): Promise<Side> {
    const leading = () => this.sides.filter(({ master }) => master.term !== undefined);
    await waitFor(() => leading().length > 0, { what: "a side to lead" });
    return leading().sort((a, b) => b.master.term! - a.master.term!)[0]!;
  }

  /** That a master was told to lead; the watch of the test may hang at a member that is away. */
  get newestTerm(): number {
    return this.records.leadership.newestTold;
  }

  /** When and where the first append was acknowledged after that moment, whenever it was sent. */
  async nextAcknowledged(afterMs: number, deadlineMs: number): Promise<{ side: Side; atMs: number; term: number }> {
    const found = () => {
      const answers = this.sides.flatMap((side) =>
        side.master.acknowledged.filter(({ atMs }) => atMs >= afterMs).map(({ atMs, term }) => ({ side, atMs, term })),
      );
      return answers.sort((a, b) => a.atMs - b.atMs)[0];
    };
    return (await waitFor(found, { deadlineMs, what: "an append to be acknowledged" }))!;
  }

  /** When the first append was acknowledged that was sent after that moment. */
  async isAppendedTo(sentMs: number, deadlineMs: number): Promise<number> {
    const found = () => {
      const answers = this.sides.flatMap(({ master }) => master.acknowledged.filter((each) => each.sentMs >= sentMs));
      return answers.length === 0 ? undefined : Math.min(...answers.map(({ atMs }) => atMs));
    };
    return (await waitFor(found, { deadlineMs, what: "an append to be acknowledged" }))!;
  }

  /** The longest time within these in which no append was acknowledged. */
  silenceMs(fromMs: number, toMs: number): number {
    const acknowledged = this.sides.flatMap(({ master }) => master.acknowledged.map(({ atMs }) => atMs));
    const times = [fromMs, ...acknowledged.filter((atMs) => atMs > fromMs && atMs < toMs), toMs].sort((a, b) => a - b);
    return Math.round(Math.max(...times.slice(1).map((atMs, index) => atMs - times[index]!)));
  }

  /** While nobody appends, so that everything that there is to see has been seen. Empty when every invariant holds. */
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

  /** Its sidecar may just be on its way back to etcd. */
  private async readOn(): Promise<number> {
    const read = () =>
      readBack(this.sides[0]!.client, this.records.history, this.log).catch((error: unknown) => {
        if (error instanceof OplogRpcError && isTransient(error)) return undefined;
        throw error;
      });
    return (await waitFor(read, { what: "the log to be readable" }))!;
  }
}

export async function elapsed(ms: number): Promise<void> {
  const untilMs = machineMs() + ms;
  await waitFor(() => machineMs() >= untilMs, { deadlineMs: 2 * ms + 1_000, what: `${Math.round(ms)} ms to pass` });
}
