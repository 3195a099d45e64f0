import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parse as parseYaml, stringify } from "yaml";
import { ROOT } from "./source-tree.js";

const run = promisify(execFile);
const env = { ...process.env, PATH: `${join(ROOT, "node_modules/.bin")}:${process.env.PATH}` };
let scratch: string;

beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "oplog-repository-"));
});

afterAll(() => rm(scratch, { recursive: true, force: true }));

function buf(...args: string[]): Promise<unknown> {
  return run("buf", args, { cwd: ROOT, env });
}

async function git(...args: string[]): Promise<string> {
  return (await run("git", args, { cwd: ROOT })).stdout.trim();
}

async function contentsOf(folder: string): Promise<Record<string, string>> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return Object.fromEntries(
    await Promise.all(files.sort().map(async (file) => [file.slice(folder.length), await readFile(file, "utf8")])),
  );
}

/** What the API was promised to be: the newest release, or, before the first one, where it began. */
async function promised(): Promise<string> {
  const tags = await git("tag", "--list", "v*", "--merged", "HEAD", "--sort=-v:refname");
  const roots = await git("rev-list", "--max-parents=0", "HEAD");
  return (tags || roots).split("\n")[0]!;
}

/** Writes the API of a revision, changed by `edit`, to a folder of its own. */
async function checkOutApi(revision: string, folder: string, edit = (proto: string) => proto): Promise<string> {
  const target = join(scratch, folder);
  const paths = (await git("ls-tree", "-r", "--name-only", revision, "proto", "buf.yaml")).split("\n");
  expect(paths).toContain("proto/oplog/v1/oplog.proto");
  for (const path of paths) {
    const { stdout } = await run("git", ["show", `${revision}:${path}`], { cwd: ROOT });
    await mkdir(join(target, path, ".."), { recursive: true });
    await writeFile(join(target, path), path.endsWith(".proto") ? edit(stdout) : stdout);
  }
  return target;
}

describe("the API definition", () => {
  it("has its generated code checked in", async () => {
    const template = parseYaml(await readFile(join(ROOT, "buf.gen.yaml"), "utf8")) as { plugins: { out: string }[] };
    const outputs = template.plugins.map((plugin, index) => ({ plugin, target: join(scratch, `gen-${index}`) }));
    const checkedIn = await Promise.all(outputs.map(({ plugin }) => contentsOf(join(ROOT, plugin.out))));
    for (const { plugin, target } of outputs) plugin.out = target;
    await writeFile(join(scratch, "buf.gen.yaml"), stringify(template));
    await buf("generate", "--template", join(scratch, "buf.gen.yaml"));
    const generated = await Promise.all(outputs.map(({ target }) => contentsOf(target)));
    expect(Object.keys(generated[0]!).length).toBeGreaterThan(3);
    expect(checkedIn).toEqual(generated);
  });

  it("passes the lint rules and is formatted", async () => {
    await buf("lint");
    await buf("format", "--diff", "--exit-code");
  });

  it("breaks nothing that was promised", async () => {
    await buf("breaking", "--against", await checkOutApi(await promised(), "promised"));
  });

  it("would be seen to break if a promised field were missing", async () => {
    const withMore = (proto: string) => proto.replace("message AppendRequest {", "$& uint32 promised_field = 1000;");
    const folder = await checkOutApi(await promised(), "promised-more", withMore);
    await expect(buf("breaking", "--against", folder)).rejects.toMatchObject({
      stdout: expect.stringContaining("promised_field"),
    });
  });
});
