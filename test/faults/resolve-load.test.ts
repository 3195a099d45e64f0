import { setTimeout as pause } from "node:timers/promises";
import { expect, it } from "vitest";
import { Appender } from "../../src/client/appender.js";
import type { OplogClient } from "../../src/client/client.js";
import { OplogRpcError } from "../../src/client/errors.js";
import {
  ResolveAppendResponse_Outcome as Outcome,
  type ResolveAppendResponse,
} from "../../src/gen/oplog/v1/oplog_pb.js";
import { machineMs } from "./candidate.js";
import { randomOf, SEED, scaled } from "./scale.js";
import { aClientOf, anEtcd, anOplogd, put } from "./stage.js";

const LOG = "orders";
const WRITERS = 20;
const TICK_MS = 10;
const APPENDS_PER_TICK = 10;
const QUESTIONS_PER_SECOND = 100;
const ROUNDS = 2;
/** Of one round without questions; one with them takes as long, or longer for as many answers as are judged. */
const QUIET_MS = scaled(3000, 15_000);
const ASKED_MS = scaled(3000, 52_000);
/** A machine that runs other tests beside is no measure. */
const SHARE_MIN = scaled(0.5, 0.95);

it.each([
  ["and the leader answers", []],
  ["and the leader cannot be asked", ["--advertise", "127.0.0.1:1"]],
] as const)(
  `a hundred questions a second at a standby cost the leader nothing and no term, %s (seed ${SEED})`,
  async (_, args) => {
    const store = { etcd: (await anEtcd()).endpoint };
    const leader = aClientOf(await anOplogd({ store, args: ["--sidecar-id", "leader", ...args] }));
    const standby = aClientOf(await anOplogd({ store, args: ["--sidecar-id", "standby"] }));
    const writers = new Writers(leader);
    await writers.run(500);
    const asker = new Asker(standby, writers);
    const rates = { quiet: [] as number[], asked: [] as number[] };
    for (let round = 0; round < ROUNDS; round++) {
      rates.quiet.push(await writers.run(QUIET_MS));
      const asking = asker.run(ASKED_MS);
      rates.asked.push(await writers.run(ASKED_MS));
      await asking;
    }
    const { leader: who } = (await standby.getStatus({ log: LOG })).log!;
    const found = await operationsIn(leader);
    const share = sum(rates.asked) / sum(rates.quiet);
    const told = { ...rates, share, ...asker.counts, refused: writers.refused };
    console.info(`questions: ${JSON.stringify(told)}`);
    expect(asker.falseAnswers(found)).toEqual([]);
    expect(who?.term).toBe(1n);
    expect(share).toBeGreaterThan(SHARE_MIN);
    expect(asker.answers.length).toBeGreaterThan((ROUNDS * ASKED_MS * QUESTIONS_PER_SECOND * 0.8) / 1000);
    expect(asker.counts.notCommitted).toBeGreaterThan(asker.answers.length / 100);
    expect(asker.counts.committed).toBeGreaterThan(asker.answers.length / 5);
  },
  300_000 + ROUNDS * (QUIET_MS + ASKED_MS),
);

/** Each sends one operation after the other, all together at 1,000 appends a second. */
class Writers {
  readonly operations = new Array<bigint>(WRITERS).fill(0n);
  refused = 0;
  private acknowledged = 0;
  private next = 0;

  constructor(private readonly client: OplogClient) {}

  /** Acknowledged appends a second. */
  async run(forMs: number): Promise<number> {
    const appender = new Appender(this.client.appendStream());
    const before = this.acknowledged;
    const startedMs = machineMs();
    const sent: Promise<void>[] = [];
    for (let dueMs = startedMs; dueMs < startedMs + forMs; dueMs += TICK_MS) {
      await pause(Math.max(0, dueMs - machineMs()));
      for (let index = 0; index < APPENDS_PER_TICK; index++) sent.push(this.send(appender));
      await appender.ready();
    }
    const unanswered = (await Promise.allSettled(sent)).filter(({ status }) => status === "rejected");
    if (unanswered.length > 0) throw new Error(`${unanswered.length} appends failed`, { cause: unanswered[0] });
    const tookMs = machineMs() - startedMs;
    await appender.end();
    return Math.round(((this.acknowledged - before) * 1000) / tookMs);
  }

  private async send(appender: Appender): Promise<void> {
    const index = this.next++ % WRITERS;
    const operationId = ++this.operations[index]!;
    const writerId = `writer ${index}`;
    try {
      await appender.append({ log: LOG, writerId, operationId, entries: [put(`${writerId}/${operationId}`)] });
      this.acknowledged++;
    } catch (error) {
      // The asker was told before that it is not committed; that is an answer as well.
      if (!(error instanceof OplogRpcError) || error.reason !== "OPERATION_ID_USED") throw error;
      this.refused++;
      this.acknowledged++;
    }
  }
}

interface Answer {
  readonly operation: string;
  readonly response: ResolveAppendResponse;
}

class Asker {
  readonly answers: Answer[] = [];
  readonly failures: string[] = [];
  private readonly random = randomOf(SEED);

  constructor(
    private readonly client: OplogClient,
    private readonly writers: Writers,
  ) {}

  async run(forMs: number): Promise<void> {
    const startedMs = machineMs();
    const asked: Promise<void>[] = [];
    for (let dueMs = startedMs; dueMs < startedMs + forMs; dueMs += 1000 / QUESTIONS_PER_SECOND) {
      await pause(Math.max(0, dueMs - machineMs()));
      asked.push(this.ask());
    }
    await Promise.all(asked);
  }

  get counts() {
    const count = (outcome: Outcome) => this.answers.filter(({ response }) => response.outcome === outcome).length;
    return {
      committed: count(Outcome.COMMITTED),
      notCommitted: count(Outcome.NOT_COMMITTED),
      unknown: count(Outcome.UNKNOWN),
      failed: this.failures.length,
    };
  }

  falseAnswers(found: ReadonlyMap<string, bigint>): string[] {
    return this.answers
      .filter(({ operation, response }) => {
        const at = found.get(operation);
        if (response.outcome === Outcome.COMMITTED) return !operation.endsWith("/0") && at !== response.firstSequenceId;
        return response.outcome === Outcome.NOT_COMMITTED && at !== undefined;
      })
      .map(
        ({ operation, response }) =>
          `${operation}: ${Outcome[response.outcome]}, in the log at ${found.get(operation)}`,
      );
  }

  /** Of what was sent lately, of what is about to be sent, of the highest, and of a writer that never was. */
  private async ask(): Promise<void> {
    const { random } = this;
    const index = Math.floor(random() * WRITERS);
    const isNobody = random() < 0.05;
    const writerId = isNobody ? `nobody ${Math.floor(random() * 50)}` : `writer ${index}`;
    const near = (isNobody ? 1n : this.writers.operations[index]!) + BigInt(Math.floor(random() * 16) - 8);
    const operationId = random() < 0.1 || near < 0n ? 0n : near;
    try {
      const response = await this.client.resolveAppend({ log: LOG, writerId, operationId });
      this.answers.push({ operation: `${writerId}/${operationId}`, response });
    } catch (error) {
      if (!(error instanceof OplogRpcError)) throw error;
      this.failures.push(`${error.code} ${error.reason}`);
    }
  }
}

/** Where each operation is. */
async function operationsIn(client: OplogClient): Promise<Map<string, bigint>> {
  const found = new Map<string, bigint>();
  for (let from = 1n; ; ) {
    const page = await client.read({ log: LOG, fromSequenceId: from, maxEntries: 10_000 });
    for (const { payload, sequenceId } of page.entries) found.set(Buffer.from(payload).toString(), sequenceId);
    from = page.nextSequenceId;
    if (from > page.headSequenceId) return found;
  }
}

const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);
