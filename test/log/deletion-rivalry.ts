import { fromBinary } from "@bufbuild/protobuf";
import { CursorSchema, HeadSchema, TermSchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import { BatchSchema } from "../../src/gen/oplog/v1/oplog_pb.js";
import type { Log } from "../../src/log/log.js";
import { OplogError } from "../../src/oplog/errors.js";
import { type GetResult, StoreError, type TxnRequest, type TxnResult } from "../../src/oplog/kv-store.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { decodeRecord, openBody } from "../../src/oplog/record.js";
import { aLog, aSubscriber, type Subscriber } from "../following/followers.js";
import { BadNetwork } from "./bad-network.js";
import { anAppend, anIdentity, Dice, inTime, keysOf, passTime, readAtRest, SETTINGS, testClock } from "./support.js";

const keys = keysOf();
const WRITE_DEADLINE_MS = 300;
const CONSUMERS = ["c", "d"];

/** One log of the name, from its making to the end. */
interface Life {
  readonly logId: string;
  readonly bornTerm: bigint;
  /** Contents of entries, by sequence id from 1. */
  readonly entries: string[];
  readonly operations: Set<string>;
}

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

/** The one store; checks at every commit what must hold at that very moment. */
class ArbiterStore extends MemoryKvStore {
  readonly lives: Life[] = [];
  readonly violations: string[] = [];
  /** The log that is there. */
  life: Life | undefined;
  private term = 0n;
  private isFenced = false;

  override async txn(request: TxnRequest): Promise<TxnResult> {
    const result = await super.txn(request);
    if (!result.succeeded) return result;
    for (const write of request.writes) {
      if (write.kind === "delete" && write.key === keys.head) this.life = undefined;
      if (write.kind === "put" && write.key === keys.term) this.noteTerm(write.value);
    }
    for (const write of request.writes)
      if (write.kind === "put") this.note(write.key, Buffer.from(write.value), request);
    return result;
  }

  private noteTerm(value: Uint8Array): void {
    const { term, deletedLogId } = fromBinary(TermSchema, value);
    if (term <= this.term) this.violations.push(`term ${term} after ${this.term}`);
    this.term = term;
    this.isFenced = deletedLogId.length > 0;
  }

  private note(key: string, value: Buffer, { compares }: TxnRequest): void {
    if (key === keys.head) {
      const logId = hex(fromBinary(HeadSchema, value).logId);
      if (this.life !== undefined && this.life.logId !== logId)
        this.violations.push("a log has taken another one's place");
      if (this.life !== undefined) return;
      this.life = { logId, bornTerm: this.term, entries: [], operations: new Set() };
      this.lives.push(this.life);
    } else if (keys.recordId(key) !== undefined) {
      this.noteRecord(value);
    } else if (key !== keys.term) {
      // A cursor that is there still may move until it is dropped.
      const isNew = !compares.some((compare) => compare.key === key && compare.modRevision > 0n);
      if (this.life === undefined || (this.isFenced && isNew)) this.violations.push(`${key} was put without a log`);
      if (!key.startsWith(keys.cursorsFrom)) return;
      const { appliedSequenceId: applied } = fromBinary(CursorSchema, value);
      const head = this.life?.entries.length ?? 0;
      if (applied > head) this.violations.push(`a cursor at ${applied}, the head is ${head}`);
    }
  }

  private noteRecord(value: Buffer): void {
    const record = decodeRecord(value);
    const { logId, term, firstSequenceId: first, operations } = record.header;
    const { life } = this;
    if (life === undefined || hex(logId) !== life.logId || term !== this.term || this.isFenced) {
      this.violations.push(`a record of term ${term} of ${hex(logId)}, the term is ${this.term}`);
      return;
    }
    if (first !== BigInt(life.entries.length + 1)) this.violations.push(`${first} after ${life.entries.length}`);
    for (const { payload } of fromBinary(BatchSchema, openBody(record)).entries)
      life.entries.push(Buffer.from(payload).toString());
    for (const { writerId, operationId } of operations)
      for (const id of operationId) life.operations.add(`${writerId}/${id}`);
  }
}

/** A sidecar with a network of its own to the store, and one who follows the log there. */
class Sidecar {
  readonly log: Log;
  readonly network: BadNetwork;
  private readonly past: { readonly key: string; readonly answer: GetResult }[] = [];
  private follower: Subscriber | undefined;

  constructor(
    name: string,
    private readonly store: ArbiterStore,
    private readonly dice: Dice,
    private readonly violations: string[],
  ) {
    this.network = new BadNetwork(store, dice, true);
    this.log = aLog(this.network, {
      identity: anIdentity(name),
      settings: { ...SETTINGS, writeDeadlineMs: WRITE_DEADLINE_MS },
      onBroken: (error) => void violations.push(`${name} broke: ${String(error)}`),
      onDiverged: (_, error) => void violations.push(`${name}: ${error.message}`),
    });
  }

  /** Of etcd #20418: what was read once is read again. */
  async remember(): Promise<void> {
    const names = [keys.head, keys.term, keys.barriers, ...CONSUMERS.map((consumer) => keys.cursor(consumer))];
    const key = names[this.dice.below(names.length)]!;
    this.past.push({ key, answer: await this.store.get(key) });
  }

  tellAgain(): void {
    const told = this.past[this.dice.below(this.past.length)];
    if (told !== undefined) this.network.answerFromPast(told.key, told.answer, 1 + this.dice.below(2));
  }

  follow(): number {
    const before = this.check();
    if (this.follower === undefined || this.follower.outcome() !== undefined) this.follower = aSubscriber(this.log);
    return before;
  }

  /** What the follower has seen is the beginning of one log. */
  check(): number {
    const seen = (this.follower?.sink.batches ?? []).flatMap(({ entries }) => entries);
    const isOf = ({ entries }: Life) =>
      seen.every(
        ({ sequenceId, payload }, at) =>
          sequenceId === BigInt(at + 1) && entries[at] === Buffer.from(payload).toString(),
      );
    if (seen.length > 0 && !this.store.lives.some(isOf))
      this.violations.push(`a follower has seen ${seen.length} entries of no one log`);
    return seen.length;
  }

  leave(): void {
    this.follower?.leave();
  }
}

function isExpected(error: unknown): boolean {
  if (error instanceof StoreError) return true;
  return error instanceof OplogError && !["DATA_LOSS", "HISTORY_DIVERGED"].includes(error.reason);
}

export async function deletionRivalry(seed: number, steps: number) {
  const dice = new Dice(seed);
  const store = new ArbiterStore({ clock: testClock });
  const violations: string[] = [];
  const sidecars = ["a", "b", "c"].map((name) => new Sidecar(name, store, dice, violations));
  const someone = () => sidecars[dice.below(sidecars.length)]!;
  const told = new Map<string, string>();
  const counts = { notCommitted: 0, seen: 0 };
  const logIds: Uint8Array[] = [];
  const quietly = (what: string, work: Promise<unknown>) =>
    work.catch((error: unknown) => {
      if (!isExpected(error)) violations.push(`${what}: ${String(error)}`);
    });
  let operation = 0n;

  const send = async ({ log }: Sidecar, content: string, id: bigint): Promise<void> => {
    const append = anAppend().by("w", id).saying(content).build();
    try {
      (await log.primary.lead()).append(append);
    } catch (error) {
      if (!isExpected(error)) violations.push(`lead: ${String(error)}`);
      told.set(content, "refused");
      return;
    }
    const outcome = await append.outcome;
    if (!("error" in outcome)) told.set(content, `${outcome.appended.first} of term ${outcome.appended.term}`);
    else told.set(content, outcome.error.reason === "OUTCOME_UNKNOWN" ? "unknown" : "refused");
  };
  const ask = async ({ log }: Sidecar, id: bigint): Promise<void> => {
    const { life } = store;
    const answer = await log.resolveAppend("w", id);
    if (answer.outcome !== "not committed" || life === undefined || store.life !== life) return;
    counts.notCommitted++;
    ruledOut.push({ life, operation: `w/${id}` });
  };
  const ruledOut: { readonly life: Life; readonly operation: string }[] = [];
  const remove = async ({ log }: Sidecar): Promise<void> => {
    const state = await log.observe();
    if (typeof state !== "string") logIds.push(state.logId);
    const logId = dice.chance(0.7) ? logIds.at(-1) : logIds[dice.below(logIds.length)];
    if (logId !== undefined) await log.delete(logId);
  };
  const report = ({ log }: Sidecar) =>
    log.updateCursor({
      consumer: CONSUMERS[dice.below(CONSUMERS.length)]!,
      received: BigInt(dice.below(6)),
      flushed: 0n,
      applied: 0n,
      stateHash: Buffer.alloc(0),
      appliedChain: "",
      isRewindAllowed: dice.chance(0.5),
    });

  for (let step = 0; step < steps; step++) {
    const roll = dice.roll();
    if (roll < 0.3) void send(someone(), `${++operation}`, operation);
    else if (roll < 0.36) void quietly("delete", remove(someone()));
    else if (roll < 0.46) someone().network.misbehave();
    else if (roll < 0.52) someone().network.deliverLate();
    else if (roll < 0.57) await someone().remember();
    else if (roll < 0.62) someone().tellAgain();
    else if (roll < 0.68) void quietly("report", report(someone()));
    else if (roll < 0.76) void quietly("ask", ask(someone(), operation + BigInt(dice.below(3)) - 1n));
    else if (roll < 0.82) counts.seen += someone().follow();
    else await passTime(dice.below(80));
  }

  for (const sidecar of sidecars) sidecar.network.heal();
  await passTime(10_000);
  for (const sidecar of sidecars) counts.seen += sidecar.check();
  const last = aLog(store, { identity: anIdentity("last") });
  const state = await inTime(last.observe());
  if (typeof state !== "string" && state.isDeleting) await inTime(last.delete(state.logId));
  violations.push(...store.violations);
  const there = store.life;
  if (there !== undefined) {
    const atRest = (await readAtRest(store, keys)).flatMap(({ entries }) => entries);
    expectSame(
      atRest.map(({ payload }) => Buffer.from(payload).toString()),
      there.entries,
      violations,
    );
  }
  for (const [content, answer] of told) {
    const lives = store.lives.filter(({ entries }) => entries.includes(content));
    if (answer === "refused" && lives.length > 0) violations.push(`${content} was refused, and is in a log`);
    if (answer === "refused" || answer === "unknown") continue;
    const [first, , , term] = answer.split(" ");
    const at = lives.map(({ entries }) => entries.indexOf(content) + 1);
    if (lives.length !== 1 || `${at[0]}` !== first || BigInt(term!) < lives[0]!.bornTerm)
      violations.push(`${content} was acknowledged as ${answer}, the logs have it at [${at}]`);
  }
  for (const { life, operation } of ruledOut)
    if (life.operations.has(operation)) violations.push(`${operation} was called not committed, and is in that log`);
  for (const sidecar of sidecars) sidecar.leave();
  await passTime(1000);
  return {
    violations,
    ...counts,
    logs: store.lives.length,
    commits: store.lives.reduce((sum, { entries }) => sum + entries.length, 0),
    acknowledged: [...told.values()].filter((answer) => /^\d/.test(answer)).length,
    unknown: [...told.values()].filter((answer) => answer === "unknown").length,
  };
}

function expectSame(found: readonly string[], committed: readonly string[], violations: string[]): void {
  if (found.join() !== committed.join()) violations.push(`the log has [${found}], committed were [${committed}]`);
}
