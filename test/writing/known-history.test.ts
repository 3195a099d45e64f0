import { beforeEach, describe, expect, it } from "vitest";
import type { Log } from "../../src/log/log.js";
import { aLog, appendTo, aSubscriber } from "../following/followers.js";
import { anAppend, anIdentity, appendedOf, inTime, testClock, until, useFakeTime } from "../log/support.js";
import { RestorableKvStore } from "../support/restorable-kv-store.js";

useFakeTime();

let store: RestorableKvStore;
/** A sidecar that runs through everything; what it has told of its log. */
let witness: Log;
let told: string[];
beforeEach(() => {
  store = new RestorableKvStore(testClock);
  told = [];
  witness = aLog(store, { onDiverged: (_log, error) => told.push(error.reason) });
});

/** 1..3 in the backup, 4..6 seen by the witness and lost. */
async function loseSeen(see: "by writing" | "by following", ...counts: number[]): Promise<void> {
  const subscriber = aSubscriber(witness);
  const log = see === "by writing" ? witness : aLog(store);
  await appendTo(log, anAppend().of(3));
  const backup = await store.backup();
  await appendTo(log, anAppend().of(3));
  await until(() => subscriber.sink.covered === 6n, "6");
  await store.restore(backup);
  for (const count of counts) await appendTo(aLog(store), anAppend().of(count));
  if (see === "by following") {
    // As after a while without subscribers: what was followed is remembered.
    subscriber.leave();
    await inTime(subscriber.ended);
  }
}

const appendAtWitness = () => inTime(witness.append(anAppend().build()).catch((error: unknown) => error));

it.each([
  ["ends before it", []],
  ["has another entry in its place", [9]],
  ["is exactly as long again", [3]],
])("a sidecar that has followed an entry claims no term when the log %s", async (_, counts) => {
  await loseSeen("by following", ...counts);
  expect(await appendAtWitness()).toMatchObject({ reason: "HISTORY_DIVERGED", facts: { sequence_id: 6n } });
  expect(told).toContain("HISTORY_DIVERGED");
});

it("a term that was not claimed is not taken from anybody: who writes the new history goes on", async () => {
  await loseSeen("by following", 2);
  const other = aLog(store);
  await appendTo(other, anAppend());
  await appendAtWitness();
  expect(await appendTo(other, anAppend())).toBe(7n);
});

it("a sidecar that has written a lost entry claims no term either, once its writer has found out", async () => {
  await loseSeen("by writing", 9);
  const outcomes: unknown[] = [];
  for (let each = 0; each < 2; each++) {
    const append = anAppend().build();
    const error = await inTime(
      witness.append(append).then(
        () => append.outcome,
        (refusal: unknown) => refusal,
      ),
    );
    outcomes.push(error);
  }
  expect(JSON.stringify(outcomes, (_, value) => (typeof value === "bigint" ? String(value) : value))).not.toMatch(
    /appended/,
  );
});

it("an operation of the lost entries is not answered as committed", async () => {
  const writer = aLog(store);
  const backup = await store.backup();
  const append = anAppend().by("w", 1n).build();
  await inTime(writer.append(append));
  await inTime(append.outcome);
  await store.restore(backup);
  const again = anAppend().by("w", 1n).build();
  await inTime(writer.append(again));
  expect(await inTime(again.outcome)).toHaveProperty("error");
});

it("after the store has been adopted the sidecar claims and follows again, and ends who has seen lost entries", async () => {
  await loseSeen("by following", 9);
  await appendAtWitness();
  witness.forget();
  expect(await appendAtWitness()).toBeUndefined();
  const { sink } = aSubscriber(witness);
  await until(() => sink.covered === 13n, "13");
});

describe("after the store has been adopted, a sidecar that led the log writes on from what the store has", () => {
  const appendAgain = async () => {
    const append = anAppend().build();
    await inTime(witness.append(append));
    return appendedOf(await inTime(append.outcome)).first;
  };

  it.each([
    ["of an earlier term", true, false, 4n],
    ["of an earlier term, which its writer has found out", true, true, 4n],
    ["empty", false, false, 1n],
    ["empty, which its writer has found out", false, true, 1n],
  ])("when it is %s", async (_, hasBackup, isFound, first) => {
    await appendTo(aLog(store, { identity: anIdentity("first") }), anAppend().of(3));
    const backup = await store.backup();
    await appendTo(witness, anAppend().of(3));
    await store.restore(hasBackup ? backup : []);
    if (isFound) {
      const append = anAppend().build();
      await inTime(witness.append(append));
      expect(await inTime(append.outcome)).toMatchObject({ error: { reason: "STORE_REPLACED" } });
    }
    witness.forget();
    expect(await appendAgain()).toBe(first);
  });

  it("when it has the term, and not the entries", async () => {
    await appendTo(witness, anAppend().of(3));
    const backup = await store.backup();
    await appendTo(witness, anAppend().of(3));
    await store.restore(backup);
    witness.forget();
    expect(await appendAgain()).toBe(4n);
  });

  it("and appends that waited are refused, not written out of order", async () => {
    await appendTo(witness, anAppend());
    const writer = await inTime(witness.primary.lead());
    const goOn = await inTime(writer.hold());
    const waiting = anAppend().build();
    writer.append(waiting);
    witness.forget();
    expect(await inTime(waiting.outcome)).toMatchObject({ error: { reason: "STORE_ADOPTED" } });
    goOn();
    expect(await appendAgain()).toBe(2n);
  });
});
