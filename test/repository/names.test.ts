import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { expect, it } from "vitest";
import { ROOT } from "./source-tree.js";

/** The client and the command line are programs of their own, with the names of the API. */
const OTHER_PROGRAMS = /^src\/(gen|client|cli)\//;
const EXPORTED_TYPE = /^export (?:abstract )?(?:interface|class|type) (\w+)/gm;

it("one name stands for one thing: no two types that rooms of the sidecar offer share it", () => {
  const places = new Map<string, string[]>();
  for (const entry of readdirSync(join(ROOT, "src"), { recursive: true, withFileTypes: true })) {
    const path = relative(ROOT, join(entry.parentPath, entry.name));
    if (!path.endsWith(".ts") || OTHER_PROGRAMS.test(path)) continue;
    for (const [, name] of readFileSync(join(ROOT, path), "utf8").matchAll(EXPORTED_TYPE)) {
      places.set(name!, [...(places.get(name!) ?? []), path]);
    }
  }
  expect([...places].filter(([, paths]) => paths.length > 1)).toEqual([]);
  expect(places.size).toBeGreaterThan(100);
});
