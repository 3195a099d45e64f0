import { chmod, lstat, unlink } from "node:fs/promises";
import { connect } from "node:net";
import type { Server, ServerCredentials } from "@grpc/grpc-js";

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

/** Owner and group may connect. */
const SOCKET_MODE = 0o660;
const PROBE_MS = 1000;

/** Binds every address with its credentials; answers the addresses with the ports that were bound. */
export async function bindAll(
  server: Server,
  addresses: readonly Listen[],
  credentialsOf: (address: Listen) => ServerCredentials,
): Promise<Listen[]> {
  const bound: Listen[] = [];
  for (const address of addresses) bound.push(await bind(server, address, credentialsOf(address)));
  return bound;
}

async function bind(server: Server, address: Listen, credentials: ServerCredentials): Promise<Listen> {
  if (address.kind === "unix") {
    await removeStaleSocket(address.path);
    await bindTarget(server, `unix:${address.path}`, credentials);
    await chmod(address.path, SOCKET_MODE);
    return address;
  }
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  return { ...address, port: await bindTarget(server, `${host}:${address.port}`, credentials) };
}

function bindTarget(server: Server, target: string, credentials: ServerCredentials): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(target, credentials, (error, port) => {
      if (error === null) resolve(port);
      else reject(new ListenError(target, /EADDRINUSE/.test(error.message) ? "the address is in use" : error.message));
    });
  });
}

/** A process that was killed leaves its socket behind; one that lives answers, and is left alone. */
async function removeStaleSocket(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (found === undefined) return;
  if (!found.isSocket()) throw new ListenError(`unix://${path}`, "there is a file of that name that is no socket");
  if (await answers(path)) throw new ListenError(`unix://${path}`, "another process serves this socket");
  await unlink(path);
}

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
