import { create, toJsonString } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { type EntryInit, entryBatches, parseEntryLine } from "../../src/cli/entry-lines.js";
import { EntrySchema, OpType } from "../../src/gen/oplog/v1/entry_pb.js";

describe("a line", () => {
  it("may use the words for people", () => {
    expect(parseEntryLine('{"op":"event","key":"k","text":"grüße"}', 1)).toMatchObject({
      opType: OpType.EVENT,
      key: "k",
      payload: new TextEncoder().encode("grüße"),
    });
    expect(parseEntryLine('{"key":"k"}', 1)).toMatchObject({ opType: OpType.PUT_END });
  });

  it("may be an entry as it was printed, and loses what the sidecar sets", () => {
    const printed = create(EntrySchema, {
      sequenceId: 7n,
      term: 2n,
      timestampMs: 99n,
      opType: OpType.REMOVE,
      key: "k",
      payload: new Uint8Array([0, 255]),
      keySequenceId: 3n,
      headers: { traceparent: "00-x" },
    });
    const line = toJsonString(EntrySchema, printed, { useProtoFieldName: true, alwaysEmitImplicit: true });

    expect(parseEntryLine(line, 1)).toEqual({ ...printed, sequenceId: 0n, term: 0n, timestampMs: 0n });
  });

  it.each([
    ["{", /line 4 of stdin/],
    ["[]", /not a JSON object/],
    ['{"op":"put"}', /op must be one of put-end, put-revoke, remove, event/],
    ['{"op":"event","op_type":"OP_TYPE_EVENT"}', /not both/],
    ['{"text":"a","payload":"YQ=="}', /not both/],
    ['{"kye":"a"}', /kye/],
    ['{"key":7}', /key/],
  ])("like %s is refused with its number and the reason", (line, reason) => {
    expect(() => parseEntryLine(line, 4)).toThrow(reason);
    expect(() => parseEntryLine(line, 4)).toThrow(/line 4/);
  });
});

describe("batches", () => {
  it("do not depend on how the input arrives, unless cut at pauses", async () => {
    const text = lines(1_200);
    const whole = await keys([text], false);

    expect(whole.map((batch) => batch.length)).toEqual([500, 500, 200]);
    expect(await keys(pieces(text, 777), false)).toEqual(whole);
  });

  it("hold what has come so far when cut at pauses", async () => {
    expect(await keys(['{"key":"a"}\n{"key":"b"}\n{"ke', 'y":"c"}'], true)).toEqual([["a", "b"], ["c"]]);
  });

  it("stay below a size", async () => {
    const line = JSON.stringify({ key: "k", text: "x".repeat(200_000) });
    expect((await keys([`${line}\n${line}\n${line}\n`], false)).map((batch) => batch.length)).toEqual([2, 1]);
  });

  it("skip empty lines and keep a character that two chunks share", async () => {
    const bytes = Buffer.from('\n{"key":"ü"}\n\n');
    const split = bytes.indexOf(0xc3) + 1;
    expect(await keys([bytes.subarray(0, split), bytes.subarray(split)], false)).toEqual([["ü"]]);
  });

  it("refuse a line without end", async () => {
    await expect(keys(pieces("x".repeat(3_000_000), 65_536), true)).rejects.toThrow(/longer than/);
  });
});

function lines(count: number): string {
  return Array.from({ length: count }, (_, index) => `{"key":"k${index}"}\n`).join("");
}

function pieces(text: string, size: number): string[] {
  return Array.from({ length: Math.ceil(text.length / size) }, (_, index) =>
    text.slice(index * size, (index + 1) * size),
  );
}

async function keys(chunks: Array<string | Buffer>, cutsAtPauses: boolean): Promise<Array<Array<EntryInit["key"]>>> {
  async function* input() {
    for (const chunk of chunks) yield Buffer.from(chunk as string);
  }
  const batches = [];
  for await (const batch of entryBatches(input(), cutsAtPauses)) batches.push(batch.map((entry) => entry.key));
  return batches;
}
