import { decodeRecord, openBody, RecordDamagedError } from "../../oplog/record.js";
import { CellDamagedError, decodeIndexEntry, decodeNumber, requireValue } from "./cells.js";
import { FileDamagedError, PageFile, readTree, TREE_BYTES, type Tree } from "./page-file.js";
import { type Cell, PageMap, TreeWalk } from "./tree-walk.js";

const TABLES = ["index", "values", "leases", "leased", "meta"] as const;
type Table = (typeof TABLES)[number];
type Tables = Map<Table, Tree>;
const REVISION = Buffer.from("revision");
const FORMAT = Buffer.from("format");
const LEASE_ID_BYTES = 8;
const INTEGER_KEYS = 0x08;
const RECORD_KEY = /\/records\/\d{20}$/;
/** Of damaged values, the first so many are named. */
const NAMED_MAX = 20;

export interface CheckOptions {
  readonly format: string;
  /** Read large values too, of which otherwise only the first page is looked at, and open the records. */
  readonly readsEverything: boolean;
}

export interface FileReport {
  readonly fileBytes: number;
  readonly pages: number;
  readonly keys: number;
  readonly valueBytes: number;
  readonly revision: bigint;
  /** Keys whose values are not what was written; the rest of the file is sound. */
  readonly damagedValues: readonly string[];
  readonly damagedValuesTotal: number;
}

/**
 * Checks whether LMDB can open the file safely: every page that a tree refers to is there, is what it should be and is used
 * once, every key has its value, and every checksum is right. Throws FileDamagedError otherwise. A value that alone is
 * damaged is only reported. Undefined: the file is empty.
 *
 * The file must not be written to meanwhile, unless a reader holds the state of the newest meta page.
 */
export function checkFile(path: string, options: CheckOptions): FileReport | undefined {
  const file = PageFile.open(path);
  if (file === undefined) return undefined;
  try {
    return new FileCheck(file, options).run();
  } catch (error) {
    if (error instanceof CellDamagedError) throw new FileDamagedError(error.message, { cause: error });
    throw error;
  } finally {
    file.close();
  }
}

class FileCheck {
  private readonly pages: PageMap;
  private keys = 0;
  private valueBytes = 0;
  private revision = 0n;
  private readonly damagedValues: string[] = [];
  private damagedValuesTotal = 0;
  /** Lease id and key, as the index has them. */
  private readonly leased = new Set<string>();

  constructor(
    private readonly file: PageFile,
    private readonly options: CheckOptions,
  ) {
    this.pages = new PageMap(file);
  }

  run(): FileReport {
    const { file } = this;
    const tables = this.readMain();
    if (this.readMeta(tables) === this.options.format) {
      this.joinValues(tables);
      this.checkLeases(tables);
    } else {
      // Another version's: what is in the cells is not known here.
      for (const table of ["index", "values", "leases", "leased"] as const)
        for (const _ of this.cellsOf(tables, table));
    }
    return {
      fileBytes: file.fileBytes,
      pages: file.meta.lastPage + 1,
      keys: this.keys,
      valueBytes: this.valueBytes,
      revision: this.revision,
      damagedValues: this.damagedValues,
      damagedValuesTotal: this.damagedValuesTotal,
    };
  }

  private readMain(): Tables {
    const { mainTree, freeTree, txnId } = this.file.meta;
    const main = new TreeWalk(this.file, this.pages, mainTree);
    const tables: Tables = new Map();
    for (const cell of main.cells()) {
      const name = cell.key.toString("latin1").replace(/\0$/, "");
      const table = TABLES.find((known) => known === name);
      if (table === undefined || !cell.isSubTree || cell.valueBytes !== TREE_BYTES) {
        throw new FileDamagedError(`table ${JSON.stringify(name)} is unknown`);
      }
      tables.set(table, readTree(name, cell.value(), 0));
    }
    const missing = TABLES.filter((table) => !tables.has(table));
    // They are made one by one before the first thing is written.
    if (missing.length > 0 && [...tables.values()].some(({ entries }) => entries > 0)) {
      throw new FileDamagedError(`table ${missing.join(", ")} is missing`);
    }
    const free = new TreeWalk(this.file, this.pages, { ...freeTree, flags: INTEGER_KEYS });
    for (const cell of free.cells()) this.takeFree(cell);
    // Every commit writes one of the two roots: otherwise the meta page claims what it is not.
    if (Math.max(main.rootTxnId, free.rootTxnId) !== txnId) {
      throw new FileDamagedError(`the newer meta page is of transaction ${txnId}, what it leads to is older`);
    }
    return tables;
  }

  /** A list: how many numbers follow; each is a page, or how many pages, negative, before the first of them; 0 is unused. */
  private takeFree(cell: Cell): void {
    const list = cell.value();
    const count = list.length < 8 ? -1 : Number(list.readBigInt64LE());
    if (!(count >= 0 && (count + 1) * 8 <= list.length)) throw new FileDamagedError("a list of free pages is damaged");
    for (let index = 1; index <= count; index++) {
      const number = Number(list.readBigInt64LE(index * 8));
      if (number > 0) this.pages.take(number, 1, "a free page");
      if (number < 0 && ++index <= count)
        this.pages.take(Number(list.readBigInt64LE(index * 8)), -number, "a free page");
    }
  }

  /** The format. */
  private readMeta(tables: Tables): string | undefined {
    let format: string | undefined;
    let revision: bigint | undefined;
    for (const { key, value } of this.cellsOf(tables, "meta")) {
      if (key.equals(REVISION)) revision = decodeNumber(REVISION, value());
      if (key.equals(FORMAT)) format = value().toString();
    }
    const isWritten = (tables.get("index")?.entries ?? 0) > 0;
    if (isWritten && revision === undefined) throw new FileDamagedError("the number of the last revision is missing");
    this.revision = revision ?? 0n;
    return format;
  }

  /** Both tables have the same keys in the same order. */
  private joinValues(tables: Tables): void {
    const values = this.cellsOf(tables, "values");
    for (const entry of this.cellsOf(tables, "index")) {
      const found = values.next();
      if (found.done || !found.value.key.equals(entry.key))
        throw new FileDamagedError("a key and its value do not match");
      this.checkKey(entry, found.value);
    }
    if (!values.next().done) throw new FileDamagedError("there is a value without a key");
  }

  private checkKey(cell: Cell, valueCell: Cell): void {
    const key = cell.key.toString("latin1");
    const entry = decodeIndexEntry(cell.key, cell.value());
    if (entry.modRevision > this.revision) throw new FileDamagedError(`key ${key} is newer than the last revision`);
    if (entry.leaseId !== 0n) this.leased.add(`${entry.leaseId}/${key}`);
    this.keys++;
    this.valueBytes += valueCell.valueBytes;
    if (valueCell.isOverflow && !this.options.readsEverything) return;
    try {
      const value = valueCell.value();
      requireValue(cell.key, entry, value);
      if (this.options.readsEverything && RECORD_KEY.test(key)) openBody(decodeRecord(value));
    } catch (error) {
      if (!(error instanceof CellDamagedError || error instanceof RecordDamagedError)) throw error;
      this.damagedValuesTotal++;
      if (this.damagedValues.length < NAMED_MAX) this.damagedValues.push(key);
    }
  }

  private checkLeases(tables: Tables): void {
    const leases = new Set<bigint>();
    for (const { key, value } of this.cellsOf(tables, "leases")) {
      decodeNumber(key, value());
      leases.add(key.readBigUInt64BE());
    }
    let leased = 0;
    for (const { key } of this.cellsOf(tables, "leased")) {
      const leaseId = key.length > LEASE_ID_BYTES ? key.readBigUInt64BE() : 0n;
      const name = key.toString("latin1", LEASE_ID_BYTES);
      leased++;
      if (!this.leased.has(`${leaseId}/${name}`) || !leases.has(leaseId)) {
        throw new FileDamagedError(`key ${name} is noted under lease ${leaseId}, which does not have it`);
      }
    }
    if (leased !== this.leased.size) throw new FileDamagedError("a key of a lease is not noted under it");
  }

  private cellsOf(tables: Tables, table: Table): Generator<Cell, void> {
    const tree = tables.get(table);
    return tree === undefined ? none() : new TreeWalk(this.file, this.pages, tree).cells();
  }
}

function* none(): Generator<never, void> {}
