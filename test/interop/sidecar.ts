import { type ChildProcess, spawn } from "node:child_process";
import { createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { connect, type OplogClient } from "../../src/client/client.js";
import type { LogStatus } from "../../src/gen/oplog/v1/oplog_pb.js";
import { makeTempDir, type TempDir } from "../support/temp-dir.js";
import { waitFor } from "../support/wait.js";
import { type Store, type StoreKind, startStore } from "./stores.js";

const MAIN = fileURLToPath(new URL("file:///tmp/fake/dist/main.js"));

/** An oplogd process on free addresses, which it keeps when it is killed and started again. */
export class Sidecar {
  readonly tcpTarget: string;
  readonly unixTarget: string;
  readonly client: OplogClient;
  private process: ChildProcess | undefined;
  private messages = "";

  private constructor(
    private readonly directory: TempDir,
    port: number,
    private readonly store: Store,
  ) {
    this.tcpTarget = `127.0.0.1:${port}`;
    this.unixTarget = `unix://${join(directory.path, "oplogd.sock")}`;
    this.client = connect(this.tcpTarget);
  }

  static async start(store: StoreKind): Promise<Sidecar> {
    const directory = await makeTempDir("interop");
    const sidecar = new Sidecar(directory, await freePort(), await startStore(store, directory));
    try {
      await sidecar.launch();
      return sidecar;
    } catch (error) {
      await sidecar.stop();
      throw error;
    }
  }

  async killAndRestart(): Promise<void> {
    await this.end("SIGKILL");
    await this.launch();
  }

  /** Waits until the status of the log is as wanted. */
  async waitForLog(log: string, what: string, isWanted: (status: LogStatus) => boolean): Promise<void> {
    const condition = async () => {
      const { log: status } = await this.client.getStatus({ log });
      return status !== undefined && isWanted(status);
    };
    await waitFor(condition, { what: `${what} on ${log}`, deadlineMs: 60_000 });
  }

  async stop(): Promise<void> {
    this.client.close();
    await this.end("SIGTERM");
    await this.store.stop();
    await this.directory.remove();
  }

  private async launch(): Promise<void> {
    const listen = ["--listen", this.tcpTarget, "--listen", this.unixTarget, "--admin-listen", "off"];
    const child = spawn(process.execPath, [MAIN, ...listen, ...this.store.args], { stdio: ["ignore", "pipe", "pipe"] });
    this.process = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => {
        this.messages = (this.messages + text).slice(-4096);
      });
    }
    await waitFor(() => this.isServing(child), { what: "oplogd to serve", deadlineMs: 20_000 });
  }

  private async isServing(child: ChildProcess): Promise<boolean> {
    if (child.exitCode !== null) throw new Error(`oplogd has ended with ${child.exitCode}:\n${this.messages}`);
    return this.client.getStatus({}, { deadlineMs: 1_000 }).then(
      ({ sidecar }) => sidecar?.store?.reachable === true,
      () => false,
    );
  }

  private async end(signal: "SIGKILL" | "SIGTERM"): Promise<void> {
    const child = this.process!;
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill(signal);
    await new Promise((resolve) => child.once("exit", resolve));
  }
}

/** Free when it was asked for. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port was assigned");
  return address.port;
}
