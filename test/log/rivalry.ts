import { fromBinary } from "@bufbuild/protobuf";
import { TermSchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import { NotPrimaryError, OplogError } from "../../src/oplog/errors.js";
import { StoreError, type TxnRequest, type TxnResult } from "../../src/oplog/kv-store.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { decodeRecord } from "../../src/oplog/record.js";
import { type AppendOutcome, QueueBudget } from "../../src/writing/append-item.js";
import { resolveFromStore } from "../../src/writing/resolve.js";
import { FaultyKvStore, type HeldTxn } from "../support/faulty-kv-store.js";
import {
  anAppend,
  anIdentity,
  aWriter,
  Dice,
  inTime,
  keysOf,
  passTime,
  readAtRest,
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
  readonly network: FaultyKvStore;
  readonly budget = new QueueBudget(1 << 20, 1000);
  private readonly identity;
  private readonly held: HeldTxn[] = [];
  private current: TestWriter | undefined;
  private isClaiming = false;

  constructor(
    name: string,
    store: ArbiterStore,
    private readonly dice: Dice,
  ) {
    this.network = new FaultyKvStore(store);
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

  misbehave(): void {
    const { network, dice } = this;
    const faults = [
      () => network.failNextTxns(1 + dice.below(3)),
      () => network.loseNextReplies(1 + dice.below(2)),
      () => this.held.push(network.holdNextTxn()),
      () => network.refuseNextTxns(1),
      () => network.goAway(),
      () => network.comeBack(),
      () => network.comeBack(),
    ];
    faults[dice.below(faults.length)]!();
  }

  /** A transaction from long ago reaches the store. */
  deliverLate(): void {
    const [late] = this.held.splice(0, 1);
    late?.applyNow().catch(() => undefined);
  }

  heal(): void {
    this.network.comeBack();
    while (this.held.length > 0) this.deliverLate();
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
      const isExpected = [
        "NOT_PRIMARY",
        "OUTCOME_UNKNOWN",
        "STORE_UNREACHABLE",
        "STORE_REFUSED",
        "SHUTTING_DOWN",
        "RULED_OUT",
      ];
      if (!isExpected.includes(outcome.error.reason)) {
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
  private sent = 0;

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
    if (roll < 0.4) clients[dice.below(3)]!.act(someone(), dice);
    else if (roll < 0.6) history.sendPlain(someone(), dice);
    else if (roll < 0.72) someone().misbehave();
    else if (roll < 0.8) someone().deliverLate();
    else if (roll < 0.84) void someone().claim();
    else if (roll < 0.86) await checkResolution(store, clients[dice.below(3)]!, history);
    else await passTime(dice.below(60));
    if (contenders.every(({ leads }) => leads === undefined) && dice.chance(0.3)) void someone().claim();
  }

  for (const contender of contenders) contender.heal();
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

async function checkResolution(store: ArbiterStore, client: Client, history: History): Promise<void> {
  if ((await store.get(keys.head)).pair === undefined) return;
  const { writerId, operation: id } = client;
  const isThere = async () =>
    (await readAtRest(store, keys)).some(({ operations }) =>
      operations.some((each) => each.writerId === writerId && each.operationId === id),
    );
  const wasThere = await isThere();
  const outcome = (await resolveFromStore(store, keys, writerId, id))?.outcome;
  const isFalse = wasThere ? outcome === "not committed" : outcome === "committed" && !(await isThere());
  if (isFalse) history.violations.push(`${writerId}/${id} was${wasThere ? "" : " not"} there, resolved as ${outcome}`);
}

/** Every client gets its answer in the end, from a sidecar that has seen nothing of it all. */
async function finish(store: ArbiterStore, clients: readonly Client[], history: History): Promise<void> {
  const last = await inTime(aWriter(store, { identity: anIdentity("c") }));
  for (const { writerId, operation, acknowledged } of clients) {
    for (const id of [...acknowledged.keys(), operation]) {
      const append = last.append(anAppend().by(writerId, id).saying(`${writerId}/${id}`));
      const outcome = await inTime(append.outcome);
      if ("error" in outcome) {
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
  return {
    violations,
    commits: records.length,
    terms: new Set(records.map(({ term }) => term)).size,
    unknown: [...history.plain.values()].filter((told) => told === "OUTCOME_UNKNOWN").length,
  };
}
