import type { Head } from "../gen/oplog/store/v1/store_pb.js";
import type { Clock } from "../oplog/clock.js";
import type { LogKeys } from "../oplog/keys.js";
import { type KvStore, StoreUnreachableError } from "../oplog/kv-store.js";
import { LogReplacedError } from "../oplog/log-errors.js";
import type { OperationWindow, Resolution } from "../oplog/operation-window.js";
import { Backoff, sleep } from "../oplog/timing.js";
import { fenceOf, hex, isSameLog, requireHead } from "../stored/deletion.js";
import { Barriers, TOO_MANY_BARRIERS } from "./barriers.js";
import { type Question, Rulings } from "./rulings.js";
import { restoreMarks, restoreWindow } from "./window-restore.js";

const ATTEMPTS_MAX = 32;
const RETRY_FIRST_MS = 5;
const RETRY_MAX_MS = 50;

/**
 * Finds out from the store alone what became of operations. For a sidecar that does not lead, when the leader's sidecar does
 * not answer. Questions that come while an answer is being found share the next answer.
 *
 * Before an operation above its writer's highest is called not committed, it is ruled out by a barrier. From then on no
 * append that was started before can commit, because each append compares the barriers. So a head that is read afterwards
 * tells for good whether the operation was committed. The leader learns of the barrier at its next append and goes on.
 */
export class StoreResolver {
  private readonly rulings = new Rulings();
  private running: Promise<void> | undefined;

  constructor(
    private readonly store: KvStore,
    private readonly keys: LogKeys,
    private readonly clock: Clock,
  ) {}

  /** Rejects with OplogError and StoreError. */
  async resolve(writerId: string, operationId: bigint): Promise<Resolution> {
    const answer = this.rulings.ask(writerId, operationId);
    this.running ??= this.run().finally(() => {
      this.running = undefined;
    });
    return (await answer) ?? unknown("the store does not tell; ask again");
  }

  private async run(): Promise<void> {
    for (let dueMs = this.dueMs; dueMs !== undefined; dueMs = this.dueMs) {
      if (dueMs > 0) await sleep(this.clock, dueMs);
      const questions = this.rulings.takeDue(this.clock);
      try {
        await this.decide(questions);
      } catch (error) {
        for (const { fail } of questions) fail(error);
      }
    }
  }

  private get dueMs(): number | undefined {
    return this.rulings.dueInMs(this.clock);
  }

  private async decide(questions: readonly Question[]): Promise<void> {
    const before = await this.readHead(0n);
    const ruling = await this.ruleOut(questions, before, await this.marksOf(before));
    const head = await this.readHead(ruling.revision);
    if (!isSameLog(head.logId, before.logId)) throw new LogReplacedError(hex(before.logId), hex(head.logId));
    const marks = await this.marksOf(head);
    let window: OperationWindow | undefined;
    for (const question of questions) {
      const { writerId, operationId, settle } = question;
      let answer = marks.resolve(writerId, operationId);
      if (answer.outcome === "forgotten") {
        window ??= await restoreWindow(this.store, this.keys, this.clock, head);
        answer = window.resolve(writerId, operationId);
      }
      const because = ruling.refused.get(question);
      settle(because !== undefined && isOpen(answer, operationId) ? unknown(because, answer.highest) : answer);
    }
  }

  private marksOf(head: Head): Promise<OperationWindow> {
    return restoreMarks(this.store, this.keys, this.clock, head);
  }

  /** Answers the revision as of which all is ruled out that is not `refused`, with why. */
  private async ruleOut(questions: readonly Question[], seen: Head, marks: OperationWindow): Promise<StoreRuling> {
    const { store, keys, clock } = this;
    const headMs = Number(seen.timestampMs);
    const open = questions.filter(({ writerId, operationId }) =>
      isOpen(marks.resolve(writerId, operationId), operationId),
    );
    const refuseAll = (why: string) => new Map(open.map((question) => [question, why]));
    if (open.length === 0) return { revision: 0n, refused: new Map() };
    const backoff = new Backoff(this.clock, RETRY_FIRST_MS, RETRY_MAX_MS);
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      const fence = await fenceOf(store, keys, seen.logId);
      const { pair, revision: readRevision } = await store.get(keys.barriers);
      if (fence.term?.heedsBarriers !== true) {
        return { revision: 0n, refused: refuseAll("the leader is of a version that only tells itself; ask there") };
      }
      if (readRevision < fence.sinceRevision) throw new StoreUnreachableError("the store answers reads from the past");
      const barriers = Barriers.decode(pair);
      const refused = new Map<Question, string>();
      let hasNew = false;
      barriers.prune((writerId) => marks.highestOf(writerId));
      for (const question of open) {
        const { writerId, operationId } = question;
        const ruling = barriers.add(writerId, operationId, clock.wallMs(), headMs);
        if (ruling === "changed") hasNew = true;
        else if (ruling === "refused") refused.set(question, TOO_MANY_BARRIERS);
      }
      if (!hasNew) return { revision: pair?.modRevision ?? 0n, refused };
      const { succeeded, revision } = await store.txn({
        compares: [{ key: keys.barriers, modRevision: pair?.modRevision ?? 0n }, fence.compare],
        writes: [{ kind: "put", key: keys.barriers, value: barriers.encode() }],
      });
      if (succeeded) return { revision, refused };
      await sleep(this.clock, backoff.delayMs());
    }
    return { revision: 0n, refused: refuseAll("too many sidecars ask at this moment; ask again") };
  }

  /** As it was at this revision or later: an answer may come out of the past (etcd #20418). */
  private async readHead(revision: bigint): Promise<Head> {
    const backoff = new Backoff(this.clock, RETRY_FIRST_MS, RETRY_MAX_MS);
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      const read = await this.store.get(this.keys.head);
      if (read.revision >= revision) return requireHead(this.keys, read.pair);
      await sleep(this.clock, backoff.delayMs());
    }
    throw new StoreUnreachableError(`the store answers reads of before revision ${revision}`);
  }
}

interface StoreRuling {
  readonly revision: bigint;
  readonly refused: ReadonlyMap<Question, string>;
}

/** Not committed yet, and it might be. */
function isOpen({ outcome, highest }: Resolution, operationId: bigint): boolean {
  return outcome === "not committed" && operationId > highest;
}

function unknown(because: string, highest = 0n): Resolution {
  return { outcome: "unknown", highest, because };
}
