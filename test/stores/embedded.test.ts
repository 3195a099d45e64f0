import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { open as openLmdb } from "lmdb";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { systemClock } from "../../src/oplog/clock.js";
import { StoreDataLossError, StoreUnreachableError, WatchLostError } from "../../src/oplog/kv-store.js";
import { EmbeddedKvStore } from "../../src/stores/embedded/embedded-kv-store.js";
import { DataDirectoryInUseError } from "../../src/stores/embedded/ownership.js";
import { makeTempDir, type TempDir } from "../support/temp-dir.js";
import { waitFor, within } from "../support/wait.js";
import { keysOf, kvStoreContract, put, uniqueRoot, write } from "./contract.js";
import { WatchRecorder } from "./watch-recorder.js";

/** Enough for the contract, little enough to be outrun on purpose. */
const HISTORY_BYTES_MAX = 4 * 1024 * 1024;

kvStoreContract("embedded", async () => {
  const directory = await makeTempDir("embedded");
  const open = () => EmbeddedKvStore.open({ directory: directory.path, historyBytesMax: HISTORY_BYTES_MAX });
  let store = await open();
  return {
    store,
    reopen: async () => {
      await store.close();
      store = await open();
      return store;
    },
    compact: async () => {
      for (let index = 0; index < 2; index++) await write(store, put(uniqueRoot(), Buffer.alloc(HISTORY_BYTES_MAX)));
    },
    cleanup: async () => {
      await store.close();
      await directory.remove();
    },
  };
});

let temp: TempDir;
/** Released after each test, the last one first. */
const releases: (() => Promise<unknown>)[] = [];
beforeEach(async () => {
  temp = await makeTempDir("embedded");
});
afterEach(async () => {
  for (const release of releases.splice(0).toReversed()) await release();
  await temp.remove();
});

async function open(directory = temp.path): Promise<EmbeddedKvStore> {
  const store = await EmbeddedKvStore.open({ directory });
  releases.push(() => store.close());
  return store;
}

describe("the data directory", () => {
  test("is made for this user alone", async () => {
    const directory = join(temp.path, "a", "b");
    await open(directory);
    expect(statSync(directory).mode & 0o777).toBe(0o700);
  });

  test("that exists keeps its mode", async () => {
    chmodSync(temp.path, 0o750);
    await open();
    expect(statSync(temp.path).mode & 0o777).toBe(0o750);
  });

  test("may be deeper than a socket path can be", async () => {
    const directory = join(temp.path, ..."abcdefgh".split("").map((letter) => letter.repeat(30)));
    const store = await open(directory);
    await expect(open(directory)).rejects.toThrow(DataDirectoryInUseError);
    await store.close();
    await open(directory);
  });

  test("that is a file is refused by its name", async () => {
    const path = join(temp.path, "file");
    writeFileSync(path, "");
    await expect(open(path)).rejects.toThrow(`cannot open data directory ${path}: it is no directory`);
  });

  test("that cannot be made is refused at once, also where the system denies what is there", async () => {
    for (const path of ["/proc/1/x", "/proc/1/x/y", "/dev/null/x"]) {
      await expect(open(path)).rejects.toThrow(`cannot open data directory ${path}: `);
    }
  });

  test("with other data in it is refused, and left as it was", async () => {
    for (const size of [10, 14_000]) {
      writeFileSync(join(temp.path, "data.mdb"), Buffer.alloc(size, "not a database"));
      await expect(open()).rejects.toThrow(StoreDataLossError);
      expect(statSync(join(temp.path, "data.mdb")).size).toBe(size);
    }
  });

  test("of a newer format is refused", async () => {
    await (await open()).close();
    const lmdb = openLmdb({ path: temp.path, noSubdir: false, overlappingSync: false, maxDbs: 8 });
    const meta = lmdb.openDB("meta", { encoding: "binary", keyEncoding: "binary" });
    await meta.put(Buffer.from("format"), Buffer.from("2"));
    await lmdb.close();
    await expect(open()).rejects.toThrow(/has format 2, this version knows format 1/);
  });
});

describe("one process per data directory", () => {
  test("a second store in this process is refused, and the first goes on", async () => {
    const store = await open();
    await expect(open()).rejects.toThrow(DataDirectoryInUseError);
    await write(store, put("/a", "x"));
    expect((await store.get("/a")).pair?.value.toString()).toBe("x");
    await store.close();
    expect((await (await open()).get("/a")).pair?.value.toString()).toBe("x");
  });

  test("a second process is told the directory and the process that has it", async () => {
    await open();
    const second = child("hold");
    const { error } = await second.next();
    expect(error).toContain("DataDirectoryInUseError");
    expect(error).toContain(`data directory ${temp.path} is in use by process ${process.pid} on `);
    expect(error).toContain("stop that one first");
  });

  test("the directory is free as soon as its owner was killed", async () => {
    const owner = child("hold");
    await owner.next();
    await expect(open()).rejects.toThrow(`is in use by process ${owner.process.pid} on `);
    await owner.kill();
    await open();
    expect(readdirSync(temp.path).filter((name) => name.startsWith("owner-"))).toHaveLength(1);
  });

  test("of many that find the owner dead, exactly one takes over", async () => {
    const owner = child("hold");
    await owner.next();
    await owner.kill();
    const attempts = await Promise.allSettled(Array.from({ length: 8 }, () => open()));
    expect(attempts.filter((attempt) => attempt.status === "fulfilled")).toHaveLength(1);
    for (const attempt of attempts) {
      if (attempt.status === "rejected") expect(attempt.reason).toBeInstanceOf(DataDirectoryInUseError);
    }
    expect(readdirSync(temp.path).filter((name) => name.startsWith("owner-"))).toHaveLength(1);
  });

  test("an owner that was taken for dead writes nothing more", async () => {
    const first = await open();
    const now = await write(first, put("/a", "first"));
    const watch = await WatchRecorder.start(first, { from: "/", to: "0", startRevision: now + 1n });
    for (const name of readdirSync(temp.path)) if (name.startsWith("owner-")) rmSync(join(temp.path, name));
    const second = await open();
    await write(second, put("/a", "second"));
    await expect(write(first, put("/a", "too late"))).rejects.toThrow(/another process took over/);
    await expect(first.get("/a")).rejects.toThrow(StoreUnreachableError);
    expect(await within(watch.ended, { what: "the watch to end" })).toBeInstanceOf(WatchLostError);
    await first.close();
    expect((await second.get("/a")).pair?.value.toString()).toBe("second");
    await write(second, put("/b", "still writing"));
  });
});

describe("durability", () => {
  test("what was acknowledged survives SIGKILL, ten times over", { timeout: 120_000 }, async () => {
    let acknowledged = 0;
    let revision = 0n;
    for (let round = 0; round < 10; round++) {
      const writer = child("count");
      await writer.next();
      const killAfter = 1 + Math.floor(Math.random() * 200);
      for (let count = 0; count < killAfter; count++) await writer.next();
      await writer.kill();
      const last = writer.lines.at(-1)!;
      expect(Number(last.number)).toBeGreaterThanOrEqual(acknowledged + killAfter);
      acknowledged = Number(last.number);
      revision = BigInt(last.revision!);

      const store = await open();
      const head = await store.get("/head");
      const written = Number(head.pair!.value);
      // The kill may have come between the commit and its acknowledgement.
      expect([acknowledged, acknowledged + 1]).toContain(written);
      expect(head.revision).toBeGreaterThanOrEqual(revision);
      const numbers: number[] = [];
      for (let from = "/numbers/"; ; ) {
        const { pairs, more } = await store.page({ from, to: "/numbers0", limit: 1_000, bytesMax: 1024 * 1024 });
        for (const { key, value } of pairs) {
          numbers.push(Number(key.slice(-20)));
          expect(value.length).toBe(numbers.at(-1)! % 5_000);
        }
        if (!more) break;
        from = `${pairs.at(-1)!.key}\0`;
      }
      expect(numbers).toEqual(Array.from({ length: written }, (_, index) => index + 1));
      await store.close();
      acknowledged = written;
    }
  });

  test("a disk that is full refuses whole transactions, and the store goes on", { timeout: 60_000 }, async () => {
    const filling = child("fill", ["sh", "-c", 'ulimit -f 40000 && exec "$@"', "sh"]);
    await filling.next();
    const outcome = await filling.next();
    expect(outcome.error).toContain("StoreRefusedError");
    expect(outcome.error).toContain("nothing was written");
    const acknowledged = Number(outcome.acknowledged);
    expect(acknowledged).toBeGreaterThan(0);
    expect(outcome.revision).toBe(String(acknowledged));
    expect(outcome.smallRevision).toBe(String(acknowledged + 1));
    await filling.exited();

    const store = await open();
    expect(await keysOf(store, "/a/")).toHaveLength(acknowledged);
    expect(await keysOf(store, "/b/")).toHaveLength(acknowledged);
    expect((await store.get("/small")).pair?.modRevision).toBe(BigInt(acknowledged + 1));
  });

  test("the history of watches starts again with the process", async () => {
    const first = await open();
    const revision = await write(first, put("/a"));
    await first.close();
    const second = await open();
    const early = WatchRecorder.open(second, { from: "/", to: "0", startRevision: revision });
    expect(String(await within(early.ended, { what: "the watch to end" }))).toContain("CompactedError");
    const watch = await WatchRecorder.start(second, { from: "/", to: "0", startRevision: revision + 1n });
    await write(second, put("/b"));
    await watch.waitForEvents(1);
    expect(await watch.stop()).toBeUndefined();
  });
});

describe("leases", () => {
  test("start their TTL again when the store is opened", async () => {
    let nowMs = 0;
    const clock = { ...systemClock, wallMs: () => nowMs, monotonicMs: () => nowMs };
    const first = await EmbeddedKvStore.open({ directory: temp.path, clock });
    const { leaseId } = await first.grantLease(60_000);
    await write(first, put("/leased", "x", leaseId));
    nowMs = 59_000;
    await first.close();
    const second = await EmbeddedKvStore.open({ directory: temp.path, clock });
    releases.push(() => second.close());
    nowMs = 118_000;
    expect(await second.keepLeaseAlive(leaseId)).toEqual({ leaseId, ttlMs: 60_000 });
    await second.revokeLease(leaseId);
    expect((await second.get("/leased")).pair).toBeUndefined();
  });

  test("of a killed process expire after the store is opened again", async () => {
    const first = await open();
    const { leaseId } = await first.grantLease(300);
    await write(first, put("/leased", "x", leaseId));
    await first.close();
    const second = await open();
    expect((await second.get("/leased")).pair?.leaseId).toBe(leaseId);
    await waitFor(async () => (await second.get("/leased")).pair === undefined, { what: "the leased key to vanish" });
  });

  test("a put that shares its commit with the revocation of its lease is refused", async () => {
    const store = await open();
    const { leaseId } = await store.grantLease(60_000);
    const revoking = store.revokeLease(leaseId);
    await expect(write(store, put("/leased", "x", leaseId))).rejects.toThrow("was revoked");
    await revoking;
    expect((await store.get("/leased")).pair).toBeUndefined();
  });
});

test("a write that waits for the disk beyond its deadline is taken back", async () => {
  const store = await open();
  const large = write(store, put("/large", Buffer.alloc(16 * 1024 * 1024 - 10)));
  const late = store.txn({ compares: [], writes: [put("/late")] }, { deadlineMs: 0 });
  await expect(late).rejects.toThrow(/it was not written/);
  await large;
  await write(store, put("/next"));
  expect((await store.get("/late")).pair).toBeUndefined();
});

test("a reader that was killed does not keep the file growing", { timeout: 60_000 }, async () => {
  let nowMs = 0;
  const store = await EmbeddedKvStore.open({
    directory: temp.path,
    clock: { ...systemClock, monotonicMs: () => nowMs },
  });
  releases.push(() => store.close());
  const growth = async () => {
    const before = (await store.status()).sizeBytes;
    for (let round = 0; round < 10; round++) await write(store, put("/a", Buffer.alloc(1024 * 1024, round)));
    return (await store.status()).sizeBytes - before;
  };
  await growth();
  const reader = child("pin");
  await reader.next();
  expect(await growth()).toBeGreaterThan(8 * 1024 * 1024);
  await reader.kill();
  nowMs += 60_000;
  await store.status();
  expect(await growth()).toBeLessThan(2 * 1024 * 1024);
});

interface Line {
  readonly error?: string;
  readonly number?: number;
  readonly acknowledged?: number;
  readonly revision?: string;
  readonly smallRevision?: string;
}

interface Child {
  readonly process: ChildProcess;
  /** Everything it has said. */
  readonly lines: readonly Line[];
  next(): Promise<Line>;
  kill(): Promise<void>;
  exited(): Promise<void>;
}

function child(action: string, launcher: readonly string[] = []): Child {
  const script = fileURLToPath(new URL("./embedded-child.ts", import.meta.url));
  const [command, ...args] = [...launcher, process.execPath, "--import", "tsx", script, action, temp.path];
  const started = spawn(command!, args, { stdio: ["ignore", "pipe", "ignore"] });
  const exit = once(started, "exit");
  const reader = createInterface({ input: started.stdout });
  const closed = once(reader, "close");
  const lines: Line[] = [];
  reader.on("line", (line) => lines.push(JSON.parse(line)));
  let read = 0;
  const exited = async () => {
    await within(Promise.all([exit, closed]), { deadlineMs: 20_000, what: "the child to end" });
  };
  const kill = async () => {
    started.kill("SIGKILL");
    await exited();
  };
  releases.push(kill);
  return {
    process: started,
    lines,
    kill,
    exited,
    next: async () => {
      await waitFor(() => lines.length > read, { deadlineMs: 20_000, what: `line ${read + 1} of the child` });
      return lines[read++]!;
    },
  };
}
