import { expect, it } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import { waitFor } from "../support/wait.js";
import { aCandidateAt } from "./campaign-call.js";
import { aClientOf, anEtcd, anOplogd, failureOf, put } from "./stage.js";

const LOG = "gone";
const DELETED = { code: "FAILED_PRECONDITION", reason: "LOG_DELETED" };

const append = (client: OplogClient, text: string) => client.append({ log: LOG, entries: [put(text)] });
const idOf = async (client: OplogClient) => (await client.getStatus({ log: LOG })).log!.logId;

/** Until it ends. */
async function failureOfFollowing(client: OplogClient, heard: () => void) {
  return failureOf(
    (async () => {
      for await (const { frame } of client.subscribe({ log: LOG })) if (frame.case === "batch") heard();
    })(),
  );
}

it("ends whoever leads, waits for or follows a log that is deleted on etcd, and the next one is another log everywhere", async () => {
  const etcd = await anEtcd();
  const [left, right] = await Promise.all(
    ["left", "right"].map((id) =>
      anOplogd({ store: { etcd: etcd.endpoint }, args: ["--sidecar-id", id, "--views", LOG] }),
    ),
  );
  const [atLeft, atRight] = [aClientOf(left!), aClientOf(right!)];
  const leader = aCandidateAt(left!, { log: LOG, id: "m1" });
  const { term } = await leader.hears("leading");
  const waiting = aCandidateAt(right!, { log: LOG, id: "m2" });
  await waiting.hears("waiting");
  await append(atLeft, "one");
  let heard = 0;
  const following = failureOfFollowing(atRight, () => heard++);
  await waitFor(() => heard > 0, { what: "the subscriber to hear of the entry" });
  await atRight.updateCursor({ log: LOG, consumer: "c", appliedSequenceId: 1n });
  const logId = await idOf(atLeft);

  await atRight.deleteLog({ log: LOG, logId });
  expect(await following).toMatchObject(DELETED);
  expect(await leader.lost()).toBe("FENCED");
  expect(await waiting.end()).toMatchObject(DELETED);
  expect(await failureOf(atLeft.read({ log: LOG }))).toMatchObject({ reason: "LOG_NOT_FOUND" });
  await atLeft.deleteLog({ log: LOG, logId });

  expect(await append(atLeft, "another")).toMatchObject({ firstSequenceId: 1n, term: term + 2n });
  expect(Buffer.compare(await idOf(atRight), logId)).not.toBe(0);
  expect((await atRight.getStatus({ log: LOG })).log!.cursors).toEqual([]);
  expect(await failureOf(atRight.deleteLog({ log: LOG, logId }))).toMatchObject({ reason: "LOG_REPLACED" });
  const entryAt = (client: OplogClient) => client.getEntry({ log: LOG, key: "key of another" }).catch(() => undefined);
  for (const client of [atLeft, atRight])
    await waitFor(async () => (await entryAt(client)) !== undefined, { what: "the view of the next log" });
}, 60_000);

it("is completed by the same call after a SIGKILL while it is deleted, on the embedded store", async () => {
  const oplogd = await anOplogd({});
  const writing = aClientOf(oplogd);
  const appender = writing.appender();
  await Promise.all(
    Array.from({ length: 4000 }, (_, id) =>
      appender.append({ log: LOG, expectedSequenceId: BigInt(id), entries: [put(`${id}`)] }),
    ),
  );
  await appender.end();
  const logId = await idOf(writing);
  const cut = writing.deleteLog({ log: LOG, logId }).catch(() => undefined);
  const isBegun = async () => (await writing.getStatus({ log: LOG }).catch(() => undefined))?.log?.deleting !== false;
  await waitFor(isBegun, { what: "the deletion to begin" });
  await oplogd.restart();
  await cut;
  const client = aClientOf(oplogd);
  await client.deleteLog({ log: LOG, logId });
  expect(await failureOf(client.getStatus({ log: LOG }))).toMatchObject({ reason: "LOG_NOT_FOUND" });
  expect((await client.listLogs({})).logs).toEqual([]);
  expect(await append(client, "another")).toMatchObject({ firstSequenceId: 1n });
}, 60_000);
