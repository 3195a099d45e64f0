import { expect, it } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import {
  ResolveAppendResponse_Outcome as Outcome,
  type ResolveAppendResponse,
} from "../../src/gen/oplog/v1/oplog_pb.js";
import type { EtcdServer } from "../support/etcd.js";
import { History } from "../support/history.js";
import type { Oplogd } from "../support/oplogd.js";
import { waitFor } from "../support/wait.js";
import { readBack } from "./recording-follower.js";
import { aClientOf, aFaultProxy, anEtcd, anOplogd, failureOf, put, revisionOf } from "./stage.js";

const LOG = "orders";
const WRITER = "writer";
const USED = { code: "ALREADY_EXISTS", reason: "OPERATION_ID_USED" };
const QUICK = ["--etcd-request-timeout", "500ms"];
const GIVES_UP_SOON = [...QUICK, "--append-write-deadline", "1s"];

it("resolves an append whose reply from the store was lost, and answers it with its ids", async () => {
  const { etcd, wire, client } = await aLogOfOneEntry(QUICK);
  const before = await revisionOf(etcd);

  wire.swallowReplies(true);
  const answer = client.append(operation(2));
  await waitFor(async () => (await revisionOf(etcd)) > before, { what: "the append to be applied at etcd" });
  wire.swallowReplies(false);

  expect(await answer).toMatchObject({ firstSequenceId: 2n, lastSequenceId: 3n, term: 1n, duplicate: false });
  expect(await client.append(operation(3))).toMatchObject({ firstSequenceId: 4n, term: 1n });
  await expectLogOf(client, [1, 2, 3]);
});

it("answers UNKNOWN when the store stays silent, and then tells that the append was committed", async () => {
  const { etcd, wire, client } = await aLogOfOneEntry(GIVES_UP_SOON);
  const before = await revisionOf(etcd);

  wire.swallowReplies(true);
  const failure = await failureOf(client.append(operation(2)));
  expect(failure).toMatchObject({
    code: "UNKNOWN",
    reason: "OUTCOME_UNKNOWN",
    metadata: { writer_id: WRITER, operation_id: "2" },
  });
  expect(await revisionOf(etcd)).toBe(before + 1n);
  wire.swallowReplies(false);

  expect(await resolved(client, 2)).toMatchObject({
    outcome: Outcome.COMMITTED,
    firstSequenceId: 2n,
    lastSequenceId: 3n,
  });
  expect(await termOf(client)).toBe(1n);
  expect(await client.append(operation(2))).toMatchObject({ firstSequenceId: 2n, duplicate: true, term: 1n });
  expect(await client.append(operation(3))).toMatchObject({ firstSequenceId: 4n, term: 2n });
  await expectLogOf(client, [1, 2, 3]);
});

it("never lets an append commit that was called not committed, though it is still on its way", async () => {
  const { etcd, wire, client } = await aLogOfOneEntry(GIVES_UP_SOON);
  const elsewhere = await aSidecarElsewhere(etcd);

  wire.blackHole(true);
  expect(await failureOf(client.append(operation(2)))).toMatchObject({ code: "UNKNOWN", reason: "OUTCOME_UNKNOWN" });
  expect(await resolved(elsewhere, 2)).toMatchObject({ outcome: Outcome.NOT_COMMITTED, highestOperationId: 1n });
  expect(await termOf(elsewhere)).toBe(1n);
  // What was sent meanwhile reaches etcd now.
  wire.blackHole(false);

  expect(await resolved(client, 2)).toMatchObject({ outcome: Outcome.NOT_COMMITTED });
  expect(await failureOf(client.append(operation(2)))).toMatchObject(USED);
  expect(await client.append(operation(3))).toMatchObject({ firstSequenceId: 2n, duplicate: false });
  await expectLogOf(client, [1, 3]);
});

it("asks the primary, which is still trying, and rules nothing out", async () => {
  const { etcd, wire, client, oplogd } = await aLogOfOneEntry(QUICK);
  const elsewhere = await aSidecarElsewhere(etcd);

  wire.blackHole(true);
  const answer = client.append(operation(2));
  await triesAgain(oplogd);
  expect(await resolved(elsewhere, 2)).toMatchObject({
    outcome: Outcome.UNKNOWN,
    explanation: expect.stringMatching(/being written/),
  });
  wire.blackHole(false);

  expect(await answer).toMatchObject({ firstSequenceId: 2n, term: 1n });
  expect(await resolved(elsewhere, 2)).toMatchObject({ outcome: Outcome.COMMITTED, firstSequenceId: 2n });
  expect(await resolved(elsewhere, 0)).toMatchObject({ outcome: Outcome.COMMITTED, highestOperationId: 2n });
});

it("rules out what a primary that hangs has in flight, and the primary goes on without it in the same term", async () => {
  const { etcd, wire, client, oplogd } = await aLogOfOneEntry([...QUICK, "--append-write-deadline", "30s"]);
  const elsewhere = await aSidecarElsewhere(etcd);

  wire.blackHole(true);
  const failure = failureOf(client.append(operation(2)));
  await triesAgain(oplogd);
  await oplogd.kill("SIGSTOP");
  expect(await resolved(elsewhere, 2)).toMatchObject({ outcome: Outcome.NOT_COMMITTED, highestOperationId: 1n });
  await oplogd.kill("SIGCONT");
  wire.blackHole(false);

  expect(await failure).toMatchObject(USED);
  expect(await client.append(operation(3))).toMatchObject({ firstSequenceId: 2n, duplicate: false, term: 1n });
  await expectLogOf(client, [1, 3]);
});

it("tells COMMITTED after oplogd was killed between the commit and its answer, without claiming a term", async () => {
  const { etcd, wire, client, oplogd } = await aLogOfOneEntry(QUICK);
  const before = await revisionOf(etcd);

  wire.swallowReplies(true);
  const failure = failureOf(client.append(operation(2)));
  await waitFor(async () => (await revisionOf(etcd)) > before, { what: "the append to be applied at etcd" });
  await oplogd.kill("SIGKILL");
  expect((await failure).mayHaveCommitted).toBe(true);
  wire.swallowReplies(false);
  await oplogd.restart();

  expect(await resolved(client, 2)).toMatchObject({
    outcome: Outcome.COMMITTED,
    firstSequenceId: 2n,
    lastSequenceId: 3n,
    term: 1n,
  });
  expect(await termOf(client)).toBe(1n);
  expect(await client.append(operation(2))).toMatchObject({ firstSequenceId: 2n, lastSequenceId: 3n, duplicate: true });
  await expectLogOf(client, [1, 2]);
});

it("tells NOT_COMMITTED after oplogd was killed before the commit, without claiming a term", async () => {
  const { wire, client, oplogd } = await aLogOfOneEntry(QUICK);

  wire.blackHole(true);
  const failure = failureOf(client.append(operation(2)));
  await triesAgain(oplogd);
  await oplogd.kill("SIGKILL");
  expect((await failure).mayHaveCommitted).toBe(true);
  await wire.refuse(true);
  wire.blackHole(false);
  await wire.refuse(false);
  await oplogd.restart();

  expect(await resolved(client, 2)).toMatchObject({ outcome: Outcome.NOT_COMMITTED, highestOperationId: 1n });
  expect(await termOf(client)).toBe(1n);
  expect(await failureOf(client.append(operation(2)))).toMatchObject(USED);
  expect(await client.append(operation(3))).toMatchObject({ firstSequenceId: 2n, lastSequenceId: 3n });
  await expectLogOf(client, [1, 3]);
});

async function aLogOfOneEntry(args: readonly string[]) {
  const etcd = await anEtcd();
  const wire = await aFaultProxy(etcd.port);
  const oplogd = await anOplogd({ store: { etcd: wire.endpoint }, args: ["--sidecar-id", "here", ...args] });
  const client = aClientOf(oplogd);
  expect(await client.append(operation(1))).toMatchObject({ firstSequenceId: 1n, term: 1n });
  return { etcd, wire, oplogd, client };
}

/** Another sidecar of the same log, with a way of its own to etcd. */
async function aSidecarElsewhere(etcd: EtcdServer): Promise<OplogClient> {
  return aClientOf(await anOplogd({ store: { etcd: etcd.endpoint }, args: ["--sidecar-id", "elsewhere"] }));
}

function operation(id: number) {
  const texts = id === 1 ? ["1 alone"] : [`${id} first`, `${id} second`];
  return { log: LOG, writerId: WRITER, operationId: BigInt(id), entries: texts.map((text) => put(text)) };
}

/** Asks again while the sidecar cannot reach the store. */
async function resolved(client: OplogClient, id: number): Promise<ResolveAppendResponse> {
  const ask = () =>
    client.resolveAppend({ log: LOG, writerId: WRITER, operationId: BigInt(id) }).catch((error: unknown) => {
      if ((error as { code?: string }).code !== "UNAVAILABLE") throw error;
      return undefined;
    });
  return (await waitFor(ask, { what: `operation ${id} to be resolved`, deadlineMs: 15_000 }))!;
}

/** The sidecar has sent the record and had no answer: now it tries again. */
async function triesAgain(oplogd: Oplogd): Promise<void> {
  await waitFor(() => oplogd.log.includes('"event":"write_failed"'), { what: "the sidecar to try again" });
}

async function termOf(client: OplogClient): Promise<bigint | undefined> {
  return (await client.getStatus({ log: LOG })).log?.leader?.term;
}

/** The log holds these operations, each once, and nothing else. */
async function expectLogOf(client: OplogClient, ids: readonly number[]): Promise<void> {
  const history = new History();
  for (const id of ids) history.sent(WRITER, BigInt(id), operation(id).entries);
  await readBack(client, history, LOG);
  expect(history.violations()).toEqual([]);
  expect(history.log.ids).toHaveLength(ids.reduce((sum, id) => sum + operation(id).entries.length, 0));
}
