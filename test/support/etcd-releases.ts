import { execFile } from "node:child_process";
import { access, mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { EtcdBinary } from "./etcd.js";
import { makeTempDir } from "./temp-dir.js";

const run = promisify(execFile);
const CACHE = fileURLToPath(new URL("../../node_modules/.cache/oplog-tools", import.meta.url));
const BUILD_MS = 1_800_000;

/** A release of etcd from the Go proxy with its etcdutl, built on first use: takes minutes. */
export async function etcdRelease(version: string): Promise<EtcdBinary> {
  const path = join(CACHE, `etcd-${version}`);
  const restoreTool = join(CACHE, `etcdutl-${version}`);
  if (!(await exists(path)) || !(await exists(restoreTool)))
    await build(version, { server: path, etcdutl: restoreTool });
  return { path, version, restoreTool };
}

/** Each in a module of its own: the published ones refer to one another by path, so "go install" does not take them. */
async function build(version: string, targets: Readonly<Record<"server" | "etcdutl", string>>): Promise<void> {
  await mkdir(CACHE, { recursive: true });
  const { path: module } = await makeTempDir("etcd-release");
  const env = { ...process.env, CGO_ENABLED: "0", GOFLAGS: "-mod=mod" };
  const go = (...args: string[]) => run("go", args, { cwd: module, env, timeout: BUILD_MS });
  try {
    await go("mod", "init", "release");
    const packages = (["server", "etcdutl"] as const).map(
      (name) => [`go.etcd.io/etcd/${name}/v3`, targets[name]] as const,
    );
    await go("get", ...packages.map(([name]) => `${name}@v${version}`));
    for (const [name, target] of packages) {
      await go("build", "-o", `${target}.${process.pid}`, name);
      await rename(`${target}.${process.pid}`, target);
    }
  } finally {
    await rm(module, { recursive: true, force: true });
  }
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
