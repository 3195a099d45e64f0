import { describe, expect, it } from "vitest";
import {
  parseCount,
  parseDurationMs,
  parseOps,
  parseStart,
  parseTarget,
  parseUint64,
} from "../../src/cli/arguments.js";

describe("--from of tail", () => {
  it.each([
    ["begin", { case: "fromBeginning", value: true }],
    ["head", { case: "fromHead", value: true }],
    ["1", { case: "fromSequenceId", value: 1n }],
    ["18446744073709551615", { case: "fromSequenceId", value: 18446744073709551615n }],
    ["cursor:standby-1", { case: "fromCursor", value: "standby-1" }],
    ["@1970-01-01T00:00:01.250Z", { case: "fromTime", value: { seconds: 1n, nanos: 250_000_000 } }],
    ["@1970-01-01T02:00:00+02:00", { case: "fromTime", value: { seconds: 0n, nanos: 0 } }],
    ["@1969-12-31T23:59:59.500Z", { case: "fromTime", value: { seconds: -1n, nanos: 500_000_000 } }],
  ])("reads %s", (text, start) => {
    expect(parseStart(text)).toEqual(start);
  });

  it.each(["", "0", "-0", "-25", "1.5", "18446744073709551616", "tail", "@yesterday", "@2025-01-31", "1e3"])(
    "refuses %j",
    (text) => {
      expect(() => parseStart(text)).toThrow(/must be/);
    },
  );
});

describe("other arguments", () => {
  it.each([
    ["500ms", 500],
    ["5s", 5_000],
    ["1.5m", 90_000],
    ["24h", 86_400_000],
  ])("reads %s as %d ms", (text, ms) => expect(parseDurationMs(text)).toBe(ms));

  it.each(["0s", "25h", "-1s", "5 s", "5", "1.5", "soon", ""])("refuses the duration %j", (text) => {
    expect(() => parseDurationMs(text)).toThrow(/duration/);
  });

  it("keeps every digit of a 64-bit id", () => {
    expect(parseUint64("9007199254740993")).toBe(9007199254740993n);
    for (const text of ["18446744073709551616", "-1", "0x10", ""])
      expect(() => parseUint64(text)).toThrow(/whole number/);
  });

  it("reads types of entries with commas", () => {
    expect(parseOps("event,put-end")).toEqual(["event", "put-end"]);
    for (const text of ["", "put", "event,", "event remove"]) expect(() => parseOps(text)).toThrow(/one or more of/);
  });

  it("refuses an empty address", () => {
    expect(parseTarget("localhost")).toBe("localhost");
    expect(() => parseTarget("")).toThrow(/must be host:port/);
  });

  it("counts from 1", () => {
    expect(parseCount("1")).toBe(1);
    for (const text of ["0", "-3", "1.5", "x"]) expect(() => parseCount(text)).toThrow(/whole number/);
  });
});
