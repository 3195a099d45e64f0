import { expect, it } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import { ResolveAppendResponse_Outcome as Outcome } from "../../src/gen/oplog/v1/oplog_pb.js";
import type { EtcdServer } from "../support/etcd.js";
import { History } from "../support/history.js";
import { waitFor } from "../support/wait.js";
import { readBack } from "./recording-follower.js";
import { aClientOf, aFaultProxy, anEtcd, anOplogd, failureOf, put, revisionOf } from "./stage.js";

const LOG = "orders";
const WRITER = "writer";
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

it("tells that an append was not committed, and what is still on its way then never will be", async () => {
  const { etcd, wire, client } = await aLogOfOneEntry(GIVES_UP_SOON);
  const elsewhere = aClientOf(await anOplogd({ store: { etcd: etcd.endpoint }, args: ["--sidecar-id", "elsewhere"] }));

  wire.blackHole(true);
  const failure = await failureOf(client.append(operation(2)));
  expect(failure).toMatchObject({ code: "UNKNOWN", reason: "OUTCOME_UNKNOWN" });
  expect(await resolved(elsewhere, 2)).toMatchObject({ outcome: Outcome.NOT_COMMITTED, highestOperationId: 1n });
  expect(await termOf(elsewhere)).toBe(1n);
  // Everything that was sent meanwhile now reaches etcd.
  wire.blackHole(false);

  expect(await resolved(client, 2)).toMatchObject({ outcome: Outcome.NOT_COMMITTED });
  expect(await client.append(operation(2))).toMatchObject({ firstSequenceId: 2n, duplicate: false });
  expect(await client.append(operation(2))).toMatchObject({ firstSequenceId: 2n, duplicate: true });
  await expectLogOf(client, [1, 2]);
});

it("tells truly elsewhere while the primary is still trying", async () => {
  const { etcd, wire, client } = await aLogOfOneEntry(QUICK);
  const elsewhere = aClientOf(await anOplogd({ store: { etcd: etcd.endpoint }, args: ["--sidecar-id", "elsewhere"] }));

  wire.blackHole(true);
  const answer = client.append(operation(2)).then(
    () => "committed",
    () => "refused",
  );
  await isBeingWritten(client, 2);
  const { outcome } = await resolved(elsewhere, 2);
  wire.blackHole(false);

  const isCommitted = (await answer) === "committed";
  if (outcome === Outcome.NOT_COMMITTED) expect(isCommitted).toBe(false);
  if (outcome === Outcome.COMMITTED) expect(isCommitted).toBe(true);
});

it.each([
  ["before the store has it", false],
  ["after the store has it", true],
])("tells truly after oplogd was killed %s, without claiming a term", async (_when, isApplied) => {
  const { etcd, wire, client, oplogd } = await aLogOfOneEntry(QUICK);
  const before = await revisionOf(etcd);

  if (isApplied) wire.swallowReplies(true);
  else wire.blackHole(true);
  const failure = failureOf(client.append(operation(2)));
  if (isApplied) await waitFor(async () => (await revisionOf(etcd)) > before, { what: "the append to be applied" });
  else await isBeingWritten(client, 2);
  await oplogd.kill("SIGKILL");
  expect((await failure).mayHaveCommitted).toBe(true);
  wire.swallowReplies(false);
  wire.blackHole(false);
  await oplogd.restart();

  expect(await resolved(client, 2)).toMatchObject(
    isApplied
      ? { outcome: Outcome.COMMITTED, firstSequenceId: 2n, lastSequenceId: 3n, term: 1n }
      : { outcome: Outcome.NOT_COMMITTED, highestOperationId: 1n },
  );
  expect(await termOf(client)).toBe(1n);
  expect(await client.append(operation(2))).toMatchObject({
    firstSequenceId: 2n,
    lastSequenceId: 3n,
    duplicate: isApplied,
  });
  await expectLogOf(client, [1, 2]);
});

async function aLogOfOneEntry(args: readonly string[]) {
  const etcd = await anEtcd();
  const wire = await aFaultProxy(etcd.port);
  const oplogd = await anOplogd({ store: { etcd: wire.endpoint }, args });
  const client = aClientOf(oplogd);
  expect(await client.append(operation(1))).toMatchObject({ firstSequenceId: 1n, term: 1n });
  return { etcd, wire, oplogd, client };
}

function operation(id: number) {
  const texts = id === 1 ? ["1 alone"] : [`${id} first`, `${id} second`];
  return { log: LOG, writerId: WRITER, operationId: BigInt(id), entries: texts.map(put) };
}

/** Asks again while the sidecar cannot reach the store. */
function resolved(client: OplogClient, id: number) {
  const ask = () =>
    client.resolveAppend({ log: LOG, writerId: WRITER, operationId: BigInt(id) }).catch((error: unknown) => {
      if ((error as { code?: string }).code !== "UNAVAILABLE") throw error;
      return undefined;
    });
  return waitFor(ask, { what: `operation ${id} to be resolved`, deadlineMs: 15_000 });
}

async function isBeingWritten(primary: OplogClient, id: number): Promise<void> {
  const isPending = async () => {
    const { outcome } = await primary.resolveAppend({ log: LOG, writerId: WRITER, operationId: BigInt(id) });
    return outcome === Outcome.UNKNOWN;
  };
  await waitFor(isPending, { what: `operation ${id} to be written` });
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
