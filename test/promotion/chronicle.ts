import { fromBinary } from "@bufbuild/protobuf";
import {
  type LeaderLease,
  LeaderLeaseSchema,
  type Successor,
  SuccessorSchema,
  type Term,
  TermSchema,
} from "../../src/gen/oplog/store/v1/store_pb.js";
import type { LogKeys } from "../../src/oplog/keys.js";
import type { KvStore, WatchBatch } from "../../src/oplog/kv-store.js";
import { decodeRecord } from "../../src/oplog/record.js";

/** The leader key from the transaction that put it to the one that replaced or deleted it. */
export interface Reign {
  readonly id: string;
  readonly term: bigint;
  readonly nonce: string;
  readonly fromMs: number;
  /** The last entry of the terms before. */
  readonly final: bigint;
  untilMs: number;
  /** By invitation of the one before. */
  readonly isInvited: boolean;
  /** The next one took the place of this one while it was held. */
  next?: Reign;
}

export interface Commit {
  readonly term: bigint;
  readonly first: bigint;
  readonly last: bigint;
  readonly atMs: number;
}

/** Everything that the store did to one log, in order, judged while it happens. */
export class Chronicle {
  readonly violations: string[] = [];
  readonly reigns: Reign[] = [];
  readonly commits: Commit[] = [];
  readonly finals = new Map<bigint, bigint>();
  term: Term | undefined;
  reign: Reign | undefined;
  head = 0n;
  private successor: Successor | undefined;

  constructor(
    private readonly keys: LogKeys,
    private readonly nowMs: () => number,
  ) {}

  async follow(store: KvStore, signal: AbortSignal): Promise<void> {
    for await (const batch of store.watch(
      { from: this.keys.allFrom, to: this.keys.allTo, startRevision: 1n },
      signal,
    )) {
      this.take(batch);
    }
  }

  get isByToken(): boolean {
    return this.term !== undefined && this.term.token !== 0n;
  }

  private take({ events }: WatchBatch): void {
    const { keys } = this;
    const successorBefore = this.successor;
    for (const event of events) {
      const key = event.kind === "put" ? event.pair.key : event.key;
      const value = event.kind === "put" ? event.pair.value : undefined;
      if (key === keys.successor) this.successor = value && fromBinary(SuccessorSchema, value);
      if (key === keys.term && value) this.raise(fromBinary(TermSchema, value));
    }
    for (const event of events) {
      const key = event.kind === "put" ? event.pair.key : event.key;
      const value = event.kind === "put" ? event.pair.value : undefined;
      if (key === keys.leader) this.crown(value && fromBinary(LeaderLeaseSchema, value), successorBefore);
      if (value && keys.recordId(key) !== undefined) this.commit(value);
    }
  }

  private raise(term: Term): void {
    const before = this.term?.term ?? 0n;
    if (term.term !== before + 1n) this.violations.push(`term ${term.term} after ${before}`);
    this.term = term;
    this.finals.set(term.term, this.head);
  }

  private crown(leader: LeaderLease | undefined, successor: Successor | undefined): void {
    const before = this.reign;
    if (before !== undefined) before.untilMs = this.nowMs();
    this.reign = undefined;
    if (leader === undefined) return;
    const { id, term } = leader;
    const nonce = Buffer.from(leader.nonce).toString("hex");
    const isAgain = before?.nonce === nonce;
    const isInvited = before !== undefined && !isAgain;
    if (isInvited && successor?.id !== id) {
      this.violations.push(`"${id}" took the place of "${before.id}" without an invitation`);
    }
    if (term !== this.term?.term) this.violations.push(`leader key of term ${term} under term ${this.term?.term}`);
    const reign: Reign = { id, term, nonce, isInvited, fromMs: this.nowMs(), final: this.head, untilMs: Infinity };
    if (before !== undefined) before.next = reign;
    this.reign = reign;
    this.reigns.push(reign);
  }

  private commit(value: Buffer): void {
    const { firstSequenceId: first, lastSequenceId: last, term } = decodeRecord(value).header;
    const ids = `${first}..${last} of term ${term}`;
    if (first !== this.head + 1n) this.violations.push(`${ids} committed after ${this.head}`);
    if (term !== this.term?.term) this.violations.push(`${ids} committed under term ${this.term?.term}`);
    if (this.term?.elected && this.reign?.term !== term) {
      this.violations.push(`${ids} committed while the leader key was that of term ${this.reign?.term}`);
    }
    this.head = last;
    this.commits.push({ term, first, last, atMs: this.nowMs() });
  }
}
