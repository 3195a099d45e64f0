import { describe, expect, it } from "vitest";
import { InvalidArgumentError } from "../../src/oplog/errors.js";
import { LogKeys, logListing, requireConsumerName, requireLogName } from "../../src/oplog/keys.js";

const PREFIX = "/oplog";
const HOSTILE = [
  "",
  "../x",
  "..",
  "a/b",
  "/a",
  "a/",
  "a\n",
  "a\0",
  "a b",
  "a%2Fb",
  "__proto__",
  "-a",
  ".a",
  "é",
  "\u0430", // Cyrillic, looks like a
  "ａ", // full width
  "a\u200b",
  "x".repeat(129),
  "x".repeat(200),
];

describe("a log name", () => {
  it.each(HOSTILE)("%j is refused", (name) => {
    expect(() => requireLogName(name)).toThrow(InvalidArgumentError);
    expect(() => new LogKeys(PREFIX, name)).toThrow(InvalidArgumentError);
  });

  it.each(["a", "0", "A.b-c_d", "x".repeat(128), "constructor", "a..b"])("%j is accepted", (name) => {
    expect(requireLogName(name)).toBe(name);
  });

  it("is quoted in the refusal at a bounded length", () => {
    const refuse = () => requireLogName("\n".repeat(100_000), "page_token");
    expect(refuse).toThrow(/^page_token: /);
    try {
      refuse();
    } catch (error) {
      expect((error as InvalidArgumentError).message.length).toBeLessThan(1000);
      expect(String((error as InvalidArgumentError).facts.received)).toHaveLength(200);
    }
  });
});

describe("a consumer name", () => {
  it.each(["", "a/b", "../x", "a\n", "é", "x".repeat(129)])("%j is refused", (name) => {
    expect(() => requireConsumerName(name)).toThrow(InvalidArgumentError);
    expect(() => new LogKeys(PREFIX, "a").cursor(name)).toThrow(InvalidArgumentError);
  });

  it.each(["..", "__proto__", "-"])("%j stays below the cursors of its log", (name) => {
    const keys = new LogKeys(PREFIX, "a");
    expect(keys.cursor(name)).toBe(`${PREFIX}/a/cursors/${name}`);
  });
});

describe("the keys of one log", () => {
  const names = ["a", "a-b", "a.b", "ab", "a0", "A", "a_", "a-", "a.", "a0a", "records", "head"];
  const all = (log: string): string[] => {
    const keys = new LogKeys(PREFIX, log);
    return [keys.head, keys.term, keys.floor, keys.record(1n), keys.record(2n ** 64n - 1n), keys.cursor("c")];
  };

  it.each(names)("%s are all in its range, and no other log's are", (log) => {
    const { allFrom, allTo } = new LogKeys(PREFIX, log);
    const isIn = (key: string) => key >= allFrom && key < allTo;
    expect(all(log).every(isIn)).toBe(true);
    expect(
      names
        .filter((other) => other !== log)
        .flatMap(all)
        .filter(isIn),
    ).toEqual([]);
  });

  it("of records sort by id, and lie in the range of records alone", () => {
    const keys = new LogKeys(PREFIX, "a");
    const ids = [1n, 9n, 10n, 99n, 2n ** 32n, 2n ** 63n, 2n ** 64n - 1n];
    const records = ids.map((id) => keys.record(id));
    expect([...records].sort()).toEqual(records);
    for (const key of records) expect(key >= keys.recordsFrom && key < keys.recordsTo).toBe(true);
    for (const key of [keys.head, keys.term, keys.floor, keys.cursor("c")])
      expect(key >= keys.recordsFrom && key < keys.recordsTo).toBe(false);
    expect(records.map((key) => keys.recordId(key))).toEqual(ids);
  });

  it("of another shape name no record", () => {
    const keys = new LogKeys(PREFIX, "a");
    const others = [
      keys.head,
      keys.cursor("c"),
      `${keys.recordsFrom}1`,
      `${keys.record(1n)}0`,
      `${keys.recordsFrom}${"x".repeat(20)}`,
    ];
    expect(others.map((key) => keys.recordId(key))).toEqual(others.map(() => undefined));
    expect(new LogKeys(PREFIX, "ab").recordId(keys.record(1n))).toBeUndefined();
  });
});

describe("a listing", () => {
  it("walks from log to log, each once, whatever their names have in common", () => {
    const names = ["a", "a-b", "a.b", "ab", "a0", "a0a", "Z", "a-"];
    const stored = names.flatMap((log) => [
      `${PREFIX}/${log}/head`,
      `${PREFIX}/${log}/records/x`,
      `${PREFIX}/${log}/term`,
    ]);
    stored.sort();
    const found: string[] = [];
    for (let from = logListing.from(PREFIX); ; ) {
      const key = stored.find((each) => each >= from && each < logListing.to(PREFIX));
      if (key === undefined) break;
      const log = logListing.nameIn(PREFIX, key).name;
      found.push(log);
      from = logListing.after(PREFIX, log);
    }
    expect([...found].sort()).toEqual([...names].sort());
  });

  it("does not take foreign keys for logs", () => {
    expect(logListing.nameIn(PREFIX, `${PREFIX}//head`)).toEqual({ name: "", isLog: false });
    expect(logListing.nameIn(PREFIX, `${PREFIX}/.hidden/head`)).toEqual({ name: ".hidden", isLog: false });
  });

  it.each(["", "oplog", "/", "/a/", "/a//b", "/a b"])("refuses the prefix %j", (prefix) => {
    expect(() => logListing.requirePrefix(prefix)).toThrow("key prefix");
  });

  it.each(["/oplog", "/a/b.c"])("accepts the prefix %j", (prefix) => {
    expect(logListing.requirePrefix(prefix)).toBe(prefix);
  });
});
