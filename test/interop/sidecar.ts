import { join } from "node:path";
import { connect, type OplogClient } from "../../src/client/client.js";
import type { LogStatus } from "../../src/gen/oplog/v1/oplog_pb.js";
import { type EtcdServer, startEtcd } from "../support/etcd.js";
import { type Oplogd, startOplogd } from "../support/oplogd.js";
import { makeTempDir, type TempDir } from "../support/temp-dir.js";
import { waitFor } from "../support/wait.js";

/** An oplogd that serves a TCP and a unix socket, with the store behind it and a client before it. */
export class Sidecar {
  readonly client: OplogClient;

  private constructor(
    private readonly oplogd: Oplogd,
    readonly unixTarget: string,
    private readonly socketDir: TempDir,
    private readonly etcd: EtcdServer | undefined,
  ) {
    this.client = connect(oplogd.target);
  }

  /** With a store of its own, which goes with stop(); an etcd that is given is shared, and stays. */
  static async start(store: "embedded" | "etcd" | EtcdServer, options: readonly string[] = []): Promise<Sidecar> {
    const socketDir = await makeTempDir("interop");
    const unixTarget = `unix://${join(socketDir.path, "oplogd.sock")}`;
    const args = ["--listen", unixTarget, ...options];
    if (store === "embedded") return new Sidecar(await startOplogd({ args }), unixTarget, socketDir, undefined);
    const own = store === "etcd" ? await startSystemEtcd() : undefined;
    const { endpoint } = own ?? (store as EtcdServer);
    const oplogd = await startOplogd({ args, store: { etcd: endpoint } });
    return new Sidecar(oplogd, unixTarget, socketDir, own);
  }

  get tcpTarget(): string {
    return this.oplogd.target;
  }

  /** With SIGKILL. */
  async kill(): Promise<void> {
    await this.oplogd.kill("SIGKILL");
  }

  /** Neither runs nor ends, until resume(). */
  async pause(): Promise<void> {
    await this.oplogd.kill("SIGSTOP");
  }

  async resume(): Promise<void> {
    await this.oplogd.kill("SIGCONT");
  }

  /** On the same addresses and data again; with SIGKILL if it still runs. */
  async killAndRestart(): Promise<void> {
    await this.oplogd.restart();
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
    await this.oplogd.stop();
    await this.etcd?.stop();
    await this.socketDir.remove();
  }
}

export function startSystemEtcd(): Promise<EtcdServer> {
  return startEtcd({ binary: { path: "etcd", version: "of this system" } });
}
