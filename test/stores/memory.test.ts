import { systemClock } from "../../src/oplog/clock.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { kvStoreContract } from "./contract.js";

kvStoreContract(
  "memory",
  async () => {
    const store = new MemoryKvStore({ clock: systemClock });
    return { store, compact: async (revision) => store.compact(revision), cleanup: () => store.close() };
  },
  { outlivesProcess: false },
);
