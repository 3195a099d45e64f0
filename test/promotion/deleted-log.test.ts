import { beforeEach, describe, expect, it } from "vitest";
import { LogDeletedError, LogReplacedError } from "../../src/oplog/log-errors.js";
import { silentLogger } from "../../src/oplog/logger.js";
import { MemoryKvStore } from "../../src/oplog/memory-kv-store.js";
import { Campaign } from "../../src/promotion/campaign.js";
import type { CampaignMessage } from "../../src/promotion/messages.js";
import { deleteLog } from "../../src/writing/delete-log.js";
import { aLog, appendTo } from "../following/followers.js";
import { anAppend, anIdentity, inTime, keysOf, passTime, testClock, until, useFakeTime } from "../log/support.js";
import { FaultyKvStore } from "../support/faulty-kv-store.js";

useFakeTime();

const TTL_MS = 3000;
const keys = keysOf();
const never = new AbortController().signal;
let store: FaultyKvStore;
beforeEach(() => {
  store = new FaultyKvStore(new MemoryKvStore({ clock: testClock }));
});

/** A candidate at a sidecar of its own, which may have a way of its own to the store. */
function aCandidate(id: string, itsStore = store) {
  const log = aLog(itsStore, { identity: anIdentity(id) });
  const told: CampaignMessage[] = [];
  const campaign = new Campaign({
    store: itsStore,
    log,
    view: undefined,
    eviction: undefined,
    clock: testClock,
    storeUnreachableMs: () => 0,
    logger: silentLogger,
    observer: { promoted() {}, lost() {}, handedOver() {} },
    candidate: {
      id,
      endpoint: `${id}:1`,
      ttlMs: TTL_MS,
      readyTimeoutMs: 1000,
      needsHandshake: false,
      aliveWithinMs: undefined,
    },
    send: (message) => told.push(message) > 0,
  });
  const ended = campaign.run();
  ended.catch(() => undefined);
  const hears = (kind: CampaignMessage["kind"]) =>
    until(() => told.some((each) => each.kind === kind), `"${id}" to hear ${kind}`, 4 * TTL_MS);
  return { campaign, log, told, ended, hears };
}

type AtSidecar = Pick<ReturnType<typeof aCandidate>, "log">;

async function logIdAt({ log }: AtSidecar): Promise<Uint8Array> {
  const state = await inTime(log.observe());
  if (typeof state === "string") throw new Error(state);
  return state.logId;
}

async function aLeader() {
  const leader = aCandidate("a");
  await leader.hears("leading");
  await appendTo(leader.log, anAppend());
  return leader;
}

describe("when its log is deleted", () => {
  it("a leader loses it at once, is told why, and refuses what is appended", async () => {
    const leader = await aLeader();
    const term = leader.campaign.held?.term ?? 0n;
    await inTime(aLog(store).delete(await logIdAt(leader)));
    expect(await inTime(leader.ended)).toEqual({ reason: "fenced", message: 'log "log" was deleted' });
    expect(await store.get(keys.leader)).toMatchObject({ pair: undefined });
    const next = aCandidate("b");
    await next.hears("leading");
    expect(next.campaign.held?.term).toBe(term + 2n);
    next.campaign.resign("the test is over");
    await inTime(next.ended);
  });

  it("a leader who deletes it at the own sidecar is told the same", async () => {
    const leader = await aLeader();
    await inTime(leader.log.delete(await logIdAt(leader)));
    expect(await inTime(leader.ended)).toMatchObject({ reason: "fenced", message: expect.stringContaining("deleted") });
  });

  it("a candidate that waits is ended, and may enter for the next one", async () => {
    const leader = await aLeader();
    const waiting = aCandidate("b");
    await waiting.hears("waiting");
    await inTime(leader.log.delete(await logIdAt(leader)));
    await expect(inTime(waiting.ended)).rejects.toThrow(LogDeletedError);
    const again = aCandidate("b");
    await again.hears("leading");
    expect((await logIdAt(again)).length).toBe(16);
    again.campaign.resign("the test is over");
    await inTime(again.ended);
  });

  it("a candidate that waits leads no other log that has come by the name unseen", async () => {
    const leader = await aLeader();
    const far = new FaultyKvStore(store);
    const waiting = aCandidate("b", far);
    await waiting.hears("waiting");
    const logId = await logIdAt(leader);
    far.goAway();
    await inTime(aLog(store).delete(logId));
    await appendTo(aLog(store, { identity: anIdentity("x") }), anAppend());
    far.comeBack();
    await expect(inTime(waiting.ended)).rejects.toThrow(LogReplacedError);
    expect(waiting.told.map(({ kind }) => kind)).not.toContain("leading");
    expect(waiting.log.primary.role).not.toBe("preparing");
  });

  it("nobody enters before that is over", async () => {
    const leader = await aLeader();
    const logId = await logIdAt(leader);
    leader.campaign.resign("the test wants it so");
    await inTime(leader.ended);
    store.passNextTxns(1, ({ writes }) => writes.some((write) => "key" in write && write.key === keys.term));
    store.failNextTxns(1, ({ writes }) => writes.some((write) => write.kind === "delete-range"));
    await expect(inTime(deleteLog(store, keys, logId, never))).rejects.toThrow("lost on its way");
    await expect(inTime(aCandidate("b").ended)).rejects.toThrow(LogDeletedError);
    await inTime(deleteLog(store, keys, logId, never));
    const next = aCandidate("b");
    await next.hears("leading");
    next.campaign.resign("the test is over");
    await inTime(next.ended);
    await passTime(TTL_MS);
  });
});
