import { controlCharacterIn } from "../oplog/text.js";
import { type Kind, Refusal, scalar } from "./kinds.js";

/** Where a server listens. Port 0 lets the system choose one. */
export type ListenAddress = TcpAddress | { readonly kind: "unix"; readonly path: string };

export interface TcpAddress {
  readonly kind: "tcp";
  /** A name, an IPv4 or a bare IPv6 address. */
  readonly host: string;
  readonly port: number;
}

/** Linux keeps 108 bytes for the path of a socket, with its end. A socket is bound first under a name of 9 bytes beside it. */
const SOCKET_PATH_BYTES_MAX = 107 - 8;
const TCP_HINT = "host:port, like 127.0.0.1:7450 or [::1]:7450";

/** As gRPC and the operator write it: "host:port", "[v6]:port" or "unix:///path". */
export function formatAddress(address: ListenAddress): string {
  if (address.kind === "unix") return `unix://${address.path}`;
  return `${address.host.includes(":") ? `[${address.host}]` : address.host}:${address.port}`;
}

export function isWildcard(address: ListenAddress): boolean {
  return address.kind === "tcp" && (address.host === "0.0.0.0" || address.host === "::");
}

/**
 * What others are told to connect to when the operator does not say: the first TCP address as it was bound, or the
 * first socket. A wildcard is no destination, so the host's own name stands in for it.
 */
export function defaultAdvertise(bound: readonly ListenAddress[], hostname: string): string {
  const first = bound.find((address) => address.kind === "tcp") ?? bound[0];
  if (first === undefined) return "";
  return formatAddress(first.kind === "tcp" && isWildcard(first) ? { ...first, host: hostname } : first);
}

export const listenAddress: Kind<ListenAddress> = scalar({
  placeholder: "ADDRESS",
  accepts: "host:port, [::1]:port or unix:///path",
  read(received): ListenAddress | Refusal {
    if (!received.startsWith("unix:")) return readTcp(received);
    const path = received.slice("unix://".length);
    if (!received.startsWith("unix:///")) return new Refusal("is no socket: write unix:///absolute/path");
    // It may be announced as the address of this sidecar, which everybody prints.
    if (controlCharacterIn(path) !== undefined) return new Refusal("names a socket with control characters");
    return Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX
      ? new Refusal(`names a socket by ${Buffer.byteLength(path)} bytes; at most ${SOCKET_PATH_BYTES_MAX} are possible`)
      : Object.freeze({ kind: "unix", path });
  },
  format: formatAddress,
});

/** "off" is undefined. */
export const tcpAddressOrOff: Kind<TcpAddress | undefined> = scalar({
  placeholder: "ADDRESS",
  accepts: "host:port, [::1]:port or off",
  read: (received) => (received === "off" ? undefined : readTcp(received)),
  format: (address) => (address === undefined ? "off" : formatAddress(address)),
});

/** An address that others can dial: never a wildcard, never port 0. */
export const endpoint: Kind<string> = scalar({
  placeholder: "HOST:PORT",
  read(received) {
    const address = readTcp(received);
    if (address instanceof Refusal) return address;
    return isWildcard(address) || address.port === 0
      ? new Refusal("cannot be connected to: name this machine and a port")
      : formatAddress(address);
  },
  format: (value) => value,
});

/** A server of a store: http://host:port or https://host:port; plain host:port means http. */
export const storeEndpoint: Kind<string> = scalar({
  placeholder: "URL",
  accepts: "http://host:port, https://host:port, or host:port for http",
  read(received) {
    const match = /^(?:(https?):\/\/)?([^/]*)\/?$/.exec(received);
    if (match === null) return new Refusal("is no endpoint: write http://host:port or https://host:port");
    if (match[2]!.includes("@")) {
      return new Refusal("carries credentials: they belong into etcd.username and etcd.password-file");
    }
    const address = readTcp(match[2]!);
    if (address instanceof Refusal) return address;
    return address.port === 0
      ? new Refusal("cannot be connected to: port 0")
      : `${match[1] ?? "http"}://${formatAddress(address)}`;
  },
  format: (value) => value,
});

function readTcp(received: string): TcpAddress | Refusal {
  const match = /^(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([A-Za-z0-9_.-]+)):(\d{1,5})$/.exec(received);
  if (match === null) return new Refusal(`is no address: write ${TCP_HINT}`);
  const port = Number(match[3]);
  if (port > 65_535) return new Refusal(`has port ${port}: 0 to 65535`);
  return Object.freeze({ kind: "tcp", host: (match[1] ?? match[2])!, port });
}
