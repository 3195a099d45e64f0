import { randomBytes } from "node:crypto";
import { chmod, lstat, rename, stat, unlink } from "node:fs/promises";
import { connect } from "node:net";
import { dirname, join } from "node:path";

/** Owner and group may connect. */
const SOCKET_MODE = 0o660;
const PROBE_MS = 1000;

/** What of a server is needed here: to listen at a path and to end that, without the connections it has brought. */
export interface SocketServer {
  listen(path: string): Promise<void>;
  unlisten(path: string): void;
}

/**
 * A unix socket at a path that other processes can remove, replace or use too.
 *
 * The socket is bound under a name of its own, and then renamed to the path. So nobody sees a socket without its mode. And
 * closing it, which removes the name that was bound, never removes what another process has put at the path since.
 */
export class UnixSocket {
  private boundAs: string | undefined;
  private identity: string | undefined;

  constructor(
    private readonly server: SocketServer,
    readonly path: string,
  ) {}

  /** Rejects with what is in the way, like another process that serves the path. A socket that nobody serves is replaced. */
  async bind(): Promise<void> {
    await this.requireFree();
    const name = join(dirname(this.path), `.${randomBytes(4).toString("hex")}`);
    await this.server.listen(name).catch((error: Error) => {
      throw new Error(/EACCES|EPERM/.test(error.message) ? `no permission to create it` : error.message);
    });
    await chmod(name, SOCKET_MODE);
    const identity = await identityOf(name);
    await rename(name, this.path);
    if (this.boundAs !== undefined) this.server.unlisten(this.boundAs);
    this.boundAs = name;
    this.identity = identity;
  }

  /** Whether the path still leads here. */
  async isInPlace(): Promise<boolean> {
    return this.identity !== undefined && (await identityOf(this.path)) === this.identity;
  }

  /** Takes the path away if it leads here. */
  async remove(): Promise<void> {
    if (await this.isInPlace()) await unlink(this.path).catch(() => undefined);
    this.identity = undefined;
  }

  private async requireFree(): Promise<void> {
    const found = await lstat(this.path).catch((error: NodeJS.ErrnoException) => error);
    if (!(found instanceof Error)) {
      if (!found.isSocket()) throw new Error("there is a file of that name that is no socket");
      if (await answers(this.path)) throw new Error("another process serves this socket");
      return;
    }
    if (found.code === "EACCES") throw new Error(`no permission to look into ${dirname(this.path)}`);
    const directory = await stat(dirname(this.path)).catch(() => undefined);
    if (directory === undefined) throw new Error(`its directory, ${dirname(this.path)}, does not exist`);
    if (!directory.isDirectory()) throw new Error(`${dirname(this.path)} is no directory`);
  }
}

async function identityOf(path: string): Promise<string | undefined> {
  const found = await lstat(path, { bigint: true }).catch(() => undefined);
  return found && `${found.dev} ${found.ino} ${found.birthtimeNs}`;
}

/** A process that was killed leaves its socket behind; one that lives answers. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    const finish = (isAlive: boolean) => {
      socket.destroy();
      resolve(isAlive);
    };
    socket.setTimeout(PROBE_MS, () => finish(true));
    socket.once("connect", () => finish(true));
    socket.once("error", (error: NodeJS.ErrnoException) => finish(error.code !== "ECONNREFUSED"));
  });
}
