import { execFile, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { cp, mkdir, readdir, readFile, rename, rm, stat, utimes } from "node:fs/promises";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { Language } from "./toolchain.js";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const CACHE = join(ROOT, "node_modules/.cache/oplog-interop");
const OUTPUT_BYTES_MAX = 16 << 20;
const UNFINISHED = ".unfinished";
/** Longer than any run of the tests takes. */
const KEPT_MS = 2 * 3_600_000;

/**
 * The directory of a built example, like examples/go. It is built in a copy of the sources, kept under their hash: the
 * tree stays clean and a second run is quick.
 */
export async function buildExample(language: Language): Promise<string> {
  const example = `examples/${language}`;
  const sources = [...(await filesUnder("proto")), ...(await filesUnder(example))];
  const built = await cached(language, sources, async (directory) => {
    for (const source of sources) await cp(join(ROOT, source), join(directory, source));
    await run("make", ["-C", join(directory, example)]);
  });
  return join(built, example);
}

/** The path of a grpcurl binary, of the version that tools/go.mod pins. */
export async function buildGrpcurl(): Promise<string> {
  const built = await cached("grpcurl", ["tools/go.mod", "tools/go.sum"], (directory) =>
    run("go", ["build", "-C", join(ROOT, "tools"), "-o", directory, "github.com/fullstorydev/grpcurl/cmd/grpcurl"]),
  );
  return join(built, "grpcurl");
}

/**
 * Builds apart and renames at the end: what bears the hash is complete. Older builds of the same name are removed, unless
 * they were used lately: another run may be using them still, of sources that have changed since.
 */
async function cached(
  name: string,
  sources: readonly string[],
  build: (directory: string) => Promise<void>,
): Promise<string> {
  const hash = createHash("sha256");
  for (const source of sources) hash.update(`${source}\0`).update(await readFile(join(ROOT, source)));
  const directory = join(CACHE, `${name}-${hash.digest("hex").slice(0, 16)}`);
  await mkdir(CACHE, { recursive: true });
  await locked(join(CACHE, `.${name}.lock`), async () => {
    if (await exists(directory)) return utimes(directory, new Date(), new Date());
    for (const old of await readdir(CACHE)) {
      if (!old.startsWith(`${name}-`)) continue;
      const { mtimeMs } = await stat(join(CACHE, old));
      if (old.endsWith(UNFINISHED) || mtimeMs < Date.now() - KEPT_MS) await rm(join(CACHE, old), { recursive: true });
    }
    const unfinished = `${directory}${UNFINISHED}`;
    await mkdir(unfinished);
    await build(unfinished);
    await rename(unfinished, directory);
  });
  return directory;
}

/** One test process at a time: a second one would build the same. The lock goes with its holder, however that ends. */
async function locked(path: string, work: () => Promise<void>): Promise<void> {
  const holder = spawn("flock", [path, "sh", "-c", "echo locked; exec cat"], { stdio: ["pipe", "pipe", "inherit"] });
  await new Promise((resolve, reject) => {
    holder.stdout.once("data", resolve);
    holder.once("error", reject);
    holder.once("exit", (code) => reject(new Error(`flock ${path} ended with ${code}`)));
  });
  try {
    await work();
  } finally {
    holder.stdin.end();
  }
}

/** Files of the tree that are sources: all but what a build leaves behind. */
async function filesUnder(directory: string): Promise<string[]> {
  const entries = await readdir(join(ROOT, directory), { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)))
    .filter((path) => !/\/(build|gen|__pycache__)\//.test(path))
    .sort();
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

async function run(command: string, args: readonly string[]): Promise<void> {
  try {
    await promisify(execFile)(command, args, { maxBuffer: OUTPUT_BYTES_MAX });
  } catch (error) {
    const { stderr } = error as { stderr?: string };
    throw new Error(`${command} ${args.join(" ")} has failed:\n${stderr ?? ""}`, { cause: error });
  }
}
