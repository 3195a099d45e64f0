import { randomBytes } from "node:crypto";
import { closeSync, openSync, readdirSync, rmSync } from "node:fs";
import { connect, createServer, type Server } from "node:net";
import { hostname } from "node:os";
import { join } from "node:path";
import { StoreRefusedError } from "../../oplog/kv-store.js";
import { CellDamagedError } from "./cells.js";
import type { Database } from "./database.js";

const OWNER = Buffer.from("owner");
const SOCKET_PREFIX = "owner-";
/** sun_path, with its terminating zero byte, on the system that allows least. */
const SOCKET_PATH_BYTES_MAX = 103;
/** An owner that neither accepts nor refuses for this long is taken to be alive. */
const PROBE_MS = 1_000;
/** Each further attempt means that the owner changed while we looked. */
const ATTEMPTS_MAX = 10;

interface Owner {
  /** Name of the socket it listens on, in the data directory; never used twice. */
  readonly socket: string;
  /** As its holder sees it; elsewhere if it runs in a container of its own. */
  readonly pid: number;
  readonly host: string;
}

export class DataDirectoryInUseError extends StoreRefusedError {
  constructor(directory: string, { pid, host }: Owner) {
    super(
      `data directory ${directory} is in use by process ${pid} on ${host}: ` +
        "stop that one first, or give this one a data directory of its own",
    );
  }
}

/**
 * One process per data directory.
 *
 * The owner is a record in the database, and it is alive as long as something listens on the socket that the record
 * names. The kernel closes that socket however the process ends, so a successor need not wait. The socket is a file, so
 * containers that share a volume see it across network and process namespaces, where pids and abstract sockets are not
 * seen. Taking over is a compare-and-swap of the record in a write transaction, which LMDB serialises among
 * processes: of two that find the owner dead, one wins. Every commit checks the record again, so that a process that
 * was taken for dead, however wrongly, writes nothing more.
 */
export class Ownership {
  private constructor(
    private readonly database: Database,
    private readonly record: Buffer,
    private readonly listener: Listener,
  ) {}

  /** `onTaken` runs in the same transaction as the claim. */
  static async claim(database: Database, directory: string, onTaken: () => void): Promise<Ownership> {
    const owner: Owner = {
      socket: `${SOCKET_PREFIX}${randomBytes(8).toString("hex")}`,
      pid: process.pid,
      host: hostname(),
    };
    const record = Buffer.from(JSON.stringify(owner));
    const listener = await Listener.open(directory, owner.socket);
    try {
      for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
        const found = database.meta.get(OWNER);
        const previous = found && ownerOf(found);
        if (previous && (await isListening(directory, previous.socket))) {
          throw new DataDirectoryInUseError(directory, previous);
        }
        const isTaken = database.commitSync(() => {
          if (!isSame(database.meta.get(OWNER), found)) return false;
          database.meta.put(OWNER, record);
          onTaken();
          return true;
        });
        if (!isTaken) continue;
        if (previous) rmSync(join(directory, previous.socket), { force: true });
        return new Ownership(database, record, listener);
      }
      throw new StoreRefusedError(`data directory ${directory}: its owner keeps changing; is it started in a loop?`);
    } catch (error) {
      await listener.close();
      throw error;
    }
  }

  /** To be asked inside each write transaction. */
  isHeld(): boolean {
    return isSame(this.database.meta.get(OWNER), this.record);
  }

  release(): Promise<void> {
    return this.listener.close();
  }
}

/** Whether a process has the directory open, found out without the database. */
export async function hasLiveOwner(directory: string): Promise<boolean> {
  for (const name of readdirSync(directory)) {
    if (name.startsWith(SOCKET_PREFIX) && (await isListening(directory, name))) return true;
  }
  return false;
}

class Listener {
  private constructor(
    private readonly server: Server,
    private readonly path: string,
    private readonly address: SocketAddress,
  ) {}

  static async open(directory: string, socket: string): Promise<Listener> {
    const address = new SocketAddress(directory, socket);
    // Who connects only wants to know that someone is here.
    const server = createServer((connection) => connection.destroy());
    server.unref();
    try {
      await new Promise<void>((resolve, reject) => {
        server.once("error", reject);
        server.listen(address.path, resolve);
      });
    } catch (error) {
      address.close();
      throw new StoreRefusedError(`data directory ${directory}: cannot make a socket in it`, { cause: error });
    }
    // Without descriptors to spare, accepting fails; the kernel has told the other side by then that someone is here.
    server.on("error", () => {});
    return new Listener(server, join(directory, socket), address);
  }

  async close(): Promise<void> {
    await new Promise((resolve) => this.server.close(resolve));
    try {
      rmSync(this.path, { force: true });
    } catch {
      // The directory is gone, and this file with it.
    }
    this.address.close();
  }
}

/** A path to the socket that fits into what the system allows, however deep the data directory is. */
class SocketAddress {
  readonly path: string;
  private readonly directoryFd: number | undefined;

  constructor(directory: string, socket: string) {
    const path = join(directory, socket);
    if (Buffer.byteLength(path) <= SOCKET_PATH_BYTES_MAX) {
      this.path = path;
      return;
    }
    if (process.platform !== "linux") {
      throw new StoreRefusedError(`data directory ${directory}: the path is too long for a socket in it`);
    }
    this.directoryFd = openSync(directory, "r");
    this.path = `/proc/self/fd/${this.directoryFd}/${socket}`;
  }

  close(): void {
    if (this.directoryFd !== undefined) closeSync(this.directoryFd);
  }
}

async function isListening(directory: string, socket: string): Promise<boolean> {
  const address = new SocketAddress(directory, socket);
  try {
    return await new Promise<boolean>((resolve) => {
      const connection = connect(address.path);
      const settle = (isAlive: boolean) => {
        clearTimeout(timer);
        connection.destroy();
        resolve(isAlive);
      };
      const timer = setTimeout(() => settle(true), PROBE_MS);
      connection.once("connect", () => settle(true));
      connection.once("error", ({ code }: NodeJS.ErrnoException) =>
        settle(code !== "ECONNREFUSED" && code !== "ENOENT"),
      );
    });
  } finally {
    address.close();
  }
}

function ownerOf(record: Buffer): Owner {
  try {
    return JSON.parse(record.toString());
  } catch {
    throw new CellDamagedError("the record of its owner is damaged");
  }
}

function isSame(a: Buffer | undefined, b: Buffer | undefined): boolean {
  return a === undefined || b === undefined ? a === b : a.equals(b);
}
