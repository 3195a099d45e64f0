import { describe, expect, it, vi } from "vitest";
import { OperationIdUsedError } from "../../src/oplog/append-errors.js";
import { childLogger, createLogger, type LoggerOptions, setLevel } from "../../src/telemetry/logger.js";
import { logStrayLines } from "../../src/telemetry/stray-lines.js";

function capture(options: Partial<LoggerOptions> = {}) {
  const written: string[] = [];
  const logger = createLogger({
    level: "info",
    format: "json",
    isTerminal: false,
    sidecarId: "a",
    destination: { write: (line: string) => void written.push(line) },
    ...options,
  });
  return { logger, written, last: () => JSON.parse(written.at(-1) ?? "null") as Record<string, unknown> };
}

const BIG = 2n ** 60n + 1n;

describe("the logger", () => {
  it("writes ids as strings, at every depth", () => {
    const { logger, last } = capture();
    logger.info({ head: BIG, window: { floor: 1n, ids: [BIG, 2] }, count: 3 }, "moved");
    expect(last()).toMatchObject({
      level: "info",
      msg: "moved",
      head: BIG.toString(),
      window: { floor: "1", ids: [BIG.toString(), 2] },
      count: 3,
    });
  });

  it("writes errors with their facts and cause", () => {
    const { logger, last } = capture();
    logger.error({ err: new OperationIdUsedError("w", 1n, BIG), log: "orders" }, "refused");
    expect(last()).toMatchObject({
      err: {
        type: "OperationIdUsedError",
        reason: "OPERATION_ID_USED",
        facts: { operation_id: "1", highest_operation_id: BIG.toString() },
      },
    });
    logger.error(new Error("outer", { cause: new Error("inner") }));
    expect(JSON.stringify(last())).toContain("inner");
  });

  it("leaves the caller's objects as they are", () => {
    const { logger } = capture();
    const fields = { window: { floor: 1n } };
    logger.info(fields, "moved");
    expect(fields).toEqual({ window: { floor: 1n } });
  });

  it("survives circular fields", () => {
    const { logger, last } = capture();
    const circular: Record<string, unknown> = { id: 1n };
    circular.self = circular;
    logger.info({ circular }, "odd");
    expect(last()).toMatchObject({ circular: { id: "1" } });
  });

  it("names the sidecar, the room and what a line is about", () => {
    const { logger, last } = capture();
    childLogger(logger, "replication").warn({ log: "orders" }, "x");
    expect(last()).toMatchObject({ sidecar: "a", room: "replication", log: "orders", level: "warn" });
    expect(last()).not.toHaveProperty("pid");
  });

  it("drops lines below its level", () => {
    const { logger, written } = capture({ level: "warn" });
    logger.info("quiet");
    logger.warn("loud");
    expect(written).toHaveLength(1);
  });

  it("changes the level of every room", () => {
    const { logger, written } = capture({ level: "warn" });
    const room = childLogger(logger, "replication");
    setLevel(logger, "debug");
    room.debug("now");
    expect(written).toHaveLength(1);
    setLevel(logger, "warn");
    room.info("not now");
    expect(written).toHaveLength(1);
  });

  it("writes five lines of an event that repeats, and tells after a while how many more there were", () => {
    vi.useFakeTimers();
    try {
      const { logger, written, last } = capture();
      const room = childLogger(logger, "writing");
      for (let index = 0; index < 100; index++) room.warn({ event: "claim_failed", log: "orders", index }, "no claim");
      room.warn({ event: "claim_failed", log: "others" }, "no claim");
      expect(written).toHaveLength(6);
      vi.advanceTimersByTime(10_000);
      expect(written).toHaveLength(7);
      expect(last()).toMatchObject({ event: "claim_failed", log: "orders", repeated: 95, room: "writing" });
      expect(last().msg).toBe("no claim: 95 times more");
      room.warn({ event: "claim_failed", log: "orders" }, "no claim");
      expect(written).toHaveLength(8);
    } finally {
      vi.useRealTimers();
    }
  });

  it("holds back nothing that is below a warning", () => {
    const { logger, written } = capture();
    for (let index = 0; index < 100; index++) logger.info({ event: "campaign_entered" }, "entered");
    expect(written).toHaveLength(100);
  });

  it("takes what libraries print and Node warns of", async () => {
    const { logger, last } = capture();
    const { error } = console;
    const warned = process.listeners("warning");
    try {
      logStrayLines(logger);
      console.error("E %s is broken", "a thing");
      expect(last()).toMatchObject({ event: "stray_line", level: "warn", msg: "E a thing is broken" });
      process.emitWarning("too many listeners");
      await new Promise((resolve) => setImmediate(resolve));
      expect(last()).toMatchObject({ event: "node_warning", msg: "too many listeners" });
    } finally {
      console.error = error;
      process.removeAllListeners("warning");
      for (const listener of warned) process.on("warning", listener);
    }
  });

  it.each([
    ["auto", false, true],
    ["json", true, true],
    ["auto", true, false],
    ["pretty", false, false],
  ] as const)("format %s, terminal %s: is JSON %s", (format, isTerminal, isJson) => {
    const { logger, written } = capture({ format, isTerminal });
    logger.info({ head: 5n }, "hello");
    expect(written).toHaveLength(1);
    const line = written.join("");
    expect(line).toContain("hello");
    expect(line.startsWith("{")).toBe(isJson);
    // Escape sequences belong on a terminal only.
    expect(line.includes("\u001b[")).toBe(isTerminal && !isJson);
  });
});
