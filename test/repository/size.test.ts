import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { describe, expect, it } from "vitest";
import { ROOT } from "./source-tree.js";

/** Lines of the longest file of a tree. These numbers only ever go down: cut the file, and lower its number. */
const LONGEST: Readonly<Record<string, number>> = { src: 460, test: 510 };
/** How far a tree may fall below its number before that must follow. */
const SLACK = 30;

const GENERATED = /^src\/gen\//;

function linesOf(tree: string): { readonly path: string; readonly lines: number }[] {
  return readdirSync(join(ROOT, tree), { recursive: true, withFileTypes: true })
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)))
    .filter((path) => path.endsWith(".ts") && !GENERATED.test(path))
    .map((path) => ({ path, lines: readFileSync(join(ROOT, path), "utf8").split("\n").length - 1 }))
    .sort((one, other) => other.lines - one.lines);
}

describe.each(Object.entries(LONGEST))("files of %s", (tree, limit) => {
  const longest = linesOf(tree)[0]!;

  it("do not grow beyond the longest one there was", () => {
    expect(longest.lines, `${longest.path} is to be cut at a seam`).toBeLessThanOrEqual(limit);
  });

  it("have become shorter only together with their number here", () => {
    expect(longest.lines, `the longest file is ${longest.path} now: lower the number`).toBeGreaterThan(limit - SLACK);
  });
});
