import { createHash } from "node:crypto";
import { crc32, crc32c } from "@node-rs/crc32";

export interface SentEntry {
  readonly opType: number;
  readonly key: string;
  readonly payload: Uint8Array;
}

export interface LoggedEntry extends SentEntry {
  readonly sequenceId: bigint;
  readonly term: bigint;
}

export interface Acknowledgement {
  readonly firstSequenceId: bigint;
  readonly lastSequenceId: bigint;
  readonly term: bigint;
}

/** Problems of one kind that are told; the rest is counted. */
const TOLD_MAX = 5;

/**
 * What writers sent and were answered, what subscribers saw, and the log as it is in the end; and whether that fits
 * together. Every entry that is sent must have a content of its own.
 *
 * An operation that was neither acknowledged nor refused has an unknown outcome: it may be in the log, once and whole.
 */
export class History {
  /** The whole log, read back when everything is over. */
  readonly log = new Sequence();
  private readonly operations = new Map<string, Operation>();
  private readonly subscribers = new Map<string, Sequence>();

  /** Called again for every resend of the same content. */
  sent(writerId: string, operationId: bigint, entries: readonly SentEntry[]): void {
    const name = nameOf(writerId, operationId);
    const before = this.operations.get(name);
    if (before?.outcome === "refused") before.outcome = "unknown";
    if (before !== undefined) return;
    this.operations.set(name, { contents: entries.map(contentOf), acknowledged: undefined, outcome: "unknown" });
  }

  /** Every answer counts, that of a retry too. */
  acknowledged(writerId: string, operationId: bigint, answer: Acknowledgement): void {
    const operation = this.operation(writerId, operationId);
    const { firstSequenceId, lastSequenceId, term } = answer;
    const ids = { first: Number(firstSequenceId), last: Number(lastSequenceId), term: Number(term) };
    const before = operation.acknowledged;
    if (before !== undefined && (before.first !== ids.first || before.last !== ids.last || before.term !== ids.term)) {
      operation.outcome = "answered twice";
    } else {
      operation.outcome = "acknowledged";
      operation.acknowledged = ids;
    }
  }

  /** Answered with an error that says: nothing was written. */
  refused(writerId: string, operationId: bigint): void {
    this.operation(writerId, operationId).outcome = "refused";
  }

  subscriber(name: string): Sequence {
    const sequence = this.subscribers.get(name) ?? new Sequence();
    this.subscribers.set(name, sequence);
    return sequence;
  }

  /** Empty when every invariant holds; `firstId` is where the log and every subscriber are to start. */
  violations(firstId = 1): string[] {
    const problems = new Problems();
    this.log.checkContiguous("the log", firstId, problems);
    this.log.checkTerms(problems);
    this.checkOperations(problems);
    this.checkOrigin(problems);
    for (const [name, sequence] of this.subscribers) {
      sequence.checkContiguous(`subscriber ${name}`, firstId, problems);
      sequence.checkAgrees(`subscriber ${name}`, this.log, problems);
    }
    return problems.told;
  }

  private checkOperations(problems: Problems): void {
    const positions = this.log.positionsByContent();
    for (const [name, { outcome, acknowledged, contents }] of this.operations) {
      const found = contents.map((content) => positions.get(content));
      const isWhole = found.every((position, index) => position !== undefined && position === found[0]! + index);
      if (outcome === "answered twice") problems.add("two answers", `${name} was answered with different ids`);
      if (outcome === "refused" && found.some((position) => position !== undefined)) {
        problems.add("refused entries in the log", name);
      }
      if (found.some((position) => position !== undefined) && !isWhole) {
        problems.add("torn operations", `${name} is in the log in part, or not in one piece`);
      }
      if (acknowledged === undefined) continue;
      const position = found[0];
      if (!isWhole || position === undefined) {
        problems.add("lost acknowledged operations", `${name}, ${acknowledged.first}..${acknowledged.last}`);
      } else if (
        this.log.ids[position] !== acknowledged.first ||
        acknowledged.last - acknowledged.first + 1 !== contents.length ||
        this.log.terms[position] !== acknowledged.term
      ) {
        problems.add(
          "operations elsewhere than acknowledged",
          `${name}: acknowledged as ${acknowledged.first}..${acknowledged.last} of term ${acknowledged.term}, ` +
            `in the log at ${this.log.ids[position]} of term ${this.log.terms[position]}`,
        );
      }
    }
  }

  private checkOrigin(problems: Problems): void {
    const sent = new Set<number>();
    for (const { contents } of this.operations.values()) for (const content of contents) sent.add(content);
    const seen = new Set<number>();
    for (const [position, content] of this.log.contents.entries()) {
      const id = this.log.ids[position];
      if (!sent.has(content)) problems.add("entries nobody sent", `${id}`);
      if (seen.has(content)) problems.add("entries that are in the log twice", `${id}`);
      seen.add(content);
    }
  }

  private operation(writerId: string, operationId: bigint): Operation {
    const operation = this.operations.get(nameOf(writerId, operationId));
    if (operation === undefined) throw new Error(`${nameOf(writerId, operationId)} was never sent`);
    return operation;
  }
}

/** Entries in the order in which someone saw them; columns, because there may be millions. */
export class Sequence {
  readonly ids: number[] = [];
  readonly terms: number[] = [];
  readonly contents: number[] = [];

  add(entry: LoggedEntry): void {
    this.ids.push(Number(entry.sequenceId));
    this.terms.push(Number(entry.term));
    this.contents.push(contentOf(entry));
  }

  get last(): number {
    return this.ids.at(-1) ?? 0;
  }

  /** Of ids, terms and contents. */
  get hash(): string {
    const hash = createHash("sha256");
    for (const column of [this.ids, this.terms, this.contents]) hash.update(Float64Array.from(column));
    return hash.digest("hex");
  }

  checkContiguous(whose: string, firstId: number, problems: Problems): void {
    let next = firstId;
    for (const id of this.ids) {
      if (id !== next) problems.add(`breaks in what ${whose} has`, `${id} where ${next} is next`);
      next = id + 1;
    }
  }

  checkTerms(problems: Problems): void {
    for (let position = 1; position < this.terms.length; position++) {
      const [before, term] = [this.terms[position - 1]!, this.terms[position]!];
      if (term < before) problems.add("lower terms after higher", `${term} after ${before} at ${this.ids[position]}`);
    }
  }

  /** By id, so that a hole is told once and not for everything behind it. */
  checkAgrees(whose: string, log: Sequence, problems: Problems): void {
    const positions = new Map(log.ids.map((id, position) => [id, position]));
    for (const [index, id] of this.ids.entries()) {
      const position = positions.get(id);
      if (position === undefined) problems.add(`entries that only ${whose} has`, `${id}`);
      else if (this.contents[index] !== log.contents[position] || this.terms[index] !== log.terms[position]) {
        problems.add(`entries that are different for ${whose}`, `${id}`);
      }
    }
    if (this.last !== log.last) problems.add(`ends of ${whose}`, `${this.last}, the log ends at ${log.last}`);
  }

  positionsByContent(): Map<number, number> {
    return new Map(this.contents.map((content, position) => [content, position]));
  }
}

interface Operation {
  readonly contents: readonly number[];
  acknowledged: { readonly first: number; readonly last: number; readonly term: number } | undefined;
  outcome: "unknown" | "acknowledged" | "refused" | "answered twice";
}

/** Counted by kind, and told by example. */
export class Problems {
  private readonly byKind = new Map<string, string[]>();

  add(kind: string, example: string): void {
    const examples = this.byKind.get(kind);
    if (examples === undefined) this.byKind.set(kind, [example]);
    else examples.push(example);
  }

  get told(): string[] {
    return [...this.byKind].map(
      ([kind, examples]) => `${examples.length} ${kind}: ${examples.slice(0, TOLD_MAX).join("; ")}`,
    );
  }
}

const nameOf = (writerId: string, operationId: bigint): string => `operation ${operationId} of ${writerId}`;

/** 52 bits of two checksums: wide enough for millions of entries without two that are equal by chance. */
function contentOf({ opType, key, payload }: SentEntry): number {
  const head = Buffer.from(`${opType} ${key}\0`);
  const low = crc32(Buffer.from(payload), crc32(head)) >>> 12;
  return crc32c(Buffer.from(payload), crc32c(head)) * 2 ** 20 + low;
}
