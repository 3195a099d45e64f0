import { writeSync } from "node:fs";
import type { KvStore } from "../../src/oplog/kv-store.js";
import { Database } from "../../src/stores/embedded/database.js";
import { EmbeddedKvStore } from "../../src/stores/embedded/embedded-kv-store.js";

/** A process of its own for the tests of the embedded store: <what to do> <data directory>. Speaks JSON lines. */

const MIB = 1024 * 1024;

const actions: Record<string, (store: KvStore) => Promise<void>> = {
  /** Keeps the directory until it is killed. */
  async hold() {
    setInterval(() => {}, 60_000);
  },

  /** Counts up, one key and one acknowledgement after the other, until it is killed. */
  async count(store) {
    const { pair } = await store.get("/head");
    let { modRevision } = pair ?? { modRevision: 0n };
    for (let next = Number(pair?.value ?? 0) + 1; ; next++) {
      const result = await store.txn({
        compares: [{ key: "/head", modRevision }],
        writes: [
          { kind: "put", key: `/numbers/${String(next).padStart(20, "0")}`, value: Buffer.alloc(next % 5_000, "x") },
          { kind: "put", key: "/head", value: Buffer.from(String(next)) },
        ],
      });
      if (!result.succeeded) throw new Error(`another writer: ${next}`);
      modRevision = result.revision;
      say({ number: next, revision: String(result.revision) });
    }
  },

  /** Writes pairs of large keys until the disk takes no more, then one small key. */
  async fill(store) {
    let acknowledged = 0;
    try {
      for (;;) {
        const value = Buffer.alloc(MIB);
        await store.txn({
          compares: [],
          writes: ["a", "b"].map((side) => ({ kind: "put", key: `/${side}/${acknowledged}`, value })),
        });
        acknowledged++;
      }
    } catch (error) {
      const { revision } = await store.get("/small");
      const small = await store.txn({
        compares: [],
        writes: [{ kind: "put", key: "/small", value: Buffer.from("x") }],
      });
      say({
        error: String(error),
        acknowledged,
        revision: String(revision),
        smallRevision: String(small.revision),
      });
    }
    await store.close();
  },
};

function say(facts: object): void {
  // Not console.log: what was acknowledged must have left the process before it is killed.
  writeSync(1, `${JSON.stringify(facts)}\n`);
}

const [action, directory] = process.argv.slice(2);
if (action === "pin") {
  // A reader that never ends, until it is killed.
  await Database.pinned(directory!, () => {
    say({ opened: true });
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  });
}
try {
  const store = await EmbeddedKvStore.open({ directory: directory! });
  say({ opened: true });
  await actions[action!]!(store);
} catch (error) {
  say({ error: String(error) });
  process.exitCode = 1;
}
