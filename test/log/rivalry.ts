import { fromBinary } from "@bufbuild/protobuf";
import { TermSchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import { OplogError } from "../../src/oplog/errors.js";
import { StoreError, type TxnRequest, type TxnResult } from "../../src/oplog/kv-store.js";
import { NotPrimaryError } from "../../src/oplog/leadership-errors.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import type { Resolution } from "../../src/oplog/operation-window.js";
import { decodeRecord } from "../../src/oplog/record.js";
import { type AppendOutcome, QueueBudget } from "../../src/writing/append-item.js";
import { BadNetwork } from "./bad-network.js";
import {
  anAppend,
  anIdentity,
  aWriter,
  Dice,
  inTime,
  keysOf,
  passTime,
  readAtRest,
  resolveFromStore,
  type TestWriter,
  testClock,
} from "./support.js";

const keys = keysOf();
const WRITE_DEADLINE_MS = 300;

/** The one store that all fight over; checks at every commit what must hold at that very moment. */
class ArbiterStore extends MemoryKvStore {
  private head = 0n;
  private term = 0n;
  readonly violations: string[] = [];

  override async txn(request: TxnRequest): Promise<TxnResult> {
    const result = await super.txn(request);
    if (!result.succeeded) return result;
    // The store applies a transaction when it is called, so these lines run in the order of the commits.
    for (const write of request.writes) {
      if (write.kind !== "put") continue;
      if (write.key === keys.term) this.term = fromBinary(TermSchema, write.value).term;
      if (keys.recordId(write.key) !== undefined) this.check(Buffer.from(write.value));
    }
    return result;
  }

  private check(record: Buffer): void {
    const { firstSequenceId: first, lastSequenceId: last, term } = decodeRecord(record).header;
    if (term !== this.term)
      this.violations.push(`${first}..${last} committed under term ${term}, claimed is ${this.term}`);
    if (first !== this.head + 1n) this.violations.push(`${first}..${last} committed after ${this.head}`);
    this.head = last;
  }
}

/** A sidecar with a network of its own to the store. */
class Contender {
  readonly network: BadNetwork;
  readonly budget = new QueueBudget(1 << 20, 1000);
  private readonly identity;
  private current: TestWriter | undefined;
  private isClaiming = false;

  constructor(name: string, store: ArbiterStore, dice: Dice) {
    this.network = new BadNetwork(store, dice);
    this.identity = anIdentity(name);
  }

  get leads(): TestWriter | undefined {
    return this.current?.writer.end === undefined ? this.current : undefined;
  }

  async claim(): Promise<void> {
    if (this.isClaiming) return;
    this.isClaiming = true;
    const { network, identity, budget } = this;
    const record = { entriesMax: 6 };
    try {
      this.current = await aWriter(network, { identity, budget, record, writeDeadlineMs: WRITE_DEADLINE_MS });
    } catch (error) {
      if (!(error instanceof StoreError || error instanceof NotPrimaryError)) throw error;
    } finally {
      this.isClaiming = false;
    }
  }

  async retire(): Promise<void> {
    this.current?.abort();
    await this.current?.running;
  }
}

/** Sends one operation after the other, each until it is answered for good. */
class Client {
  operation = 1n;
  readonly acknowledged = new Map<bigint, string>();
  private pending: AppendOutcome | "sent" | undefined;

  constructor(
    readonly writerId: string,
    private readonly history: History,
  ) {}

  act(contender: Contender, dice: Dice): void {
    if (this.pending === "sent") return;
    // Now and then a retry of what has been acknowledged already.
    const operation = this.operation > 1n && dice.chance(0.2) ? this.operation - 1n : this.operation;
    const content = `${this.writerId}/${operation}`;
    const append = anAppend().by(this.writerId, operation).saying(content);
    this.pending = "sent";
    const sent = trySend(contender, append.with({ onSettled: (outcome) => this.answered(operation, outcome) }));
    if (!sent) this.pending = undefined;
  }

  private answered(operation: bigint, outcome: AppendOutcome): void {
    this.pending = undefined;
    if ("error" in outcome) {
      const { reason } = outcome.error;
      if (reason === "OPERATION_ID_USED" && this.history.wasAskedAbout(this.writerId, operation)) {
        if (operation === this.operation) this.operation++;
        return;
      }
      const isExpected = [
        "NOT_PRIMARY",
        "OUTCOME_UNKNOWN",
        "STORE_UNREACHABLE",
        "STORE_REFUSED",
        "SHUTTING_DOWN",
        "RULED_OUT",
      ];
      if (!isExpected.includes(reason)) {
        this.history.violations.push(`${this.writerId}/${operation} was refused: ${outcome.error.message}`);
      }
      return;
    }
    const { first, last, term } = outcome.appended;
    const ids = `${first}..${last} of term ${term}`;
    const before = this.acknowledged.get(operation) ?? ids;
    if (before !== ids) this.history.violations.push(`${this.writerId}/${operation} was ${before}, and again ${ids}`);
    this.acknowledged.set(operation, ids);
    if (operation === this.operation) this.operation++;
  }
}

class History {
  readonly violations: string[] = [];
  /** Of appends without an operation id: what each was told. */
  readonly plain = new Map<string, string>();
  /** What a ResolveAppend has answered, for each operation that one was made about. */
  private readonly answers = new Map<string, Resolution[]>();
  answered = 0;
  notCommitted = 0;
  private sent = 0;

  wasAskedAbout(writerId: string, operationId: bigint): boolean {
    return this.answers.has(`${writerId}/${operationId}`);
  }

  ask(writerId: string, operationId: bigint, answer: Promise<Resolution | undefined>): void {
    const operation = `${writerId}/${operationId}`;
    const answers = this.answers.get(operation) ?? [];
    this.answers.set(operation, answers);
    answer.then(
      (resolution) => {
        if (resolution === undefined) return;
        this.answered++;
        if (resolution.outcome === "not committed") this.notCommitted++;
        answers.push(resolution);
      },
      (error: unknown) => {
        const isExpected =
          error instanceof StoreError || (error instanceof OplogError && error.reason === "LOG_NOT_FOUND");
        if (!isExpected) this.violations.push(`asked about ${operation}: ${String(error)}`);
      },
    );
  }

  /** Each answer against the log as it is in the end. */
  falseAnswers(found: ReadonlyMap<string, readonly bigint[]>): string[] {
    return [...this.answers].flatMap(([operation, answers]) => {
      const [at] = found.get(operation) ?? [];
      return answers
        .filter((answer) =>
          answer.outcome === "committed"
            ? !operation.endsWith("/0") && answer.operation.first !== at
            : answer.outcome === "not committed" && at !== undefined,
        )
        .map((answer) => `${operation} was called ${answer.outcome}, the log has it at ${at}`);
    });
  }

  sendPlain(contender: Contender, dice: Dice): void {
    const content = `plain/${this.sent++}`;
    const onSettled = (outcome: AppendOutcome) => {
      this.plain.set(content, "error" in outcome ? outcome.error.reason : String(outcome.appended.first));
    };
    const count = 1 + dice.below(3);
    const payload = Buffer.from(content);
    const entries = Array.from({ length: count }, () => ({ opType: 1, key: "p", payload }));
    trySend(contender, anAppend().with({ entries, onSettled }));
  }
}

function trySend(contender: Contender, append: ReturnType<typeof anAppend>): boolean {
  const { leads } = contender;
  if (leads === undefined) return false;
  try {
    leads.append(append);
    return true;
  } catch (error) {
    if (error instanceof OplogError) return false;
    throw error;
  }
}

export interface Verdict {
  readonly violations: string[];
  readonly commits: number;
  readonly terms: number;
  readonly unknown: number;
  /** Questions that were answered, with whatever. */
  readonly resolved: number;
  readonly notCommitted: number;
}

/** Two sidecars and three clients for so many steps, then peace; tells what was violated. */
export async function rivalry(seed: number, steps: number): Promise<Verdict> {
  const dice = new Dice(seed);
  const store = new ArbiterStore({ clock: testClock });
  const history = new History();
  const contenders = ["a", "b"].map((name) => new Contender(name, store, dice));
  const clients = ["u", "v", "w"].map((writerId) => new Client(writerId, history));
  const someone = () => contenders[dice.below(2)]!;

  for (let step = 0; step < steps; step++) {
    const roll = dice.roll();
    if (roll < 0.36) clients[dice.below(3)]!.act(someone(), dice);
    else if (roll < 0.52) history.sendPlain(someone(), dice);
    else if (roll < 0.62) someone().network.misbehave();
    else if (roll < 0.69) someone().network.deliverLate();
    else if (roll < 0.73) void someone().claim();
    else if (roll < 0.86) resolveSomething(someone(), clients[dice.below(3)]!, history, dice);
    else await passTime(dice.below(60));
    if (contenders.every(({ leads }) => leads === undefined) && dice.chance(0.3)) void someone().claim();
  }

  for (const contender of contenders) contender.network.heal();
  await passTime(WRITE_DEADLINE_MS * 3);
  for (const contender of contenders) {
    await inTime(contender.retire());
    const { bytes, appends } = contender.budget;
    if (bytes !== 0 || appends !== 0)
      history.violations.push(`the budget is left with ${bytes} bytes, ${appends} appends`);
  }
  await finish(store, clients, history);
  return judge(store, clients, history);
}

/** At the leader as it believes to be, or at one that does not lead, through a network as bad as theirs. */
function resolveSomething(contender: Contender, client: Client, history: History, dice: Dice): void {
  const nobody = dice.chance(0.1);
  const writerId = nobody ? `nobody ${dice.below(4)}` : client.writerId;
  // Mostly the one that is being sent, or the next one.
  const from = client.operation + BigInt(dice.below(5)) - 3n;
  const id = from < 0n ? 0n : from;
  const { leads, network } = contender;
  const answer =
    leads !== undefined && dice.chance(0.6)
      ? leads.writer.resolve(writerId, id)
      : resolveFromStore(network, keys, writerId, id);
  history.ask(writerId, id, answer);
}

/** Every client gets its answer in the end, from a sidecar that has seen nothing of it all. */
async function finish(store: ArbiterStore, clients: readonly Client[], history: History): Promise<void> {
  const last = await inTime(aWriter(store, { identity: anIdentity("c") }));
  for (const { writerId, operation, acknowledged } of clients) {
    for (const id of [...acknowledged.keys(), operation]) {
      const append = last.append(anAppend().by(writerId, id).saying(`${writerId}/${id}`));
      const outcome = await inTime(append.outcome);
      if ("error" in outcome) {
        if (!acknowledged.has(id) && history.wasAskedAbout(writerId, id)) continue;
        history.violations.push(`in the end ${writerId}/${id} is refused: ${outcome.error.message}`);
        continue;
      }
      const { first, last: to, term, isDuplicate } = outcome.appended;
      const ids = `${first}..${to} of term ${term}`;
      const before = acknowledged.get(id);
      if (before !== undefined && (before !== ids || !isDuplicate)) {
        history.violations.push(`${writerId}/${id} was ${before}, in the end ${ids}`);
      }
      acknowledged.set(id, ids);
    }
  }
  last.writer.drain();
  await inTime(last.running);
}

async function judge(store: ArbiterStore, clients: readonly Client[], history: History): Promise<Verdict> {
  const violations = [...history.violations, ...store.violations];
  const records = await readAtRest(store, keys);
  const found = new Map<string, bigint[]>();
  for (const { sequenceId, payload } of records.flatMap(({ entries }) => entries)) {
    const content = Buffer.from(payload).toString();
    found.set(content, [...(found.get(content) ?? []), sequenceId]);
  }
  for (const { writerId, acknowledged } of clients) {
    for (const [operation, ids] of acknowledged) {
      const at = found.get(`${writerId}/${operation}`) ?? [];
      if (at.length !== 1 || !ids.startsWith(`${at[0]}..${at[0]} `)) {
        violations.push(`${writerId}/${operation} was acknowledged as ${ids}, the log has it at [${at}]`);
      }
    }
  }
  for (const [content, told] of history.plain) {
    const at = found.get(content) ?? [];
    const isContiguous = at.every((id, index) => id === at[0]! + BigInt(index));
    const isTrue = /^\d+$/.test(told) ? String(at[0]) === told : told === "OUTCOME_UNKNOWN" || at.length === 0;
    if (!isTrue || !isContiguous || at.length > 3)
      violations.push(`${content} was told ${told}, the log has it at [${at}]`);
  }
  violations.push(...history.falseAnswers(found));
  return {
    violations,
    resolved: history.answered,
    notCommitted: history.notCommitted,
    commits: records.length,
    terms: new Set(records.map(({ term }) => term)).size,
    unknown: [...history.plain.values()].filter((told) => told === "OUTCOME_UNKNOWN").length,
  };
}
