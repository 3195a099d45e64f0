import { expect, it } from "vitest";
import type { OplogClient } from "../../src/client/client.js";
import { aClientOf, anEtcd, anOplogd, atEnd, failureOf, put } from "../faults/stage.js";
import { waitFor } from "../support/wait.js";

const LOG = "elected";

async function twoSidecars() {
  const etcd = await anEtcd();
  const [left, right] = await Promise.all(
    ["left", "right"].map((id) => anOplogd({ store: { etcd: etcd.endpoint }, args: ["--sidecar-id", id] })),
  );
  return { left: left!, right: right!, atLeft: aClientOf(left!), atRight: aClientOf(right!) };
}

const append = (client: OplogClient, text: string) => client.append({ log: LOG, entries: [put(text)] });

it("fences every writer below a token, and takes no lower one for ever", async () => {
  const { left, right, atLeft, atRight } = await twoSidecars();
  const first = await atLeft.claimTerm({ log: LOG, token: 7n, claimant: "master-1" });
  expect(first).toMatchObject({ term: 1n, finalSequenceId: 0n });
  await append(atLeft, "one");
  await append(atLeft, "two");

  const second = await atRight.claimTerm({ log: LOG, token: 8n, claimant: "master-2", endpoint: "10.0.0.2:7450" });
  expect(second).toMatchObject({ term: 2n, finalSequenceId: 2n, logId: first.logId });
  const refused = await failureOf(append(atLeft, "too late"));
  expect(refused).toMatchObject({ code: "FAILED_PRECONDITION", reason: "NOT_PRIMARY" });
  expect(refused.metadata).toMatchObject({ primary: "master-2", endpoint: "10.0.0.2:7450", term: "2" });
  expect(await append(atRight, "three")).toMatchObject({ firstSequenceId: 3n, term: 2n });

  for (const [token, claimant] of [
    [7n, "master-1"],
    [8n, "master-1"],
  ] as const) {
    const failure = await failureOf(atLeft.claimTerm({ log: LOG, token, claimant }));
    expect(failure).toMatchObject({ code: "FAILED_PRECONDITION", reason: "STALE_TOKEN" });
    expect(failure.metadata).toMatchObject({ yours: String(token), current: "8", claimant: "master-2" });
  }
  expect(await append(atRight, "four")).toMatchObject({ firstSequenceId: 4n });

  // What is fenced leads again with a higher token; its address stands in for one that is not told.
  const third = await atLeft.claimTerm({ log: LOG, token: 9n, claimant: "master-1" });
  expect(third).toMatchObject({ term: 3n, finalSequenceId: 4n });
  expect(await append(atLeft, "five")).toMatchObject({ firstSequenceId: 5n, term: 3n });
  expect(await atRight.getLeader({ log: LOG })).toMatchObject({
    leader: { id: "master-1", endpoint: left.target, term: 3n },
    token: 9n,
  });
  expect(right.hasExited).toBe(false);
});

it("is not led by the first append once a token has been claimed, and is taken back by its claimant", async () => {
  const { left, atLeft, atRight } = await twoSidecars();
  await atLeft.claimTerm({ log: LOG, token: 1n, claimant: "master" });
  await append(atLeft, "one");
  expect(await failureOf(append(atRight, "by itself"))).toMatchObject({ reason: "NOT_PRIMARY" });

  await left.restart();
  expect(await failureOf(append(atLeft, "before the claim"))).toMatchObject({ reason: "NOT_PRIMARY" });
  expect(await atLeft.claimTerm({ log: LOG, token: 1n, claimant: "master" })).toMatchObject({ finalSequenceId: 1n });
  expect(await append(atLeft, "two")).toMatchObject({ firstSequenceId: 2n });
});

it("tells who leads, now and on every change, at any sidecar", async () => {
  const { atLeft, atRight } = await twoSidecars();
  const seen: string[] = [];
  const stop = new AbortController();
  atEnd(() => stop.abort());
  const watching = (async () => {
    for await (const { leader } of atRight.watchLeader({ log: LOG }, { signal: stop.signal })) {
      seen.push(`${leader?.id} ${leader?.term}`);
    }
  })().catch((error: unknown) => {
    if (!stop.signal.aborted) throw error;
  });
  await waitFor(() => seen.length === 1, { what: "the first answer" });
  await atLeft.claimTerm({ log: LOG, token: 5n, claimant: "a" });
  await waitFor(() => seen.length === 2, { what: "the claim of a" });
  await atRight.claimTerm({ log: LOG, token: 6n, claimant: "b" });
  await waitFor(() => seen.length === 3, { what: "the claim of b" });
  expect(seen).toEqual([" 0", "a 1", "b 2"]);
  stop.abort();
  await watching;
});

it("leaves a leader alone when a claim is refused, and refuses bad input", async () => {
  const { atLeft } = await twoSidecars();
  await atLeft.claimTerm({ log: LOG, token: 5n, claimant: "master" });
  await Promise.all([
    append(atLeft, "one"),
    failureOf(atLeft.claimTerm({ log: LOG, token: 4n, claimant: "master" })),
    append(atLeft, "two"),
  ]);
  expect(await append(atLeft, "three")).toMatchObject({ firstSequenceId: 3n, term: 1n });
  const bad = [
    { log: LOG, token: 0n, claimant: "master" },
    { log: LOG, token: 2n ** 63n, claimant: "master" },
    { log: LOG, token: 6n, claimant: "" },
    { log: LOG, token: 6n, claimant: "a/b" },
    { log: LOG, token: 6n, claimant: "master", endpoint: "x".repeat(257) },
    { log: "../x", token: 6n, claimant: "master" },
  ];
  for (const request of bad) {
    expect(await failureOf(atLeft.claimTerm(request))).toMatchObject({ code: "INVALID_ARGUMENT" });
  }
  expect(await atLeft.getLeader({ log: LOG })).toMatchObject({ token: 5n });
});
