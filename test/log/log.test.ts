import { beforeEach, describe, expect, it } from "vitest";
import type { AskLeader } from "../../src/log/contract.js";
import type { Log } from "../../src/log/log.js";
import { ShuttingDownError } from "../../src/oplog/errors.js";
import type { TxnRequest } from "../../src/oplog/kv-store.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { silentObserver } from "../../src/oplog/observer.js";
import type { Resolution } from "../../src/oplog/operation-window.js";
import type { LogState } from "../../src/stored/log-state.js";
import { QueueBudget } from "../../src/writing/append-item.js";
import { aLog, appendTo, aSubscriber } from "../following/followers.js";
import { Side } from "../promotion/side.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";
import {
  anAppend,
  anIdentity,
  appendedOf,
  errorOf,
  inTime,
  passTime,
  testClock,
  until,
  useFakeTime,
} from "./support.js";

useFakeTime();

let inner: MemoryKvStore;
let store: FaultyKvStore;
beforeEach(() => {
  inner = new MemoryKvStore({ clock: testClock });
  store = new FaultyKvStore(inner);
});

async function stateOf(log: Log): Promise<LogState> {
  const state = await inTime(log.observe());
  if (typeof state === "string") throw new Error(`the log is ${state}`);
  return state;
}

describe("what is told of a log while the store is away", () => {
  it("is who leads here and where the head is, though somebody else led when it was read last", async () => {
    const former = await new Side("a", inner).leader("old");
    const side = new Side("b", store);
    const read = await stateOf(side.log);
    expect(read).toMatchObject({ leader: { id: "old", term: 1n }, head: 0n });
    expect(read.leaseLeftMs).toBeGreaterThan(0);
    await former.resign();
    await side.leader("new");
    await side.append();
    store.goAway();
    expect(await stateOf(side.log)).toMatchObject({
      leader: { id: "new", endpoint: "b:7070", term: 2n },
      head: 1n,
      leaseLeftMs: undefined,
      observedWallMs: read.observedWallMs,
    });
  });

  it("is who has won here, before it is ready", async () => {
    const side = new Side("b", store);
    const entrant = side.enter("new", { needsHandshake: true });
    await entrant.hears("prepare");
    store.goAway();
    expect(await stateOf(side.log)).toMatchObject({ leader: { id: "new", term: 1n }, head: 0n });
    expect(side.log.primary.role).toBe("preparing");
  });

  it("is never a time that the lease has left, not even of the same leader", async () => {
    const side = new Side("a", store);
    await side.leader("a");
    expect((await stateOf(side.log)).leaseLeftMs).toBeGreaterThan(0);
    store.goAway();
    expect(await stateOf(side.log)).toMatchObject({ leader: { id: "a" }, leaseLeftMs: undefined });
  });

  it("is that nobody leads, until somebody has come to lead since", async () => {
    const former = await new Side("a", inner).leader("old");
    await former.resign();
    const side = new Side("b", store);
    expect(await stateOf(side.log)).toMatchObject({ isVacant: true });
    store.goAway();
    expect(await stateOf(side.log)).toMatchObject({ leader: { id: "old" }, isVacant: true });
    store.comeBack();
    await side.leader("new");
    store.goAway();
    expect(await stateOf(side.log)).toMatchObject({ leader: { id: "new" }, isVacant: false });
  });

  it("is that nobody leads, also where only the leader was asked for", async () => {
    const other = new Side("a", inner);
    const former = await other.leader("old");
    const { log } = new Side("b", store);
    await stateOf(log);
    await former.resign();
    const later = await other.leader("later");
    await later.resign();
    await inTime(log.readLeadership());
    store.goAway();
    expect(await stateOf(log)).toMatchObject({ leader: { id: "later", term: 2n }, isVacant: true });
  });

  it("is that nobody leads, also where the leader gave up here", async () => {
    const side = new Side("a", store);
    const leader = await side.leader("a");
    await stateOf(side.log);
    await leader.resign();
    await inTime(side.log.readLeadership());
    store.goAway();
    expect(await stateOf(side.log)).toMatchObject({ leader: { id: "a", term: 1n }, isVacant: true });
  });

  it.each([{ hasLeft: false }, { hasLeft: true }])(
    "is what has been followed, also when the last subscriber has left: $hasLeft",
    async ({ hasLeft }) => {
      const primary = aLog(inner, { identity: anIdentity("p") });
      await appendTo(primary, anAppend());
      const log = aLog(store);
      await stateOf(log);
      const { sink, leave } = aSubscriber(log);
      await appendTo(aLog(inner, { identity: anIdentity("q") }), anAppend());
      await until(() => sink.covered === 2n, "2");
      if (hasLeft) {
        leave();
        await passTime(60_000);
      }
      store.goAway();
      expect(await stateOf(log)).toMatchObject({ leader: { id: "q", term: 2n }, head: 2n });
    },
  );

  it("is who took the term from here", async () => {
    const log = aLog(store);
    await appendTo(log, anAppend());
    await stateOf(log);
    await appendTo(aLog(inner, { identity: anIdentity("q") }), anAppend());
    await expect(appendTo(log, anAppend())).rejects.toMatchObject({ reason: "NOT_PRIMARY" });
    store.goAway();
    expect(await stateOf(log)).toMatchObject({ leader: { id: "q", term: 2n } });
  });

  it("is nothing of one that did not exist when it was looked for, until it is known to exist", async () => {
    const log = aLog(store, { identity: anIdentity("a") });
    expect(await inTime(log.observe())).toBe("missing");
    store.goAway();
    expect(await inTime(log.observe())).toBe("unknown");
    store.comeBack();
    await appendTo(log, anAppend().of(3));
    store.goAway();
    expect(await stateOf(log)).toMatchObject({
      leader: { id: "a", term: 1n },
      head: 3n,
      floor: 1n,
      cursors: [],
      observedWallMs: undefined,
    });
  });
});

describe("the highest term seen", () => {
  /** An observer, and the last term that it was told. */
  function aWitness() {
    const terms: bigint[] = [];
    return { terms, observer: { ...silentObserver, termSeen: (_: string, term: bigint) => terms.push(term) } };
  }

  it("is told on both sides of a hand-over, and where a third waits, before anything is appended", async () => {
    const [a, b, c] = [aWitness(), aWitness(), aWitness()];
    const sides = [a, b, c].map(({ observer }, index) => new Side("abc"[index]!, store, { log: { observer } }));
    const leader = await sides[0]!.leader("a");
    expect(a.terms).toEqual([1n]);
    await sides[1]!.standby("b");
    await sides[2]!.standby("c");
    await inTime(sides[0]!.campaigns.handOver("log", "b", 5000));
    await inTime(leader.ended);
    await until(() => c.terms.at(-1) === 2n, "the one that waits to see it");
    for (const { terms } of [a, b, c]) expect(terms).toEqual([1n, 2n]);
  });

  it("is told of a claim by token, and of a refusal by somebody else's", async () => {
    const [mine, theirs] = [aWitness(), aWitness()];
    const [log, other] = [mine, theirs].map(({ observer }) => aLog(store, { observer }));
    await inTime(log!.primary.claimByToken(7n, { id: "m", endpoint: "" }));
    expect(mine.terms).toEqual([1n]);
    await expect(inTime(other!.primary.lead())).rejects.toMatchObject({ reason: "NOT_PRIMARY" });
    expect(theirs.terms).toEqual([1n]);
  });

  it("is told where the log is followed, once, whatever the terms of its records", async () => {
    await appendTo(aLog(store), anAppend());
    await appendTo(aLog(store), anAppend());
    const { terms, observer } = aWitness();
    const { sink } = aSubscriber(aLog(store, { observer }));
    await until(() => sink.covered === 2n, "2");
    expect(terms).toEqual([2n]);
    await appendTo(aLog(store), anAppend());
    await until(() => sink.covered === 3n, "3");
    expect(terms).toEqual([2n, 3n]);
  });
});

describe("an append to a log", () => {
  it("counts what waits for the term like what waits for the store", async () => {
    const budget = new QueueBudget(1 << 20, 1);
    const log = aLog(store, { budget });
    const slow = store.hangNextTxn();
    const [first, second] = [anAppend().build(), anAppend().build()];
    const queued = log.append(first);
    await slow.arrived;
    await expect(log.append(second)).rejects.toMatchObject({ reason: "QUEUE_FULL" });
    await slow.answer();
    await inTime(queued);
    expect(appendedOf(await inTime(first.outcome)).first).toBe(1n);
    expect(budget).toMatchObject({ bytes: 0, appends: 0 });
  });

  it("waits for room where who sent it is paced, and is asked about again before it is queued", async () => {
    const log = aLog(store, { budget: new QueueBudget(1 << 20, 1) });
    await appendTo(log, anAppend());
    const slow = store.hangNextTxn();
    const [first, second, third] = [anAppend().build(), anAppend().build(), anAppend().build()];
    await log.append(first);
    await slow.arrived;
    const gone = new AbortController();
    const asked: string[] = [];
    const paced = log.append(second, { paced: gone.signal, confirm: () => asked.push("second") });
    const refused = log.append(third, {
      paced: gone.signal,
      confirm: () => {
        throw new ShuttingDownError();
      },
    });
    refused.catch(() => undefined);
    await passTime(1000);
    expect(asked).toEqual([]);
    await slow.answer();
    await inTime(paced);
    expect(asked).toEqual(["second"]);
    await expect(inTime(refused)).rejects.toThrow(ShuttingDownError);
    expect(appendedOf(await inTime(second.outcome)).first).toBe(3n);
    expect(third.settled).toBeUndefined();
  });

  it("that waits for room is refused once it was called not committed, and one that waits for the term as well", async () => {
    const log = aLog(store, { budget: new QueueBudget(1 << 20, 1) });
    await appendTo(log, anAppend());
    const slow = store.hangNextTxn();
    const [first, second] = [anAppend().build(), anAppend().by("w", 1n).build()];
    await log.append(first);
    await slow.arrived;
    const paced = log.append(second, { paced: new AbortController().signal });
    const answer = log.resolveAppend("w", 1n);
    await passTime(10);
    expect(second.settled).toBeUndefined();
    await slow.answer();
    expect(await inTime(answer)).toMatchObject({ outcome: "not committed" });
    await inTime(paced);
    expect(errorOf(await inTime(second.outcome)).reason).toBe("OPERATION_ID_USED");

    const other = aLog(store);
    const isClaim = ({ writes }: TxnRequest) =>
      writes.some((each) => each.kind === "put" && each.key === other.keys.term);
    const claim = store.hangNextTxn(isClaim);
    const waiting = anAppend().by("w", 2n).build();
    const queued = other.append(waiting);
    await claim.arrived;
    expect(await inTime(other.resolveAppend("w", 2n))).toMatchObject({ outcome: "not committed" });
    await claim.answer();
    await inTime(queued);
    expect(errorOf(await inTime(waiting.outcome)).reason).toBe("OPERATION_ID_USED");
  });

  it("is asked about at the leader's sidecar, once, and in the store where that does not answer", async () => {
    const asked: string[] = [];
    let answers: Resolution | undefined = { outcome: "not committed", highest: 7n };
    const askLeader: AskLeader = async (endpoint, question) => {
      asked.push(`${endpoint} ${question.writerId}/${question.operationId}`);
      return answers;
    };
    const leader = aLog(store, { identity: anIdentity("leader") });
    await appendTo(leader, anAppend().by("w", 1n));
    const standby = aLog(store, { askLeader });
    expect(await inTime(standby.resolveAppend("w", 9n))).toEqual(answers);
    expect(await inTime(standby.resolveAppend("w", 1n, true))).toMatchObject({ outcome: "committed" });
    answers = undefined;
    expect(await inTime(standby.resolveAppend("w", 1n))).toMatchObject({ outcome: "committed" });
    expect(asked).toEqual(["leader:7070 w/9", "leader:7070 w/1"]);
    expect(await inTime(leader.resolveAppend("w", 0n))).toMatchObject({ outcome: "committed", highest: 1n });
    expect(asked).toHaveLength(2);
  });
});
