import { type ChildProcess, execFile, spawn } from "node:child_process";
import { rmSync } from "node:fs";
import { access, mkdir, readFile, rename } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { makeTempDir } from "./temp-dir.js";
import { waitFor, within } from "./wait.js";

const run = promisify(execFile);

const PROJECT = fileURLToPath(new URL("../..", import.meta.url));
const TOOLS = join(PROJECT, "tools");
const CACHE = join(PROJECT, "node_modules", ".cache", "oplog-tools");
const SERVER_PACKAGE = "go.etcd.io/etcd/server/v3";
const HOST = "127.0.0.1";
const ETCDCTL_ENVIRONMENT = { ...process.env, ETCDCTL_API: "3" };
const BUILD_MS = 300_000;
const START_MS = 30_000;
const OUTPUT_BYTES_MAX = 16 * 1024;

export interface EtcdBinary {
  readonly path: string;
  readonly version: string;
  /** etcdutl of the same version; the etcdctl of 3.4 does without. */
  readonly restoreTool?: string;
}

/**
 * The etcd of the system and the current one that tools/go.mod pins, built on first use. A missing one is reported and
 * left out, except in CI, where it is an error.
 */
export async function etcdBinaries(): Promise<EtcdBinary[]> {
  const found: EtcdBinary[] = [];
  for (const [find, install] of [
    [systemEtcd, "install Debian's etcd-server, or put another etcd on the PATH"],
    [builtEtcd, "install Go as tools/go.mod asks for, to build the current etcd"],
  ] as const) {
    try {
      found.push(await find());
    } catch (error) {
      const problem = `no etcd here: ${install} (${error instanceof Error ? error.message : error})`;
      if (process.env.CI) throw new Error(problem);
      process.stderr.write(`${problem}\n`);
    }
  }
  if (found.length === 0) throw new Error("there is no etcd to test against");
  return found;
}

async function systemEtcd(): Promise<EtcdBinary> {
  return { path: "etcd", version: await versionOf("etcd") };
}

async function builtEtcd(): Promise<EtcdBinary> {
  const module = await readFile(join(TOOLS, "go.mod"), "utf8");
  const pinned = new RegExp(`${SERVER_PACKAGE} v(\\S+)`).exec(module)?.[1];
  if (pinned === undefined) throw new Error(`tools/go.mod does not pin ${SERVER_PACKAGE}`);
  const path = join(CACHE, `etcd-${pinned}`);
  if (!(await exists(path))) await build(path);
  return { path, version: await versionOf(path) };
}

/** Test processes may build at once: each its own file, the last to finish stays. */
async function build(path: string): Promise<void> {
  await mkdir(CACHE, { recursive: true });
  const partial = `${path}.${process.pid}`;
  const env = { ...process.env, CGO_ENABLED: "0" };
  await run("go", ["build", "-C", TOOLS, "-o", partial, SERVER_PACKAGE], { env, timeout: BUILD_MS });
  await rename(partial, path);
}

async function versionOf(path: string): Promise<string> {
  const { stdout } = await run(path, ["--version"]);
  const version = /etcd Version: (\S+)/.exec(stdout)?.[1];
  if (version === undefined) throw new Error(`${path} --version says ${JSON.stringify(stdout)}`);
  return version;
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

export interface StartOptions {
  readonly binary: EtcdBinary;
  /** Made, and removed at the end, when not given. */
  readonly dataDir?: string;
  readonly port?: number;
  /** With a certificate that signs itself: see `certificate`. */
  readonly tls?: boolean;
  readonly args?: readonly string[];
}

export async function startEtcd({ binary, dataDir, port, tls = false, args = [] }: StartOptions): Promise<EtcdServer> {
  const server = await EtcdServer.prepare(binary, "alone", { dataDir, port, tls });
  await server.start([...args, "--initial-cluster", server.clusterEntry]);
  await server.healthy();
  return server;
}

export async function startEtcdCluster(
  binary: EtcdBinary,
  size: number,
  args: readonly string[] = [],
): Promise<EtcdServer[]> {
  const names = Array.from({ length: size }, (_, index) => `member-${index}`);
  const servers = await Promise.all(names.map((name) => EtcdServer.prepare(binary, name)));
  const cluster = servers.map((server) => server.clusterEntry).join(",");
  for (const server of servers) await server.start([...args, "--initial-cluster", cluster]);
  await Promise.all(servers.map((server) => server.healthy()));
  return servers;
}

export interface RestoreOptions {
  readonly token?: string;
  /** Like --bump-revision. */
  readonly args?: readonly string[];
}

interface Preparation {
  readonly dataDir?: string | undefined;
  readonly port?: number | undefined;
  readonly tls?: boolean;
}

export class EtcdServer {
  private child: ChildProcess | undefined;
  private args: readonly string[] = [];
  private output = "";

  private constructor(
    private readonly binary: EtcdBinary,
    private readonly name: string,
    private readonly dataDir: string,
    private readonly removesDataDir: boolean,
    readonly port: number,
    private readonly peerPort: number,
    private readonly healthPort: number,
    private readonly tls: boolean,
  ) {}

  static async prepare(binary: EtcdBinary, name: string, options: Preparation = {}): Promise<EtcdServer> {
    const { dataDir, port, tls = false } = options;
    const [own, peer, health] = await freePorts();
    const path = dataDir ?? (await makeTempDir("etcd")).path;
    const server = new EtcdServer(binary, name, path, dataDir === undefined, port ?? own, peer, health, tls);
    servers.add(server);
    return server;
  }

  get endpoint(): string {
    return `${this.tls ? "https" : "http"}://${HOST}:${this.port}`;
  }

  /** PEM, of a member that runs with TLS. */
  certificate(): Promise<Buffer> {
    return readFile(join(this.dataDir, "fixtures", "client", "cert.pem"));
  }

  get clusterEntry(): string {
    return `${this.name}=http://${HOST}:${this.peerPort}`;
  }

  get pid(): number {
    const pid = this.child?.pid;
    if (pid === undefined) throw new Error("this etcd does not run");
    return pid;
  }

  async start(args: readonly string[] = this.args): Promise<void> {
    this.args = args;
    const peerUrl = `http://${HOST}:${this.peerPort}`;
    const own = [
      ["--name", this.name, "--data-dir", this.dataDir, "--logger", "zap", "--log-level", "error"],
      ["--listen-client-urls", this.endpoint, "--advertise-client-urls", this.endpoint],
      ["--listen-peer-urls", peerUrl, "--initial-advertise-peer-urls", peerUrl],
      ["--listen-metrics-urls", this.healthUrl],
      this.tls ? ["--auto-tls"] : [],
    ].flat();
    const child = spawn(this.binary.path, [...own, ...args], { stdio: ["ignore", "pipe", "pipe"] });
    this.child = child;
    this.output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => {
        this.output = (this.output + text).slice(-OUTPUT_BYTES_MAX);
      });
    }
    await new Promise<void>((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", reject);
    });
  }

  async healthy(): Promise<void> {
    const answers = async () => {
      if (!this.runs) throw new Error(`etcd has exited: ${this.output}`);
      const response = await fetch(`${this.healthUrl}/health`, { signal: AbortSignal.timeout(1_000) }).catch(
        () => undefined, // Not listening yet.
      );
      return response?.ok;
    };
    await waitFor(answers, { deadlineMs: START_MS, what: `etcd at ${this.endpoint} to be healthy` });
  }

  async kill(signal: "SIGKILL" | "SIGTERM" = "SIGKILL"): Promise<void> {
    const child = this.child;
    if (child === undefined || !this.runs) return;
    const exited = new Promise((resolve) => child.once("exit", resolve));
    child.kill(signal);
    await within(exited, { what: `etcd ${child.pid} to exit` });
  }

  /** On the same ports and data. */
  async restart(): Promise<void> {
    await this.kill();
    await this.start();
    await this.healthy();
  }

  /** A backup, as an operator makes one. */
  async saveSnapshot(path: string): Promise<void> {
    await run("etcdctl", ["--endpoints", this.endpoint, "snapshot", "save", path], { env: ETCDCTL_ENVIRONMENT });
  }

  /**
   * The same member on the same addresses, with the data of the backup. `token`: of the restored cluster; with that of the
   * one before its id stays the same too. `restore`: the tool of this version; that of 3.4 is part of etcdctl.
   */
  async restoreSnapshot(path: string, { token = "etcd-cluster", args = [] }: RestoreOptions = {}): Promise<void> {
    await this.kill();
    rmSync(this.dataDir, { recursive: true, force: true });
    const member = [
      ["--name", this.name, "--data-dir", this.dataDir, "--initial-cluster", this.clusterEntry],
      ["--initial-cluster-token", token, "--initial-advertise-peer-urls", `http://${HOST}:${this.peerPort}`],
    ].flat();
    const tool = this.binary.restoreTool ?? "etcdctl";
    await run(tool, ["snapshot", "restore", path, ...member, ...args], { env: ETCDCTL_ENVIRONMENT });
    await this.start();
    await this.healthy();
  }

  /** The same member on the same addresses, with nothing in it. */
  async wipe(): Promise<void> {
    await this.kill();
    rmSync(this.dataDir, { recursive: true, force: true });
    await this.start();
    await this.healthy();
  }

  pause(): void {
    process.kill(this.pid, "SIGSTOP");
  }

  resume(): void {
    process.kill(this.pid, "SIGCONT");
  }

  /** Drops the history before this revision, at once. */
  async compact(revision: bigint): Promise<void> {
    await this.ask("/v3/kv/compaction", { revision: revision.toString(), physical: true });
  }

  /** One call of etcd's JSON gateway. Bytes are base64, numbers of 64 bits are strings. */
  async ask(path: string, body: object, headers: Record<string, string> = {}): Promise<unknown> {
    const response = await fetch(this.endpoint + path, { method: "POST", body: JSON.stringify(body), headers });
    const text = await response.text();
    if (!response.ok) throw new Error(`etcd ${path}: ${response.status} ${text}`);
    return JSON.parse(text);
  }

  /** Whether it takes itself for the leader of its cluster. */
  async leads(): Promise<boolean> {
    const { header, leader } = (await this.ask("/v3/maintenance/status", {})) as {
      readonly header: { readonly member_id: string };
      readonly leader?: string;
    };
    return leader === header.member_id;
  }

  async stop(): Promise<void> {
    await this.kill();
    this.removeData();
    servers.delete(this);
  }

  /** For the end of the process, where nothing can be waited for. */
  abandon(): void {
    this.child?.kill("SIGKILL");
    this.removeData();
  }

  /** Plain HTTP, whatever clients use. */
  private get healthUrl(): string {
    return `http://${HOST}:${this.healthPort}`;
  }

  private get runs(): boolean {
    return this.child !== undefined && this.child.exitCode === null && this.child.signalCode === null;
  }

  private removeData(): void {
    if (this.removesDataDir) rmSync(this.dataDir, { recursive: true, force: true });
  }
}

const servers = new Set<EtcdServer>();
process.on("exit", () => {
  for (const server of servers) server.abandon();
});

/** Different ones, free a moment ago. */
async function freePorts(): Promise<[number, number, number]> {
  const listeners = [createServer(), createServer(), createServer()];
  const ports = await Promise.all(listeners.map(listen));
  await Promise.all(listeners.map((listener) => new Promise((resolve) => listener.close(resolve))));
  return [ports[0]!, ports[1]!, ports[2]!];
}

function listen(listener: Server): Promise<number> {
  return new Promise((resolve, reject) => {
    listener.once("error", reject);
    listener.listen(0, HOST, () => {
      const address = listener.address();
      if (address !== null && typeof address === "object") resolve(address.port);
    });
  });
}
