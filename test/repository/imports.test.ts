import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import { describe, expect, it } from "vitest";
import { parse, ROOT, type SourceFile, sourceFiles } from "./source-tree.js";

/** Room → what it may import beside itself: rooms, or single files. The files beside the rooms may import everything. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  gen: [],
  oplog: ["gen"],
  leadership: ["oplog"],
  stored: ["gen", "oplog"],
  writing: ["gen", "oplog", "stored"],
  following: ["gen", "oplog", "stored"],
  cursors: ["gen", "oplog", "stored"],
  log: ["gen", "oplog", "stored", "writing", "following", "cursors"],
  standby: ["gen", "oplog", "stored", "following", "writing", "log"],
  promotion: ["gen", "oplog", "leadership", "stored", "writing", "log", "standby"],
  stores: ["oplog"],
  offline: ["stores"],
  grpc: ["gen", "oplog", "stored", "writing", "following", "cursors", "log", "standby", "promotion"],
  admin: [],
  telemetry: ["oplog", "writing", "stores", "standby", "promotion"],
  config: ["oplog"],
  process: ["config", "telemetry"],
  client: ["gen", "src/grpc/bridge.ts"],
  cli: ["gen", "client", "offline"],
  launch: [],
  bench: ["gen", "client", "launch", "standby"],
  demo: ["gen", "client", "launch"],
};

const COMPOSITION_ROOT = ["src/main.ts", "src/sidecar.ts", "src/parts.ts", "src/health.ts", "src/store.ts"];
const PURE_ROOMS = ["oplog", "leadership", "stored", "writing", "following", "cursors", "log", "standby", "promotion"];
const IMPURE_PACKAGES = /^(etcd3|@grpc\/|lmdb|pino|prom-client|(node:)?(fs|net|http2?|timers|os|child_process)(\/|$))/;
const IMPURE_NAMES = [
  "setTimeout",
  "setInterval",
  "setImmediate",
  "Date.now",
  "new Date",
  "performance.now",
  "Math.random",
];
/** Where time and chance come from, for everyone else. */
const CLOCK = "src/oplog/clock.ts";

function roomOf(path: string): string {
  const [top, room] = path.split("/");
  return top === "src" ? room! : top!;
}

function strayImports(file: SourceFile): string[] {
  if (COMPOSITION_ROOT.includes(file.path)) return [];
  const room = roomOf(file.path);
  const allowed = MAY_IMPORT[room];
  if (allowed === undefined) return [`${file.path}: ${room} is no room of the table`];
  return file.imports
    .filter((path) => roomOf(path) !== room && !allowed.includes(roomOf(path)) && !allowed.includes(path))
    .map((path) => `${file.path} imports ${path}`);
}

function impurities(file: SourceFile): string[] {
  if (!PURE_ROOMS.includes(roomOf(file.path)) || file.path === CLOCK) return [];
  return [
    ...file.packages.filter((name) => IMPURE_PACKAGES.test(name)),
    ...IMPURE_NAMES.filter((n) => file.names.has(n)),
  ].map((name) => `${file.path} uses ${name}`);
}

function cycles(files: readonly SourceFile[]): string[][] {
  const byPath = new Map(files.map((file) => [file.path, file]));
  const done = new Set<string>();
  const found: string[][] = [];
  const visit = (path: string, trail: readonly string[]): void => {
    if (trail.includes(path)) found.push([...trail.slice(trail.indexOf(path)), path]);
    if (done.has(path) || trail.includes(path)) return;
    for (const next of byPath.get(path)?.imports ?? []) visit(next, [...trail, path]);
    done.add(path);
  };
  for (const file of files) visit(file.path, []);
  return found;
}

function isBarrel(file: SourceFile): boolean {
  return /^(index|utils?|helpers?|common|misc)\.ts$/.test(basename(file.path)) || /\/(utils?|common)\//.test(file.path);
}

describe("the source tree", () => {
  const files = sourceFiles("src", "bench", "demo");

  it("is read at all, and its imports lead to files", () => {
    expect(files.length).toBeGreaterThan(20);
    const edges = files.flatMap(({ imports }) => imports);
    expect(edges.length).toBeGreaterThan(20);
    expect(edges.filter((path) => !existsSync(join(ROOT, path)))).toEqual([]);
  });

  it("imports only in the directions of the table", () => {
    expect(files.flatMap(strayImports)).toEqual([]);
  });

  it("keeps time, files and networks out of the pure rooms", () => {
    expect(files.flatMap(impurities)).toEqual([]);
  });

  it("has no cycles", () => {
    expect(cycles(files)).toEqual([]);
  });

  it("has no barrels and no drawers for odds and ends", () => {
    expect(files.filter(isBarrel).map(({ path }) => path)).toEqual([]);
  });

  it("imports nothing of the tests", () => {
    const strays = files.flatMap((file) => file.imports.filter((path) => path.startsWith("test/")));
    expect(strays).toEqual([]);
  });
});

describe("the rules themselves", () => {
  it("see an import in the wrong direction, in every form", () => {
    const text = `
      import { a } from "../grpc/server.js";
      import type { B } from "../stores/etcd/wire.js";
      export { c } from "../writing/commit.js";
      const d = await import("../config/config.js");
      import { ok } from "../gen/oplog/v1/entry_pb.js";
      // import { no } from "../admin/admin-server.js";`;
    expect(strayImports(parse("src/oplog/x.ts", text)).map((stray) => stray.split("imports ")[1])).toEqual([
      "src/grpc/server.ts",
      "src/stores/etcd/wire.ts",
      "src/writing/commit.ts",
      "src/config/config.ts",
    ]);
    expect(
      strayImports(parse("src/client/x.ts", 'import "../grpc/server.js"; import "../grpc/bridge.js";')),
    ).toHaveLength(1);
    expect(strayImports(parse("src/newroom/x.ts", ""))).toEqual(["src/newroom/x.ts: newroom is no room of the table"]);
    expect(strayImports(parse("src/sidecar.ts", text))).toEqual([]);
  });

  it("see impurity in code, but not in words", () => {
    const text =
      'import "node:fs"; import "etcd3"; setTimeout(f); Date.now(); new Date(5); // setInterval\nf("setImmediate")';
    const seen = ["node:fs", "etcd3", "setTimeout", "Date.now", "new Date"];
    expect(impurities(parse("src/leadership/x.ts", text))).toEqual(
      seen.map((name) => `src/leadership/x.ts uses ${name}`),
    );
    expect(impurities(parse("src/grpc/x.ts", text))).toEqual([]);
  });

  it("see a cycle", () => {
    const texts = {
      "src/a.ts": 'import "./b.js"',
      "src/b.ts": 'import type { C } from "./c.js"',
      "src/c.ts": 'import "./a.js"',
    };
    const files = Object.entries(texts).map(([path, text]) => parse(path, text));
    expect(cycles(files)).toEqual([["src/a.ts", "src/b.ts", "src/c.ts", "src/a.ts"]]);
    expect(cycles(files.slice(0, 2))).toEqual([]);
  });

  it("see a barrel", () => {
    expect(isBarrel(parse("src/oplog/index.ts", ""))).toBe(true);
    expect(isBarrel(parse("src/utils/x.ts", ""))).toBe(true);
    expect(isBarrel(parse("src/oplog/record.ts", ""))).toBe(false);
  });
});
