import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ROOT } from "../repository/source-tree.js";

const DOCUMENT = readFileSync(join(ROOT, "docs/internals.md"), "utf8");
/** A file of this tree in code quotes. */
const FILE = /`((?:src|test|proto|docs|bench|demo|launch|examples)\/[^`\s]+)`/g;
/** A test file and what the title of a test in it says. */
const TEST = /`(test\/[^`]+\.test\.ts)` "([^"]+)"/g;

const invariants = DOCUMENT.split("\n").filter((line) => /^\| \d+ \|/.test(line));

describe("docs/internals.md", () => {
  it.each([...new Set([...DOCUMENT.matchAll(FILE)].map(([, file]) => file!))])(
    "names a file that exists: %s",
    (file) => {
      expect(existsSync(join(ROOT, file))).toBe(true);
    },
  );

  it.each([...DOCUMENT.matchAll(TEST)].map(([, file, title]) => [file!, title!] as const))(
    "names a test that exists: %s, %s",
    (file, title) => {
      const source = readFileSync(join(ROOT, file), "utf8");
      // A title may be cut into pieces by what a table puts into it.
      expect(source.replaceAll("\\'", "'")).toContain(title);
    },
  );

  it("has a place in the code and a test for every invariant, numbered from 1", () => {
    expect(invariants.map((line) => Number(line.split("|")[1]))).toEqual(invariants.map((_, index) => index + 1));
    for (const line of invariants) {
      const [, , , keptIn, shownBy] = line.split("|");
      expect(keptIn, line).toMatch(/`src\/[^`]+`/);
      expect([...shownBy!.matchAll(TEST)].length, line).toBeGreaterThan(0);
    }
    expect(invariants.length).toBeGreaterThanOrEqual(17);
  });
});
