import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, rmdirSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { open as openLmdb } from "lmdb";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { StoreDataLossError } from "../../src/oplog/kv-store.js";
import { EmbeddedKvStore } from "../../src/stores/embedded/embedded-kv-store.js";
import { noteClosed } from "../../src/stores/embedded/file-state.js";
import { randomOf } from "../faults/scale.js";
import { makeTempDir, type TempDir } from "../support/temp-dir.js";
import { put, write } from "./contract.js";
import { DAMAGES, damage, dataFile, fillStore, readStore } from "./damaged-file.js";

let temp: TempDir;
let stores: EmbeddedKvStore[] = [];
beforeEach(async () => {
  temp = await makeTempDir("damage");
});
afterEach(async () => {
  for (const store of stores) await store.close();
  stores = [];
  await temp.remove();
});

interface LogLine {
  readonly event?: string;
  readonly keys?: unknown;
}

/** With what it says meanwhile. */
async function open(
  directory = temp.path,
): Promise<{ readonly store: EmbeddedKvStore; readonly lines: readonly LogLine[] }> {
  const lines: LogLine[] = [];
  const note = (line: LogLine) => lines.push(line);
  const logger = { debug: note, info: note, warn: note, error: note } as never;
  const store = await EmbeddedKvStore.open({ directory, logger });
  stores.push(store);
  return { store, lines };
}

describe("a damaged file is refused with its path and what to do", () => {
  for (const [what, change] of Object.entries(DAMAGES)) {
    test(what, async () => {
      await fillStore(temp.path, randomOf(2));
      damage(temp.path, change);
      const opening = open();
      await expect(opening).rejects.toThrow(StoreDataLossError);
      await expect(opening).rejects.toThrow(new RegExp(`^data directory ${temp.path} is damaged: data.mdb: .+ backup`));
    });
  }

  test("replaced by something that is no file", async () => {
    mkdirSync(dataFile(temp.path));
    await expect(open()).rejects.toThrow(`data directory ${temp.path} is damaged: data.mdb: it is no file`);
    rmdirSync(dataFile(temp.path));
    execFileSync("mkfifo", [dataFile(temp.path)]);
    await expect(open()).rejects.toThrow(/it is no file/);
  });

  test("gone from a directory that has been used", async () => {
    await fillStore(temp.path, randomOf(2), 1);
    rmSync(dataFile(temp.path));
    await expect(open()).rejects.toThrow(/it is gone, though a store was here/);
    expect(existsSync(dataFile(temp.path))).toBe(false);
  });
});

describe("a file is checked", () => {
  const CHECK = "store_check";

  test("not when it was closed in an orderly way", async () => {
    await fillStore(temp.path, randomOf(3), 2);
    expect((await open()).lines.map(({ event }) => event)).not.toContain(CHECK);
  });

  test("after a process that has not closed it", async () => {
    await fillStore(temp.path, randomOf(3), 2);
    const copy = await makeTempDir("copy");
    // As it lies on the disk while somebody has it open.
    const { store } = await open();
    await write(store, put("/new"));
    cpSync(temp.path, copy.path, { recursive: true, filter: (path) => !path.includes("owner-") });
    const { lines } = await open(copy.path);
    expect(lines.map(({ event }) => event)).toContain(CHECK);
    await stores.pop()?.close();
    await copy.remove();
  });

  test("after anybody has written to it, though it has its old time again", async () => {
    await fillStore(temp.path, randomOf(3), 2);
    utimesSync(dataFile(temp.path), new Date(0), new Date(0));
    noteClosed(temp.path);
    damage(temp.path, (file) => file);
    utimesSync(dataFile(temp.path), new Date(0), new Date(0));
    expect((await open()).lines.map(({ event }) => event)).toContain(CHECK);
  });
});

test("a store that was being made when its process was killed is made again", async () => {
  const lmdb = openLmdb({ path: temp.path, noSubdir: false, maxDbs: 8, overlappingSync: false });
  lmdb.openDB("meta", { encoding: "binary", keyEncoding: "binary" });
  await lmdb.close();
  const { store } = await open();
  await write(store, put("/a", "a"));
});

describe("a value that is not what was written", () => {
  const VALUE = "a value that can be found in the file";

  test("is refused by its key, and the rest can be read and written", async () => {
    const { store: first } = await open();
    await write(first, put("/good", "good"), put("/bad", VALUE), put("/large", Buffer.alloc(50_000, VALUE)));
    await first.close();
    damage(temp.path, (file) => Buffer.from(file.toString("latin1").replaceAll(VALUE, VALUE.toUpperCase()), "latin1"));

    const { store, lines } = await open();
    expect(lines.find(({ event }) => event === "values_damaged")?.keys).toEqual(["/bad"]);
    for (const key of ["/bad", "/large"]) {
      await expect(store.get(key)).rejects.toThrow(StoreDataLossError);
      await expect(store.get(key)).rejects.toThrow(`the value of key ${key} is damaged`);
    }
    await expect(store.page({ bytesMax: 1_000_000, from: "/", to: "0", limit: 10 })).rejects.toThrow(
      StoreDataLossError,
    );
    expect(
      (await store.page({ bytesMax: 1_000_000, from: "/", to: "0", limit: 10, keysOnly: true })).pairs,
    ).toHaveLength(3);
    expect((await store.get("/good")).pair?.value.toString()).toBe("good");
    await write(store, put("/bad", "written again"), { kind: "delete", key: "/large" });
    expect((await store.page({ bytesMax: 1_000_000, from: "/", to: "0", limit: 10 })).pairs).toHaveLength(2);
    await store.status();
  });

  test("does not count as a condition that does not hold", async () => {
    const { store: first } = await open();
    await write(first, put("/bad", VALUE));
    await first.close();
    damage(temp.path, (file) => Buffer.from(file.toString("latin1").replaceAll(VALUE, VALUE.toUpperCase()), "latin1"));
    const { store } = await open();
    const compare = store.txn({ compares: [{ key: "/bad", modRevision: 7n }], writes: [], readOnFailure: ["/bad"] });
    await expect(compare).rejects.toThrow(StoreDataLossError);
    await write(store, put("/other"));
  });
});

test("a page that is damaged while the store is open is DATA_LOSS, and nothing is written after", async () => {
  await fillStore(temp.path, randomOf(4));
  const { store } = await open();
  const file = readFileSync(dataFile(temp.path));
  // All but the meta pages: nothing can be found any more.
  writeFileSync(dataFile(temp.path), file.fill(0, 2 * 4096), { flag: "r+" });
  await expect(readStore(store)).rejects.toThrow(StoreDataLossError);
  await expect(write(store, put("/b"))).rejects.toThrow(StoreDataLossError);
  await expect(store.status()).rejects.toThrow(temp.path);
  await store.close();
  await expect(open()).rejects.toThrow(StoreDataLossError);
});

test("a directory of an earlier version, without checksums, is taken over and can be read by that version", async () => {
  await fillStore(temp.path, randomOf(5), 4);
  const { store: before } = await open();
  const expected = await readStore(before);
  await before.close();
  await withoutChecksums(temp.path);

  const { store, lines } = await open();
  expect(lines.map(({ event }) => event)).toContain("store_checked");
  expect(await readStore(store)).toEqual(expected);
  const revision = await write(store, put("/new", "new"));
  expect((await store.get("/new")).pair?.modRevision).toBe(revision);
  await store.close();

  const lmdb = openLmdb<Buffer, Buffer>({
    path: temp.path,
    noSubdir: false,
    maxDbs: 8,
    encoding: "binary",
    keyEncoding: "binary",
  });
  const binary = { encoding: "binary", keyEncoding: "binary" } as const;
  expect(lmdb.openDB<Buffer, Buffer>("meta", binary).get(Buffer.from("revision"))?.readBigUInt64BE()).toBe(revision);
  expect(lmdb.openDB<Buffer, Buffer>("index", binary).get(Buffer.from("/new"))?.readBigUInt64BE()).toBe(revision);
  await lmdb.close();
});

/** As version 0.1 wrote it: entries of 16 bytes, numbers of 8. */
async function withoutChecksums(directory: string): Promise<void> {
  const binary = { encoding: "binary", keyEncoding: "binary" } as const;
  const lmdb = openLmdb<Buffer, Buffer>({
    path: directory,
    noSubdir: false,
    maxDbs: 8,
    overlappingSync: false,
    ...binary,
  });
  const cut = async (table: string, bytes: number, keys?: string[]) => {
    const db = lmdb.openDB<Buffer, Buffer>(table, binary);
    for (const { key, value } of [...db.getRange({})]) {
      if (keys === undefined || keys.includes(key.toString()))
        await db.put(Buffer.from(key), Buffer.from(value.subarray(0, bytes)));
    }
  };
  await cut("index", 16);
  await cut("leases", 8);
  await cut("meta", 8, ["revision"]);
  await lmdb.close();
  rmSync(join(directory, "state.json"));
}
