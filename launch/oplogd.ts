import { execFile } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { freePorts, makeTempDir, ServerProcess } from "./server-process.js";

const ROOT = join(import.meta.dirname, "..");
const PROGRAM = join(ROOT, "dist", "main.js");

/** A real oplogd on a free port, on etcd or on the embedded store in a directory that goes with this process. */
export class Oplogd {
  private constructor(
    private server: ServerProcess,
    private readonly args: readonly string[],
    readonly target: string,
  ) {}

  static async start(etcdEndpoints?: string, options: readonly string[] = []): Promise<Oplogd> {
    const [port] = await freePorts(1);
    const target = `127.0.0.1:${port}`;
    const store =
      etcdEndpoints === undefined
        ? ["--data-dir", makeTempDir("oplogd")]
        : ["--etcd-endpoints", etcdEndpoints, "--key-prefix", `/oplog-${process.pid}`];
    const args = ["--listen", target, "--admin-listen", "off", "--log-format", "json", ...store, ...options];
    return new Oplogd(await launch(args), args, target);
  }

  get pid(): number {
    return this.server.pid;
  }

  /** The newest of what it has logged. */
  get output(): string {
    return this.server.output;
  }

  /** SIGSTOP and SIGCONT: it stands still, and goes on. */
  signal(signal: "SIGSTOP" | "SIGCONT"): void {
    process.kill(this.pid, signal);
  }

  /** As a power cut would end it. */
  async crash(): Promise<void> {
    await this.server.kill("SIGKILL");
  }

  /** On the same port and the same data, after a crash or in an orderly way. */
  async restart(): Promise<void> {
    await this.server.kill("SIGTERM");
    this.server = await launch(this.args);
  }

  async stop(): Promise<void> {
    await this.server.kill("SIGTERM");
  }
}

/** Compiles the sources unless that has been done since they changed. */
export async function ensureBuilt(tell: (message: string) => void): Promise<void> {
  if (existsSync(PROGRAM) && statSync(PROGRAM).mtimeMs >= newestSourceMs()) return;
  const because = existsSync(PROGRAM) ? "the sources have changed" : "there is no build yet";
  tell(`building oplogd first, as \`npm run build\` does: ${because}`);
  const build = promisify(execFile)("npm", ["run", "build"], { cwd: ROOT, shell: process.platform === "win32" });
  await build.catch((error: { stdout?: string }) => {
    // The compiler says on stdout what is wrong.
    throw new Error(`npm run build has failed\n${error.stdout ?? ""}`, { cause: error });
  });
}

function newestSourceMs(): number {
  const files = readdirSync(join(ROOT, "src"), { recursive: true, withFileTypes: true });
  const modified = files
    .filter((file) => file.isFile())
    .map((file) => statSync(join(file.parentPath, file.name)).mtimeMs);
  return Math.max(...modified, statSync(join(ROOT, "tsconfig.json")).mtimeMs);
}

function launch(args: readonly string[]): Promise<ServerProcess> {
  // What the environment says to an oplogd of its own is not meant for this one.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("OPLOG_")));
  return ServerProcess.start({
    command: process.execPath,
    args: [PROGRAM, ...args],
    env,
    isReady: (output) => output.includes('"event":"listening"'),
  });
}
