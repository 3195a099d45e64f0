import { InvalidArgumentError } from "./errors.js";

const LOG_NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;
const CONSUMER_NAME = /^[A-Za-z0-9_.-]{1,128}$/;
const KEY_PREFIX = /^(\/[A-Za-z0-9_.-]+)+$/;
const ID_DIGITS = 20;
/** Sorts directly after "/": the end of a range over all keys below a slash. */
const AFTER_SLASH = "0";

export function requireLogName(name: string, field = "log"): string {
  if (!LOG_NAME.test(name)) {
    throw new InvalidArgumentError(
      field,
      `${quote(name)} is no log name: 1 to 128 characters of [A-Za-z0-9_.-], the first a letter or a digit`,
      { received: name.slice(0, 200) },
    );
  }
  return name;
}

export function isConsumerName(name: string): boolean {
  return CONSUMER_NAME.test(name);
}

export function requireConsumerName(name: string, field = "consumer"): string {
  if (!CONSUMER_NAME.test(name)) {
    throw new InvalidArgumentError(field, `${quote(name)} is no name: 1 to 128 characters of [A-Za-z0-9_.-]`, {
      received: name.slice(0, 200),
    });
  }
  return name;
}

function quote(name: string): string {
  return JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}… (${name.length} characters)` : name);
}

/** The keys of one log. The only place that builds them. */
export class LogKeys {
  readonly head: string;
  readonly term: string;
  readonly floor: string;
  readonly barriers: string;
  readonly marks: string;
  /** Never written: deleting it changes nothing. */
  readonly nothing: string;
  readonly leader: string;
  readonly successor: string;
  /** How the last leader that left on purpose did so. */
  readonly ended: string;
  /** `leader`, `successor` and the candidates are in [leader, leadershipTo). */
  readonly leadershipTo: string;
  readonly candidatesFrom: string;
  readonly candidatesTo: string;
  /** All keys of the log are in [allFrom, allTo). */
  readonly allFrom: string;
  readonly allTo: string;
  readonly recordsFrom: string;
  readonly recordsTo: string;
  /** Put by whatever makes a cursor, so that two cannot pass the limit at once. */
  readonly cursorsMade: string;
  readonly cursorsFrom: string;
  readonly cursorsTo: string;
  private readonly root: string;

  constructor(
    prefix: string,
    readonly log: string,
  ) {
    this.root = `${prefix}/${requireLogName(log)}`;
    this.head = `${this.root}/head`;
    this.term = `${this.root}/term`;
    this.floor = `${this.root}/floor`;
    this.barriers = `${this.root}/barriers`;
    this.marks = `${this.root}/marks`;
    this.nothing = `${this.root}/nothing`;
    this.leader = `${this.root}/leader`;
    this.successor = `${this.root}/leader/successor`;
    this.ended = `${this.root}/ended`;
    this.leadershipTo = `${this.root}/leader${AFTER_SLASH}`;
    this.candidatesFrom = `${this.root}/leader/candidates/`;
    this.candidatesTo = `${this.root}/leader/candidates${AFTER_SLASH}`;
    this.allFrom = `${this.root}/`;
    this.allTo = `${this.root}${AFTER_SLASH}`;
    this.recordsFrom = `${this.root}/records/`;
    this.recordsTo = `${this.root}/records${AFTER_SLASH}`;
    this.cursorsMade = `${this.root}/cursors`;
    this.cursorsFrom = `${this.root}/cursors/`;
    this.cursorsTo = `${this.root}/cursors${AFTER_SLASH}`;
  }

  /** Key of the record that ends with this id; also the start of a range whose first record holds this id. */
  record(lastSequenceId: bigint): string {
    return this.recordsFrom + lastSequenceId.toString().padStart(ID_DIGITS, "0");
  }

  /** The last sequence id that a record key names, or undefined for a key of another shape. */
  recordId(key: string): bigint | undefined {
    const digits = key.slice(this.recordsFrom.length);
    return key.startsWith(this.recordsFrom) && /^\d{20}$/.test(digits) ? BigInt(digits) : undefined;
  }

  candidate(id: string): string {
    return this.candidatesFrom + requireConsumerName(id, "candidate.id");
  }

  cursor(consumer: string): string {
    return this.cursorsFrom + requireConsumerName(consumer);
  }
}

/** Beside the logs: no log can have this name. */
export function storeAnchorKey(prefix: string): string {
  return `${prefix}/.store`;
}

/** Walks the logs below a prefix without reading what is in them. */
export const logListing = {
  requirePrefix(prefix: string): string {
    if (!KEY_PREFIX.test(prefix)) {
      throw new Error(`key prefix ${JSON.stringify(prefix)}: one or more of "/" and [A-Za-z0-9_.-], no "/" at the end`);
    }
    return prefix;
  },
  from: (prefix: string) => `${prefix}/`,
  to: (prefix: string) => `${prefix}${AFTER_SLASH}`,
  /** Where the keys after those of `log` start. */
  after: (prefix: string, log: string) => `${prefix}/${log}${AFTER_SLASH}`,
  /** The name that follows the prefix in a key, and whether a log can have it. */
  nameIn(prefix: string, key: string): { readonly name: string; readonly isLog: boolean } {
    const name = key.slice(prefix.length + 1).split("/", 1)[0]!;
    return { name, isLog: LOG_NAME.test(name) };
  },
};
