import { create, toBinary } from "@bufbuild/protobuf";
import { afterEach, describe, expect, it } from "vitest";
import { LeaderClient, type LeaderClientOptions, type LeaderStep } from "../../src/client/leader-client.js";
import { type AppendRequest, AppendRequestSchema, OpLogService } from "../../src/gen/oplog/v1/oplog_pb.js";
import { StandbyService } from "../../src/gen/oplog/v1/standby_pb.js";
import { freePort } from "../support/oplogd.js";
import { waitFor, within } from "../support/wait.js";
import { answers, rpcError, type ScriptedError, ScriptedSidecar } from "./scripted-sidecar.js";

const open: Array<{ stop(): void }> = [];
afterEach(() => {
  for (const each of open.splice(0).reverse()) each.stop();
});

const PLAIN = { log: "l", entries: [{ key: "k" }] };
const OPERATION = { ...PLAIN, writerId: "w", operationId: 7n };

type Answer = "appended" | "silence" | ScriptedError;

/** A sidecar that answers appends as it is told at that moment. */
class Member {
  readonly appends: AppendRequest[] = [];
  private constructor(public answer: Answer) {}
  target = "";

  static async start(answer: Answer, port?: number): Promise<Member> {
    const member = new Member(answer);
    const sidecar = await ScriptedSidecar.start({ Append: member.handler() }, `127.0.0.1:${port ?? 0}`);
    member.target = sidecar.target;
    open.push(sidecar);
    return member;
  }

  private handler() {
    const decided = answers(OpLogService.method.append, (request) => {
      this.appends.push(request);
      if (this.answer === "appended") return { firstSequenceId: 1n, lastSequenceId: 1n, term: 3n };
      return rpcError(this.answer as ScriptedError);
    });
    return (call: { request: Buffer }, reply: Parameters<typeof decided>[1]) => {
      decided(call, this.answer === "silence" ? () => undefined : reply);
    };
  }
}

function ledAt(endpoint: string): ScriptedError {
  return {
    code: "FAILED_PRECONDITION",
    reason: "NOT_PRIMARY",
    message: "this sidecar does not lead the log",
    metadata: { primary: "b", endpoint, term: "3" },
  };
}

const NOT_READY = { code: "FAILED_PRECONDITION", reason: "NOT_READY", message: "soon", retryAfterMs: 10 } as const;
const BREAK = { code: "UNAVAILABLE", message: "Connection dropped" } as const;

function leaderClient(targets: readonly string[], options: LeaderClientOptions = {}) {
  const steps: LeaderStep[] = [];
  const client = new LeaderClient(targets, {
    patienceMs: 10_000,
    ...options,
    onStep: (step) => {
      steps.push(step);
      options.onStep?.(step);
    },
  });
  open.push({ stop: () => client.close() });
  return { client, steps };
}

describe("LeaderClient", () => {
  it("goes where the sidecar says, at once, and stays there", async () => {
    const leader = await Member.start("appended");
    const other = await Member.start(ledAt(leader.target));
    const { client, steps } = leaderClient([other.target]);

    expect((await client.append(PLAIN)).term).toBe(3n);
    await client.append(PLAIN);

    expect(steps).toMatchObject([
      { from: other.target, to: leader.target, waitMs: 0, because: { reason: "NOT_PRIMARY" } },
    ]);
    expect(client.target).toBe(leader.target);
    expect([other.appends.length, leader.appends.length]).toEqual([1, 2]);
  });

  it("waits while nobody leads, and tries the targets in turn", async () => {
    const a = await Member.start(ledAt(""));
    const b = await Member.start(ledAt(""));
    const appended = leaderClient([a.target, b.target]).client.append(PLAIN);
    await waitFor(() => a.appends.length > 1 && b.appends.length > 1, { what: "both to be tried again" });
    b.answer = "appended";
    await appended;
  });

  it("waits where the new leader prepares itself", async () => {
    const other = await Member.start("appended");
    const a = await Member.start(NOT_READY);
    const { client, steps } = leaderClient([a.target, other.target], {
      onStep: () => {
        a.answer = "appended";
      },
    });
    await client.append(PLAIN);
    expect(steps).toMatchObject([{ from: a.target, to: a.target }]);
    expect(other.appends).toHaveLength(0);
  });

  it.each([
    { code: "UNAVAILABLE", reason: "RULED_OUT", message: "send it again", retryAfterMs: 10 },
    { code: "RESOURCE_EXHAUSTED", reason: "QUEUE_FULL", message: "full", retryAfterMs: 300 },
    { code: "RESOURCE_EXHAUSTED", reason: "STORE_REFUSED", message: "no space", retryAfterMs: 1_500 },
    { code: "UNAVAILABLE", reason: "A_LATER_ONE", message: "soon", retryAfterMs: 20 },
  ] as const)("comes back to the sidecar that answers $reason, when it says", async (refusal) => {
    const other = await Member.start("appended");
    const a = await Member.start(refusal);
    const { client, steps } = leaderClient([a.target, other.target], {
      onStep: () => {
        a.answer = "appended";
      },
    });
    const startedAt = performance.now();
    await client.append(PLAIN);
    expect(performance.now() - startedAt).toBeGreaterThanOrEqual(refusal.retryAfterMs);
    expect(steps).toMatchObject([{ from: a.target, to: a.target, because: refusal }]);
    expect(a.appends).toHaveLength(2);
    expect(other.appends).toHaveLength(0);
  });

  it("gives up at once where the sidecar asks for more patience than there is", async () => {
    const refusal = {
      code: "RESOURCE_EXHAUSTED",
      reason: "STORE_REFUSED",
      message: "full",
      retryAfterMs: 60_000,
    } as const;
    const a = await Member.start(refusal);
    await expect(leaderClient([a.target]).client.append(PLAIN)).rejects.toMatchObject(refusal);
    expect(a.appends).toHaveLength(1);
  });

  it("comes back from a leader that cannot be reached, until another one is named", async () => {
    const deadAt = `127.0.0.1:${await freePort()}`;
    const leader = await Member.start("appended");
    const a = await Member.start(ledAt(deadAt));
    const appended = leaderClient([a.target]).client.append(PLAIN);
    await waitFor(() => a.appends.length > 1, { what: "the first target to be asked again" });
    a.answer = ledAt(leader.target);
    await appended;
    expect(leader.appends).toHaveLength(1);
  });

  it.each(["nonsense", "http://x:1", "a b", "\n", "unix:"])("survives %j as an endpoint", async (endpoint) => {
    const a = await Member.start(ledAt(endpoint));
    const { client } = leaderClient([a.target], { patienceMs: 400 });
    await expect(client.append(PLAIN)).rejects.toMatchObject({ code: expect.stringMatching(/UNAVAILABLE|FAILED/) });
  });

  it("does not run in circles between two sidecars that each take the other for the leader", async () => {
    const a = await Member.start("appended");
    const b = await Member.start(ledAt(a.target));
    a.answer = ledAt(b.target);
    const { client, steps } = leaderClient([a.target], { patienceMs: 1_000 });

    await expect(client.append(PLAIN)).rejects.toMatchObject({ reason: "NOT_PRIMARY" });

    const waits = steps.filter(({ waitMs }) => waitMs > 0).length;
    expect(waits).toBeGreaterThan(0);
    expect(steps.length).toBeLessThanOrEqual((waits + 1) * 4);
    expect(steps.length).toBeLessThan(60);
  });

  it("a sidecar that names itself is asked again after a wait", async () => {
    const a = await Member.start("appended");
    a.answer = ledAt(a.target);
    const { client, steps } = leaderClient([a.target], { patienceMs: 300 });
    await expect(client.append(PLAIN)).rejects.toMatchObject({ reason: "NOT_PRIMARY" });
    expect(steps.every(({ waitMs }) => waitMs > 0)).toBe(true);
  });

  it("throws a refusal that no other sidecar would mend, at once", async () => {
    const refusal = { code: "ABORTED", reason: "EXPECTED_SEQUENCE_MISMATCH", message: "no" } as const;
    const a = await Member.start(refusal);
    await expect(leaderClient([a.target]).client.append(OPERATION)).rejects.toMatchObject(refusal);
    expect(a.appends).toHaveLength(1);
  });

  it("an append without an operation is not sent again once it may have been written", async () => {
    const a = await Member.start(BREAK);
    await expect(leaderClient([a.target]).client.append(PLAIN)).rejects.toMatchObject(BREAK);
    expect(a.appends).toHaveLength(1);
  });

  it.each([
    ["an object", OPERATION],
    ["bytes", Buffer.from(toBinary(AppendRequestSchema, create(AppendRequestSchema, OPERATION)))],
  ])("an append with an operation, as %s, is sent again as it was", async (_, request) => {
    const a = await Member.start(BREAK);
    const { client } = leaderClient([a.target], {
      onStep: () => {
        a.answer = "appended";
      },
    });
    await client.append(request);
    expect(a.appends).toHaveLength(2);
    for (const append of a.appends) expect(append).toMatchObject({ writerId: "w", operationId: 7n });
  });

  it("leaves a leader that does not answer, if the append has an operation", async () => {
    const leader = await Member.start("appended");
    const hung = await Member.start("silence");
    const { client } = leaderClient([hung.target, leader.target], { deadlineMs: 100 });
    await client.append(OPERATION);
    await expect(leaderClient([hung.target], { deadlineMs: 100 }).client.append(PLAIN)).rejects.toMatchObject({
      code: "DEADLINE_EXCEEDED",
    });
  });

  it("does not let a later refusal hide that an earlier attempt may have been written", async () => {
    const a = await Member.start(BREAK);
    const { client } = leaderClient([a.target], {
      onStep: () => {
        a.answer = { code: "FAILED_PRECONDITION", reason: "STALE_TERM", message: "term is 3, the current one is 4" };
      },
    });
    await expect(client.append(OPERATION)).rejects.toMatchObject({
      code: "UNKNOWN",
      reason: "OUTCOME_UNKNOWN",
      mayHaveCommitted: true,
      cause: { reason: "STALE_TERM" },
    });
  });

  it("ends with its patience, and tells the last failure", async () => {
    const a = await Member.start(ledAt(""));
    const startedAt = performance.now();
    await expect(leaderClient([a.target], { patienceMs: 300 }).client.append(PLAIN)).rejects.toMatchObject({
      reason: "NOT_PRIMARY",
    });
    expect(performance.now() - startedAt).toBeLessThan(2_000);
  });

  it("gives up after one round if it was told to and nobody has ever answered", async () => {
    const targets = [`127.0.0.1:${await freePort()}`, `127.0.0.1:${await freePort()}`];
    const { client, steps } = leaderClient(targets, { givesUpUnanswered: true });
    await expect(client.append(PLAIN)).rejects.toMatchObject({ isConnectFailure: true });
    expect(steps).toMatchObject([{ to: targets[1] }]);
  });

  it("finds a sidecar that starts late", async () => {
    const port = await freePort();
    const appended = leaderClient([`127.0.0.1:${port}`]).client.append(PLAIN);
    await Member.start("appended", port);
    await appended;
  });

  it("ends a wait and a call under way when it is closed or its signal aborts", async () => {
    const waiting = await Member.start(ledAt(""));
    const hung = await Member.start("silence");
    const abort = new AbortController();
    const first = leaderClient([waiting.target], { patienceMs: 60_000 });
    const second = leaderClient([hung.target], { patienceMs: 60_000, deadlineMs: 60_000 });
    const failures = [first.client.append(OPERATION, { signal: abort.signal }), second.client.append(OPERATION)].map(
      (call) => call.catch((error: unknown) => error),
    );
    await waitFor(() => waiting.appends.length > 0 && hung.appends.length > 0, { what: "both to be tried" });
    abort.abort();
    second.client.close();
    for (const failure of failures) {
      expect(await within(failure, { deadlineMs: 2_000, what: "the call to end" })).toMatchObject({
        code: "CANCELLED",
      });
    }
    await expect(second.client.append(OPERATION)).rejects.toMatchObject({ code: "CANCELLED" });
  });

  it("renews the leases of objects at the leader too", async () => {
    const renewing = (missingKeys: string[] | ScriptedError) =>
      ScriptedSidecar.start({
        RenewObjectLeases: answers(StandbyService.method.renewObjectLeases, () =>
          Array.isArray(missingKeys) ? { missingKeys } : rpcError(missingKeys),
        ),
      });
    const leader = await renewing(["gone"]);
    const other = await renewing(ledAt(leader.target));
    open.push(leader, other);
    const { client } = leaderClient([other.target]);
    expect((await client.renewObjectLeases({ log: "l", keys: ["gone"] })).missingKeys).toEqual(["gone"]);
  });

  it("calls that run together leave for the next sidecar together, and none is cut off", async () => {
    const leader = await Member.start("appended");
    const other = await Member.start(ledAt(leader.target));
    const { client } = leaderClient([other.target]);
    await Promise.all(Array.from({ length: 50 }, () => client.append(PLAIN)));
    expect(leader.appends).toHaveLength(50);
    expect(other.appends.length).toBeLessThanOrEqual(50);
  });
});
