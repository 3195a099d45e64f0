import { describe, expect, it } from "vitest";
import { describeFailure, failureJson, UsageError, unknownOutcomeAdvice } from "../../src/cli/failures.js";
import { nearestNames } from "../../src/cli/names.js";
import { OplogRpcError, type RpcFailure } from "../../src/client/errors.js";
import { ContiguityError } from "../../src/client/follow.js";

const CONTEXT = { target: "127.0.0.1:7450", timeoutMs: 5_000, log: "orders", command: "read" };

function told(failure: RpcFailure, command = CONTEXT.command) {
  const { exitCode, lines } = describeFailure(new OplogRpcError(failure), { ...CONTEXT, command });
  return { exitCode, text: lines.join("\n") };
}

describe("a failure", () => {
  it.each<[RpcFailure, number, RegExp]>([
    [
      { code: "FAILED_PRECONDITION", reason: "NOT_PRIMARY", message: "m", metadata: { endpoint: "10.0.0.2:7450" } },
      73,
      /--target 10\.0\.0\.2:7450/,
    ],
    [
      { code: "FAILED_PRECONDITION", reason: "NOT_PRIMARY", message: "m", metadata: { endpoint: "a; it's b" } },
      73,
      /--target 'a; it'\\''s b' /,
    ],
    [
      { code: "FAILED_PRECONDITION", reason: "NOT_PRIMARY", message: "m", metadata: { endpoint: "", primary: "b" } },
      73,
      /"b".*not announced/,
    ],
    [
      { code: "FAILED_PRECONDITION", reason: "NOT_PRIMARY", message: "m", metadata: { endpoint: "", primary: "" } },
      73,
      /Nobody leads.*leader orders/,
    ],
    [
      { code: "FAILED_PRECONDITION", reason: "NOT_READY", message: "m" },
      73,
      /--target 127\.0\.0\.1:7450 leader orders[\s\S]*--target 127\.0\.0\.1:7450 resign orders/,
    ],
    [
      { code: "FAILED_PRECONDITION", reason: "NOT_ELECTED", message: "m" },
      73,
      /leader orders[\s\S]*Unless it is claimed by tokens, a campaign/,
    ],
    [{ code: "ALREADY_EXISTS", reason: "CANDIDATE_EXISTS", message: "m" }, 70, /--id/],
    [{ code: "NOT_FOUND", reason: "CANDIDATE_NOT_FOUND", message: "m" }, 69, /leader orders/],
    [{ code: "ABORTED", reason: "HAND_OVER_ABANDONED", message: "m" }, 74, /--hold.*--views.*readiness orders/],
    [{ code: "FAILED_PRECONDITION", reason: "NO_VIEW", message: "m" }, 73, /--views orders/],
    [
      { code: "ABORTED", reason: "EXPECTED_SEQUENCE_MISMATCH", message: "m", metadata: { head: "12" } },
      74,
      /--expect 12/,
    ],
    [{ code: "OUT_OF_RANGE", reason: "TRIMMED", message: "m", metadata: { floor: "40" } }, 75, /--from 40/],
    [
      { code: "OUT_OF_RANGE", reason: "BEYOND_HEAD", message: "m", metadata: { head: "9" } },
      75,
      /entry is 9.*tail orders/,
    ],
    [
      { code: "RESOURCE_EXHAUSTED", reason: "TOO_LARGE", message: "m", metadata: { limit: "1048576" } },
      72,
      /1048576 bytes/,
    ],
    [
      { code: "RESOURCE_EXHAUSTED", reason: "QUEUE_FULL", message: "m", metadata: { limit: "64" }, retryAfterMs: 1500 },
      72,
      /limit is 64\. Try again in 1\.5 s/,
    ],
    [{ code: "UNAVAILABLE", reason: "STORE_UNREACHABLE", message: "m" }, 78, /oplogctl status/],
    [{ code: "NOT_FOUND", reason: "LOG_NOT_FOUND", message: "m" }, 69, /NOT_FOUND: m/],
    [{ code: "DEADLINE_EXCEEDED", message: "m" }, 68, /no answer from 127\.0\.0\.1:7450 within 5 s/],
  ])("%o exits %d and says what to do", (failure, exitCode, advice) => {
    const { exitCode: actual, text } = told(failure);
    expect(actual).toBe(exitCode);
    expect(text).toMatch(advice);
  });

  it("to get an answer sends on to status, and from there to what oplogd says without the store", () => {
    const failure = { code: "DEADLINE_EXCEEDED", message: "m" } as const;
    expect(told(failure).text).toMatch(/--timeout.*oplogctl status/);
    expect(told(failure, "status").text).toMatch(/--timeout.*\/readyz/);
    expect(told(failure, "status").text).not.toContain("oplogctl status");
  });

  it("shows what others have chosen without letting it steer the terminal", () => {
    const endpoint = "a\n\u001b[31mRED b";
    const { text } = told({
      code: "FAILED_PRECONDITION",
      reason: "NOT_PRIMARY",
      message: `"x" at ${endpoint} claimed term 1`,
      metadata: { endpoint, primary: "x" },
    });
    expect(text.replaceAll("a\\u{a}\\u{1b}[31mRED b", "ADDRESS").split("\n")).toEqual([
      'FAILED_PRECONDITION: "x" at ADDRESS claimed term 1',
      "The primary is at ADDRESS: oplogctl --target 'ADDRESS' …",
    ]);
  });

  it("to connect names the address, how to start oplogd, and what to set", () => {
    const message = "No connection established. Last error: Error: connect ECONNREFUSED 127.0.0.1:7450";
    const { exitCode, text } = told({ code: "UNAVAILABLE", message });

    expect(exitCode).toBe(78);
    expect(text).toContain("cannot connect to 127.0.0.1:7450: connection refused");
    expect(text).toContain("oplogd --listen 127.0.0.1:7450");
    expect(text).toContain("OPLOGCTL_TARGET");
  });

  it("does not advise to start oplogd here when the address is elsewhere", () => {
    const error = new OplogRpcError({ code: "UNAVAILABLE", message: "No connection established. ECONNREFUSED" });
    const { lines } = describeFailure(error, { ...CONTEXT, target: "db-1:7450" });

    expect(lines.join("\n")).not.toContain("--listen");
  });

  it("is one line for a program, with what the sidecar has said", () => {
    const metadata = { limit: "64", received: "9" };
    const failure: RpcFailure = { code: "RESOURCE_EXHAUSTED", reason: "QUEUE_FULL", message: "full\nup", metadata };
    const described = describeFailure(new OplogRpcError({ ...failure, retryAfterMs: 1500 }), CONTEXT);
    expect(failureJson(described)).toMatch(/^[^\n]*\n$/);
    expect(JSON.parse(failureJson(described))).toEqual({
      error: {
        exit_code: 72,
        message: "RESOURCE_EXHAUSTED: full\\u{a}up",
        advice: ["The limit is 64. Try again in 1.5 s."],
        code: "RESOURCE_EXHAUSTED",
        reason: "QUEUE_FULL",
        metadata,
        retry_after_ms: 1500,
      },
    });
    expect(JSON.parse(failureJson(describeFailure(new Error("no such file"))))).toEqual({
      error: { exit_code: 1, message: "no such file", advice: [] },
    });
  });

  it("of this side exits 1, of wrong usage 2, of a broken order 79", () => {
    expect(describeFailure(new Error("no such file")).exitCode).toBe(1);
    expect(describeFailure(new UsageError("wrong"))).toEqual({ exitCode: 2, lines: ["wrong"] });
    expect(describeFailure(new ContiguityError(4n, 6n), CONTEXT).exitCode).toBe(79);
  });
});

it("advises a retry only where it is safe", () => {
  expect(unknownOutcomeAdvice("l", true)).toMatch(/same command again/);
  expect(unknownOutcomeAdvice("l", false)).not.toMatch(/same command again/);
});

it("finds the nearest names", () => {
  expect(nearestNames("order", ["users-eu", "orders", "audit", "border", "orders2"])).toEqual([
    "border",
    "orders",
    "orders2",
  ]);
});
