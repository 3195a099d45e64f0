import {
  copyFileSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { systemClock } from "../../src/oplog/clock.js";
import { StoreDataLossError } from "../../src/oplog/kv-store.js";
import { EmbeddedKvStore } from "../../src/stores/embedded/embedded-kv-store.js";
import { makeTempDir, type TempDir } from "../support/temp-dir.js";
import { put, write } from "./contract.js";
import { dataFile } from "./damaged-file.js";

let temp: TempDir;
let directory: string;
let store: EmbeddedKvStore;
beforeEach(async () => {
  temp = await makeTempDir("loss");
  directory = join(temp.path, "data");
  store = await EmbeddedKvStore.open({ directory });
  await write(store, put("/a", "acknowledged"));
});
afterEach(async () => {
  await store.close();
  await temp.remove();
});

const moved = () => join(temp.path, "moved");

/** What may happen to the files of a process that runs. */
const LOSSES: Readonly<Record<string, () => void | Promise<void>>> = {
  "the directory was deleted": () => rmSync(directory, { recursive: true }),
  "the directory was renamed": () => renameSync(directory, moved()),
  "the directory above was renamed": () => {
    renameSync(temp.path, `${temp.path}-moved`);
    mkdirSync(temp.path);
    renameSync(`${temp.path}-moved`, moved());
  },
  "the directory was replaced by an empty one": () => {
    renameSync(directory, moved());
    mkdirSync(directory);
  },
  "the directory was replaced by that of another store": async () => {
    renameSync(directory, moved());
    await (await EmbeddedKvStore.open({ directory })).close();
  },
  "the directory was replaced by a file": () => {
    renameSync(directory, moved());
    writeFileSync(directory, "");
  },
  "the file was deleted": () => unlinkSync(dataFile(directory)),
  "the file was replaced by a copy of itself": () => {
    copyFileSync(dataFile(directory), moved());
    renameSync(moved(), dataFile(directory));
  },
  "the lock file was deleted": () => unlinkSync(join(directory, "lock.mdb")),
};

describe("a store refuses what it can no longer keep, and reads on, after", () => {
  for (const [what, lose] of Object.entries(LOSSES)) {
    test(what, async () => {
      await lose();
      const late = write(store, put("/b", "too late"));
      await expect(late).rejects.toThrow(StoreDataLossError);
      await expect(late).rejects.toThrow(directory);
      await expect(late).rejects.toMatchObject({ isCertainlyNotApplied: true });
      await expect(store.grantLease(1_000)).rejects.toThrow(StoreDataLossError);
      await expect(store.status()).rejects.toThrow(StoreDataLossError);
      expect((await store.get("/a")).pair?.value.toString()).toBe("acknowledged");
    });
  }
});

test("a write that was on its way when the directory went is not acknowledged, and its outcome is unknown", async () => {
  const onItsWay = write(store, put("/large", Buffer.alloc(16_000_000)));
  await systemClock.yieldTurn();
  rmSync(directory, { recursive: true });
  await expect(onItsWay).rejects.toMatchObject({ name: "StoreDataLossError", isCertainlyNotApplied: false });
});

test("a loss is noticed by asking, too, while nobody writes", async () => {
  await store.status();
  rmSync(directory, { recursive: true });
  await expect(store.status()).rejects.toThrow(
    /data\.mdb is gone: it was deleted or moved while in use; nothing is written/,
  );
  await expect(write(store, put("/b"))).rejects.toMatchObject({ isCertainlyNotApplied: true });
});

test("a file that was cut off is not read any more, since that would end the process", async () => {
  await write(store, put("/large", Buffer.alloc(200_000)));
  truncateSync(dataFile(directory), 8 * 4096);
  await expect(store.status()).rejects.toThrow(/was cut off while in use, from \d+ to 32768 bytes/);
  for (const call of [
    store.get("/a"),
    store.page({ bytesMax: 1_000_000, from: "/", to: "0", limit: 5 }),
    write(store, put("/b")),
  ]) {
    await expect(call).rejects.toThrow(StoreDataLossError);
  }
});

test("a directory reached by a link is lost when the link leads elsewhere", async () => {
  const link = join(temp.path, "link");
  symlinkSync(directory, link);
  await store.close();
  store = await EmbeddedKvStore.open({ directory: link });
  unlinkSync(link);
  mkdirSync(moved());
  symlinkSync(moved(), link);
  await expect(write(store, put("/b"))).rejects.toThrow(link);
});

test("nothing is left in a directory that took the place of the lost one", async () => {
  renameSync(directory, moved());
  mkdirSync(directory);
  await expect(write(store, put("/b"))).rejects.toThrow(StoreDataLossError);
  await store.close();
  expect(readdirSync(directory)).toEqual([]);
});

test("a store that was put back keeps what was acknowledged, and goes on after it is opened again", async () => {
  renameSync(directory, moved());
  await expect(write(store, put("/b"))).rejects.toThrow(StoreDataLossError);
  renameSync(moved(), directory);
  await expect(write(store, put("/c"))).rejects.toThrow(StoreDataLossError);
  await store.close();
  store = await EmbeddedKvStore.open({ directory });
  expect((await store.get("/a")).pair?.value.toString()).toBe("acknowledged");
  await write(store, put("/c"));
});
