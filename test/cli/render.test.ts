import { create } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { entryLine, humanBytes, humanDuration, keyText, payloadText, table } from "../../src/cli/render.js";
import { EntrySchema, OpType } from "../../src/gen/oplog/v1/entry_pb.js";

const utf8 = (text: string) => new TextEncoder().encode(text);

describe("payloads", () => {
  it("are shown as text when all of it can be shown", () => {
    expect(payloadText(utf8("grüße 🎉"))).toBe("grüße 🎉");
    expect(payloadText(new Uint8Array())).toBe("");
  });

  it.each([
    ["bytes that are no UTF-8", new Uint8Array([0xff, 0xfe])],
    ["a line end", utf8("a\nb")],
    ["an escape sequence of a terminal", utf8("\u001b[31mred")],
    ["text that turns its direction", utf8("a\u202Eb")],
  ])("are shown as size and base64 with %s", (_, payload) => {
    expect(payloadText(payload)).toBe(`<${payload.length} bytes> ${Buffer.from(payload).toString("base64")}`);
  });
});

describe("an entry", () => {
  const entry = create(EntrySchema, {
    sequenceId: 1043n,
    term: 4n,
    timestampMs: 1_700_000_000_123n,
    opType: OpType.PUT_END,
    key: "user/7",
    payload: utf8("x".repeat(500)),
  });

  it("is one line with its columns in place", () => {
    expect(entryLine(entry, undefined)).toBe(
      `      1043     4  2023-11-14T22:13:20.123Z  put-end     ${"user/7".padEnd(24)}  ${"x".repeat(500)}`,
    );
  });

  it("is cut to the terminal", () => {
    const line = entryLine(entry, 120);
    expect(line).toHaveLength(120);
    expect(line.endsWith("x…")).toBe(true);
  });

  it("cannot write to the terminal through its key", () => {
    expect(keyText("a\u001b[2Jb\nc")).toBe("a\\u{1b}[2Jb\\u{a}c");
  });
});

it("tables align text to the left and numbers to the right", () => {
  expect(
    table(
      ["LOG", "HEAD"],
      [
        ["a", "1"],
        ["longer", "1043"],
      ],
    ),
  ).toEqual(["LOG     HEAD", "a          1", "longer  1043"]);
});

it.each([
  [0, "0 B"],
  [1023, "1023 B"],
  [1536n, "1.5 KiB"],
  [64n * 1024n * 1024n, "64 MiB"],
])("%s bytes read %s", (bytes, text) => expect(humanBytes(bytes)).toBe(text));

it.each([
  [83, "83 ms"],
  [3_200, "3.2 s"],
  [5_000, "5 s"],
  [303_000, "5 min 3 s"],
  [7_380_000, "2 h 3 min"],
  [200_000_000, "2 d 7 h"],
])("%d ms reads %s", (ms, text) => expect(humanDuration(ms)).toBe(text));
