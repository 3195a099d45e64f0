import type { Server, ServerCredentials } from "@grpc/grpc-js";
import type { Clock } from "../oplog/clock.js";
import type { Logger } from "../oplog/logger.js";
import { sleep } from "../oplog/timing.js";
import { UnixSocket } from "./unix-socket.js";

export type Listen =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "unix"; readonly path: string };

/** The address cannot be served. */
export class ListenError extends Error {
  constructor(address: string, problem: string) {
    super(`cannot listen on ${address}: ${problem}; choose another address with --listen or OPLOG_LISTEN`);
    this.name = "ListenError";
  }
}

const CHECK_MS = 1000;

/** The addresses of a server, for as long as it serves them. */
export class Listeners {
  /** By path: why a socket does not belong to this server any more. */
  private readonly lost = new Map<string, string>();

  private constructor(
    /** With the ports that were bound. */
    readonly bound: readonly Listen[],
    private readonly sockets: readonly UnixSocket[],
    private readonly logger: Logger,
  ) {}

  /** Binds every address with its credentials. Rejects with ListenError at the first that cannot be. */
  static async bind(
    server: Server,
    addresses: readonly Listen[],
    credentialsOf: (address: Listen) => ServerCredentials,
    logger: Logger,
  ): Promise<Listeners> {
    const bound: Listen[] = [];
    const sockets: UnixSocket[] = [];
    for (const address of addresses) {
      const credentials = credentialsOf(address);
      if (address.kind === "tcp") {
        bound.push(await bindTcp(server, address, credentials));
        continue;
      }
      const socket = unixSocket(server, address.path, credentials);
      await socket.bind().catch(async (error: Error) => {
        for (const each of sockets) await each.remove();
        throw new ListenError(`unix://${address.path}`, error.message);
      });
      sockets.push(socket);
      bound.push(address);
    }
    return new Listeners(bound, sockets, logger);
  }

  /** For readiness: one line for each address that is not served now. */
  get problems(): readonly string[] {
    return [...this.lost].map(([path, problem]) => `unix://${path} is not served: ${problem}`);
  }

  /** Checks the sockets until the signal aborts. */
  async watch(clock: Clock, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await sleep(clock, CHECK_MS, signal);
      if (!signal.aborted) await this.check();
    }
  }

  /** Puts back a socket that was removed; one that another process has replaced is left to it and counts as a problem. */
  private async check(): Promise<void> {
    for (const socket of this.sockets) {
      const { path } = socket;
      if (await socket.isInPlace()) {
        this.lost.delete(path);
        continue;
      }
      try {
        await socket.bind();
        this.lost.delete(path);
        this.logger.warn({ event: "socket_restored", path }, "the socket had been removed; it is there again");
      } catch (error) {
        const { message } = error as Error;
        if (this.lost.get(path) !== message) {
          this.logger.error({ event: "socket_lost", path }, `unix://${path} does not lead here any more: ${message}`);
        }
        this.lost.set(path, message);
      }
    }
  }

  /** Removes the sockets of this server, and no others. */
  async remove(): Promise<void> {
    for (const socket of this.sockets) await socket.remove();
  }
}

function unixSocket(server: Server, path: string, credentials: ServerCredentials): UnixSocket {
  const socketServer = {
    listen: async (at: string) => void (await bindTarget(server, `unix:${at}`, credentials)),
    unlisten: (at: string) => server.unbind(`unix:${at}`),
  };
  return new UnixSocket(socketServer, path);
}

async function bindTcp(server: Server, address: Listen & { kind: "tcp" }, credentials: ServerCredentials) {
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  const target = `${host}:${address.port}`;
  try {
    return { ...address, port: await bindTarget(server, target, credentials) };
  } catch (error) {
    const { message } = error as Error;
    throw new ListenError(target, /EADDRINUSE/.test(message) ? "the address is in use" : message);
  }
}

function bindTarget(server: Server, target: string, credentials: ServerCredentials): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(target, credentials, (error, port) => (error === null ? resolve(port) : reject(error)));
  });
}
