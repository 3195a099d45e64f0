import { beforeEach, describe, expect, it } from "vitest";
import { validUntilMs } from "../../src/leadership/lease.js";
import type { TxnRequest } from "../../src/oplog/kv-store.js";
import { silentLogger } from "../../src/oplog/logger.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { Campaign } from "../../src/promotion/campaign.js";
import type { CampaignMessage, Candidate, Lost } from "../../src/promotion/messages.js";
import { aLog } from "../following/followers.js";
import {
  anAppend,
  appendedOf,
  inTime,
  keysOf,
  passTime,
  putHeadAgain,
  testClock,
  until,
  useFakeTime,
} from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";

useFakeTime();

const keys = keysOf();
const TTL_MS = 3000;
let store: FaultyKvStore;
beforeEach(() => {
  store = new FaultyKvStore(new MemoryKvStore({ clock: testClock }));
});

const isClaim = ({ writes }: TxnRequest) => writes.some((write) => write.kind === "put" && write.key === keys.term);

function aCampaign(shape: Partial<Candidate> = {}, takes: (message: CampaignMessage) => boolean = () => true) {
  const log = aLog(store);
  const told: CampaignMessage[] = [];
  const campaign = new Campaign({
    store,
    log,
    view: undefined,
    eviction: undefined,
    clock: testClock,
    storeUnreachableMs: () => 0,
    logger: silentLogger,
    observer: { promoted() {}, lost() {}, handedOver() {} },
    candidate: {
      id: "c",
      endpoint: "c:1",
      ttlMs: TTL_MS,
      readyTimeoutMs: 1000,
      needsHandshake: false,
      aliveWithinMs: undefined,
      ...shape,
    },
    send: (message) => takes(message) && told.push(message) > 0,
  });
  let lost: Lost | undefined;
  const ended = campaign.run().then((outcome) => {
    lost = outcome;
    return outcome;
  });
  const terms = () => told.flatMap((each) => (each.kind === "leading" ? [each.term] : []));
  return { campaign, log, told, terms, ended, lost: () => lost };
}

/** What is appended next is refused, which ends the writer and not the leadership. */
async function ruleOutNext({ log }: ReturnType<typeof aCampaign>): Promise<void> {
  appendedOf(await append(log));
  await putHeadAgain(store, keys);
  await append(log);
}

async function append(log: ReturnType<typeof aLog>) {
  const item = anAppend().build();
  (await inTime(log.primary.lead())).append(item);
  return inTime(item.outcome);
}

describe("a leader whose writer has ended", () => {
  it("is told what its further term took, and not what the first one did", async () => {
    const leader = aCampaign();
    await until(() => leader.terms().length === 1, "the first term");
    // So that the claim has to be made once more, after a pause.
    store.loseNextReplies(1, isClaim);
    await ruleOutNext(leader);
    await until(() => leader.terms().length === 2, "the next term");
    const [first, second] = leader.told.flatMap((each) => (each.kind === "leading" ? [each.times] : []));
    expect(first).toEqual({ fenceMs: 0, catchUpMs: 0, objectLeasesMs: 0 });
    expect(second!.fenceMs).toBeGreaterThan(0);
    leader.campaign.resign("done");
    await inTime(leader.ended);
  });

  it("leads a further term though the answer to its claim was lost", async () => {
    const leader = aCampaign();
    await until(() => leader.terms().length === 1, "the first term");
    store.loseNextReplies(1, isClaim);
    await ruleOutNext(leader);
    await until(() => leader.terms().length === 2, "the next term");
    expect(leader.terms()).toEqual([1n, 3n]);
    expect(leader.lost()).toBeUndefined();
    appendedOf(await append(leader.log));
    leader.campaign.resign("done");
    expect(await inTime(leader.ended)).toMatchObject({ reason: "resigned" });
  });

  it("keeps its lease until what it was promised has run out, when it falls silent between two terms", async () => {
    const leader = aCampaign({ aliveWithinMs: 500 });
    await until(() => leader.terms().length === 1, "the first term");
    leader.campaign.alive();
    store.failNextTxns(100, isClaim);
    await ruleOutNext(leader);
    const promise = leader.told.findLast((each) => each.kind === "lease renewed");
    await passTime(600);
    expect(promise).toBeDefined();
    expect((await store.get(keys.leader)).pair).toBeDefined();
    expect(await inTime(leader.ended)).toMatchObject({ reason: "silent" });
    expect((await store.get(keys.leader)).pair).toBeUndefined();
  });
});

it("is promised nothing before it has been told that it leads", async () => {
  let takes = false;
  const leader = aCampaign({}, () => takes);
  await until(() => leader.campaign.leading !== undefined, "the leadership");
  await passTime(TTL_MS);
  expect(leader.told).toEqual([]);
  takes = true;
  await passTime(TTL_MS);
  expect(leader.told.slice(0, 2).map(({ kind }) => kind)).toEqual(["leading", "lease renewed"]);
  leader.campaign.resign("done");
  await inTime(leader.ended);
});

it("writes nothing after its lease has run out in the store, though nobody has claimed the log since", async () => {
  const leader = aCampaign();
  await until(() => leader.terms().length === 1, "the term");
  appendedOf(await append(leader.log));
  const late = store.holdNextTxn(({ writes }) =>
    writes.some((write) => write.kind === "put" && write.key === keys.head),
  );
  const item = anAppend().build();
  (await inTime(leader.log.primary.lead())).append(item);
  await late.arrived;
  store.goAway();
  expect(await inTime(leader.ended)).toMatchObject({ reason: "store unreachable" });
  await passTime(TTL_MS);
  store.comeBack();
  expect((await store.get(keys.leader)).pair).toBeUndefined();
  expect(await late.applyNow()).toMatchObject({ succeeded: false });
  expect(item.settled).toMatchObject({ error: { reason: "OUTCOME_UNKNOWN" } });
});

it("does not lead, nor prepare itself, when its lease is lost while the claim is on its way", async () => {
  const claim = store.hangNextTxn(isClaim);
  const candidate = aCampaign({ needsHandshake: true });
  await claim.arrived;
  store.failLeases();
  await passTime(validUntilMs(testClock.monotonicMs(), TTL_MS) - testClock.monotonicMs() + 1);
  await claim.answer();
  await until(() => candidate.told.length > 0, "the end");
  const message = "the lease was lost before the candidate could lead";
  expect(candidate.told).toEqual([{ kind: "lost", lost: { reason: "store unreachable", message } }]);
  expect(candidate.log.primary.preparing).toBeUndefined();
  await inTime(candidate.ended);
});

it("is not held for a silent candidate any longer once that one resigns", async () => {
  const leader = aCampaign({ aliveWithinMs: 500 });
  await until(() => leader.terms().length === 1, "the term");
  await passTime(600);
  const promise = leader.told.findLast((each) => each.kind === "lease renewed");
  expect(leader.lost()).toBeUndefined();
  leader.campaign.resign("done");
  expect(await inTime(leader.ended)).toMatchObject({ reason: "silent" });
  expect(testClock.monotonicMs()).toBeLessThan(promise!.validUntilMs);
});
