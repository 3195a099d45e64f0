import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { freePorts, makeTempDir, ServerProcess } from "./server-process.js";

const run = promisify(execFile);

export interface Etcd {
  /** Comma-separated. */
  readonly endpoints: string;
  /** For the report. */
  readonly description: string;
  /** Ends what was started for this; an etcd that ran before runs on. */
  stop(): Promise<void>;
}

/** There is no etcd here and none could be brought. */
export class EtcdMissingError extends Error {
  constructor() {
    super(
      "there is no etcd on the PATH. Install one, or start those of docker-compose.yml and name one of them:\n" +
        "  docker compose up -d etcd-1 etcd-2 etcd-3\n" +
        "  … --etcd-endpoints http://127.0.0.1:2379",
    );
    this.name = "EtcdMissingError";
  }
}

/**
 * The etcd at `endpoints`, or else one member of our own with a directory that goes with this process. A program that is
 * missing is installed from Debian if this process may do that.
 */
export async function provideEtcd(endpoints: string | undefined, tell: (message: string) => void): Promise<Etcd> {
  if (endpoints !== undefined) return { endpoints, description: `etcd at ${endpoints}`, stop: async () => undefined };
  let version = await installedVersion();
  if (version === undefined) {
    await installFromDebian(tell);
    version = await installedVersion();
  }
  if (version === undefined) throw new EtcdMissingError();
  return startMember(`etcd ${version}, one member`);
}

async function installedVersion(): Promise<string | undefined> {
  try {
    const { stdout } = await run("etcd", ["--version"]);
    return /etcd Version: (\S+)/.exec(stdout)?.[1] ?? "of an unknown version";
  } catch (error) {
    if (hasCode(error, "ENOENT")) return undefined;
    throw error;
  }
}

async function installFromDebian(tell: (message: string) => void): Promise<void> {
  if (process.getuid?.() !== 0) return;
  tell("there is no etcd on the PATH: apt-get install etcd-server");
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  try {
    await run("apt-get", ["update", "-qq"], { env });
    await run("apt-get", ["install", "-y", "-qq", "--no-install-recommends", "etcd-server"], { env });
  } catch (error) {
    tell(hasCode(error, "ENOENT") ? "this is no Debian: there is no apt-get" : String(error));
  }
}

async function startMember(description: string): Promise<Etcd> {
  const [client, peer] = await freePorts(2);
  const clientUrl = `http://127.0.0.1:${client}`;
  const peerUrl = `http://127.0.0.1:${peer}`;
  const args = [
    ["--name", "alone", "--data-dir", makeTempDir("etcd"), "--logger", "zap", "--log-level", "error"],
    ["--listen-client-urls", clientUrl, "--advertise-client-urls", clientUrl],
    ["--listen-peer-urls", peerUrl, "--initial-advertise-peer-urls", peerUrl, "--initial-cluster", `alone=${peerUrl}`],
    // The default of 2 GiB would end a long run.
    ["--quota-backend-bytes", String(8 * 2 ** 30)],
  ].flat();
  const isReady = async () => {
    const answer = await fetch(`${clientUrl}/health`, { signal: AbortSignal.timeout(1_000) }).catch(() => undefined);
    return answer?.ok ?? false;
  };
  const server = await ServerProcess.start({ command: "etcd", args, isReady });
  return { endpoints: clientUrl, description, stop: () => server.kill() };
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}
