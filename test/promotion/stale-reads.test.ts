import { beforeEach, describe, expect, it } from "vitest";
import type { GetResult } from "../../src/oplog/kv-store.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { StoreUnavailableError } from "../../src/oplog/store-errors.js";
import { aLog, appendTo } from "../following/followers.js";
import {
  anAppend,
  appendedOf,
  inTime,
  keysOf,
  passTime,
  putHeadAgain,
  testClock,
  useFakeTime,
} from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";
import { Side } from "./side.js";

useFakeTime();

const keys = keysOf();

/** Answers reads from the past, as etcd may (#20418); what a transaction compares and reads is always of now. */
class ForgetfulStore extends MemoryKvStore {
  /** How many more reads are answered from the past. */
  stale = 0;
  private readonly past = new Map<string, GetResult>();

  async remember(): Promise<void> {
    for (const key of [keys.term, keys.leader, keys.successor, keys.head]) this.past.set(key, await super.get(key));
  }

  override async get(key: string): Promise<GetResult> {
    const past = this.stale > 0 ? this.past.get(key) : undefined;
    if (past === undefined) return super.get(key);
    this.stale--;
    return past;
  }
}

let store: ForgetfulStore;
beforeEach(() => {
  store = new ForgetfulStore({ clock: testClock });
});

const termAtRest = async () => (await store.get(keys.term)).pair!.modRevision;

describe("a read that is answered from the past", () => {
  it("does not end the term of a leader, whether it shows nobody or the one before", async () => {
    for (const name of ["a", "b"]) {
      await store.remember();
      const side = new Side(name, store);
      const leader = await side.leader(name);
      appendedOf(await side.append());
      const term = await termAtRest();
      store.stale = 40;
      await passTime(20_000);
      expect(store.stale).toBe(0);
      expect(leader).toMatchObject({ end: undefined });
      expect(leader.terms).toHaveLength(1);
      expect(await termAtRest()).toBe(term);
      appendedOf(await side.append());
      await leader.resign();
    }
  });

  it("does not end a leadership between two terms", async () => {
    await store.remember();
    const side = new Side("a", store);
    const leader = await side.leader("a");
    appendedOf(await side.append());
    await putHeadAgain(store, keys);
    store.stale = 12;
    await side.append();
    await leader.hears("leading", 2);
    expect(leader.end).toBeUndefined();
    appendedOf(await side.append());
  });

  it("does not end a candidate's preparation", async () => {
    await store.remember();
    const side = new Side("a", store);
    const candidate = side.enter("a", { needsHandshake: true });
    await candidate.hears("prepare");
    store.stale = 30;
    await passTime(10_000);
    candidate.ready(0n);
    await candidate.hears("leading");
    expect(candidate.terms).toEqual([1n]);
  });

  it("does not make one that has stalled believe that the log is another's", async () => {
    await appendTo(aLog(store), anAppend());
    await store.remember();
    const network = new FaultyKvStore(store);
    const log = aLog(network);
    await appendTo(log, anAppend());
    network.goAway();
    const stalled = anAppend().build();
    await log.append(stalled);
    await inTime(stalled.outcome);
    network.comeBack();
    store.stale = Number.POSITIVE_INFINITY;
    await expect(inTime(log.primary.lead())).rejects.toThrow(StoreUnavailableError);
    store.stale = 0;
    expect(await appendTo(log, anAppend())).toBe(3n);
  });

  it("does not name a leader of a term below one that is known", async () => {
    const former = aLog(store);
    await appendTo(former, anAppend());
    await store.remember();
    await appendTo(aLog(store), anAppend());
    await inTime(former.append(anAppend().build()));
    await passTime(100);
    store.stale = 2;
    await expect(inTime(former.primary.lead())).rejects.toMatchObject({ facts: { term: 2n } });
  });
});
