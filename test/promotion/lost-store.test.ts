import { beforeEach, describe, expect, it } from "vitest";
import { type GetResult, type Lease, StoreDataLossError } from "../../src/oplog/kv-store.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { inTime, testClock, useFakeTime } from "../log/support.js";
import { refusalOf, Side, TTL_MS } from "./side.js";

useFakeTime();

/** Leases go with the data, as they do in one file; or only what is read does. */
class LosableKvStore extends MemoryKvStore {
  lost: "nothing" | "reads" | "leases" = "nothing";

  override async get(key: string): Promise<GetResult> {
    if (this.lost === "reads") throw new StoreDataLossError("the file is cut off");
    return super.get(key);
  }

  override async keepLeaseAlive(leaseId: bigint): Promise<Lease> {
    if (this.lost === "leases") throw new StoreDataLossError("the file is gone");
    return super.keepLeaseAlive(leaseId);
  }
}

let store: LosableKvStore;
beforeEach(() => {
  store = new LosableKvStore({ clock: testClock });
});

describe("a store that is lost", () => {
  for (const lost of ["reads", "leases"] as const) {
    it(`is told as data loss to whoever leads and whoever waits, by its ${lost}, and not as unreachable`, async () => {
      const side = new Side("a", store);
      const leader = await side.leader("leader");
      const waiting = await side.standby("waiting");
      store.lost = lost;
      const startedMs = testClock.monotonicMs();
      for (const { ended, kinds } of [leader, waiting]) {
        expect(await inTime(ended)).toMatchObject({ code: "DATA_LOSS", reason: "STORE_DAMAGED" });
        expect(kinds).not.toContain("lost");
      }
      expect(testClock.monotonicMs() - startedMs).toBeLessThan(2 * TTL_MS);
    });
  }

  it("ends a hand-over with that", async () => {
    const side = new Side("a", store);
    const leader = await side.leader("leader");
    await side.standby("waiting");
    store.lost = "reads";
    const refusal = await refusalOf(side.campaigns.handOver("log", "waiting", 1000));
    expect(refusal).toMatchObject({ code: "DATA_LOSS", reason: "STORE_DAMAGED" });
    await inTime(leader.ended);
  });
});
