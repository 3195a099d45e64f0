import { toBinary } from "@bufbuild/protobuf";
import { beforeEach, describe, expect, it } from "vitest";
import type { CursorUpdate } from "../../src/cursors/cursor-rules.js";
import { CursorWriter } from "../../src/cursors/cursor-writer.js";
import { CursorSchema } from "../../src/gen/oplog/store/v1/store_pb.js";
import { toLogStatus } from "../../src/grpc/convert.js";
import { chainOf } from "../../src/oplog/record.js";
import { readCursor } from "../../src/stored/cursors.js";
import { readOrigin } from "../../src/stored/history.js";
import type { LogState } from "../../src/stored/log-state.js";
import { trim } from "../../src/stored/trim.js";
import { aLog, appendTo, aSubscriber } from "../following/followers.js";
import { anAppend, inTime, keysOf, testClock, until, useFakeTime } from "../log/support.js";
import { type Backup, RestorableKvStore } from "../support/restorable-kv-store.js";

useFakeTime();

const keys = keysOf();
let store: RestorableKvStore;
let chainHere: (id: bigint) => string;
let writer: CursorWriter;
beforeEach(() => {
  store = new RestorableKvStore(testClock);
  chainHere = () => "";
  writer = aWriter();
});

const aWriter = () =>
  new CursorWriter({ store, keys, clock: testClock, chainHere: (id) => chainHere(id), onMoved: () => undefined });
/** Each in a record of its own. */
async function append(...counts: number[]): Promise<void> {
  const log = aLog(store);
  for (const count of counts) await appendTo(log, anAppend().of(count));
}
const chainAt = async (id: bigint) => (await readOrigin(store, keys, id, undefined)).chain;
const storedChain = async () => chainOf((await readCursor(store, keys, "c")).appliedChain);

const to = (applied: bigint, appliedChain = "", rest: Partial<CursorUpdate> = {}): CursorUpdate => ({
  consumer: "c",
  received: 0n,
  flushed: 0n,
  applied,
  stateHash: Buffer.alloc(0),
  appliedChain,
  isRewindAllowed: false,
  ...rest,
});

describe("a cursor holds the chain of the entry applied", () => {
  it.each([1n, 2n, 3n, 4n, 5n])("that the consumer does not tell: entry %s", async (id) => {
    await append(2, 2, 1);
    await writer.update(to(id));
    expect(await storedChain()).toBe(await chainAt(id));
  });

  it("from memory where the entry is still there, without a reading of the log", async () => {
    await append(2, 2);
    chainHere = () => "ab".repeat(16);
    await writer.update(to(2n));
    expect(await storedChain()).toBe("ab".repeat(16));
  });

  it("and none where no entry is applied, or nothing tells of it any more", async () => {
    await append(2, 2);
    await writer.update(to(0n));
    expect(await storedChain()).toBe("");
    await trim(store, keys, 3n);
    await writer.update(to(1n));
    expect(await storedChain()).toBe("");
    await writer.update(to(2n));
    expect(await storedChain()).toBe(await chainAt(2n));
  });

  it("so that a subscriber who starts from it finds out that the log has another history", async () => {
    await append(3);
    const backup = await store.backup();
    await append(3);
    await writer.update(to(5n));
    const cursor = (await store.backup()).filter(({ key }) => key === keys.cursor("c"));
    await store.restore([...backup, ...cursor]);
    await append(9);
    const { ended } = aSubscriber(aLog(store), { start: { kind: "cursor", consumer: "c" } });
    await expect(inTime(ended)).rejects.toMatchObject({ reason: "HISTORY_DIVERGED", facts: { sequence_id: 5n } });
  });
});

describe("a consumer that tells the chain of what it has applied", () => {
  let backup: Backup;
  let lost: string;
  /** 1..3 in the backup, 4..6 lost. */
  beforeEach(async () => {
    await append(3);
    backup = await store.backup();
    await append(3);
    lost = await chainAt(6n);
    await store.restore(backup);
  });

  it.each([
    ["the log has grown past it", 9],
    ["the log is exactly as long again", 3],
    ["the log is shorter", 1],
  ])("of a lost entry is refused where %s, and the cursor stays as it was", async (_, count) => {
    await append(count);
    await writer.update(to(3n));
    await expect(writer.update(to(6n, lost))).rejects.toMatchObject({
      reason: "HISTORY_DIVERGED",
      facts: { sequence_id: 6n, yours: lost },
    });
    await expect(writer.update(to(6n, lost, { isRewindAllowed: true }))).rejects.toMatchObject({
      reason: "HISTORY_DIVERGED",
    });
    expect(await readCursor(store, keys, "c")).toMatchObject({ appliedSequenceId: 3n });
  });

  it("of an entry that is there goes on", async () => {
    await append(2, 4);
    for (const id of [2n, 4n, 5n, 9n]) {
      await writer.update(to(id, await chainAt(id)));
      expect(await storedChain()).toBe(await chainAt(id));
    }
  });

  it("costs nobody else that shares the write", async () => {
    await append(9);
    const first = writer.update(to(1n));
    const told = Promise.allSettled([to(2n), to(6n, lost), to(7n), to(8n, lost)].map((each) => writer.update(each)));
    await first;
    expect((await told).map((each) => (each.status === "rejected" ? each.reason.reason : "moved"))).toEqual([
      "moved",
      "HISTORY_DIVERGED",
      "moved",
      "HISTORY_DIVERGED",
    ]);
    expect(await readCursor(store, keys, "c")).toMatchObject({ appliedSequenceId: 7n });
    expect(await storedChain()).toBe(await chainAt(7n));
  });
});

it("a cursor that is of a lost history is moved on by a rewind alone", async () => {
  await append(3);
  const backup = await store.backup();
  await append(3);
  await writer.update(to(5n));
  const cursor = (await store.backup()).filter(({ key }) => key === keys.cursor("c"));
  await store.restore([...backup, ...cursor]);
  await append(9);
  const fresh = aWriter();
  await expect(fresh.update(to(8n))).rejects.toMatchObject({ reason: "HISTORY_DIVERGED", facts: { sequence_id: 5n } });
  await fresh.update(to(1n, "", { isRewindAllowed: true }));
  await fresh.update(to(8n));
  expect(await storedChain()).toBe(await chainAt(8n));
});

it("a sidecar that follows the log takes the chain of a cursor from its memory", async () => {
  const log = aLog(store);
  const { sink, leave, ended } = aSubscriber(log);
  await until(() => sink.noticed.includes("caught up"), "the head");
  await append(2, 2);
  await until(() => sink.covered === 4n, "4");
  expect(log.chainHere(2n)).toBe(await chainAt(2n));
  await inTime(log.updateCursor(to(2n)));
  expect(await storedChain()).toBe(await chainAt(2n));
  leave();
  await inTime(ended);
});

it("the status tells of a cursor at the head that is of another history, and of no other one", async () => {
  await append(3);
  await writer.update(to(3n, "", { consumer: "sound" }));
  await writer.update(to(3n));
  const value = toBinary(CursorSchema, { ...(await readCursor(store, keys, "c")), appliedChain: Buffer.alloc(16, 7) });
  await store.txn({ compares: [], writes: [{ kind: "put", key: keys.cursor("c"), value }] });
  const log = aLog(store);
  const state = (await inTime(log.observe())) as LogState;
  const { cursors } = toLogStatus(log, state, 0, undefined);
  expect(cursors.map(({ consumer, problem }) => [consumer, problem])).toEqual([
    ["c", expect.stringContaining(`another history: chain ${"07".repeat(16)}, and the log's is ${await chainAt(3n)}`)],
    ["sound", ""],
  ]);
  expect(chainOf(cursors[1]!.appliedChain)).toBe(await chainAt(3n));
});
