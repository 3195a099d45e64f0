import { isIPv6 } from "node:net";

/** Where a sidecar listens unless told. */
export const DEFAULT_PORT = 7450;

const SCHEME = /^(unix|unix-abstract|dns|ipv4|ipv6|xds):/;

/** An address as a channel takes it: a host without a port means the port of a sidecar, not that of the Web. */
export function withPort(target: string): string {
  if (isIPv6(target)) return `[${target}]:${DEFAULT_PORT}`;
  const hasNoPort = /^(\[[^\]]+\]|[^:/[\]]+)$/.test(target);
  return hasNoPort && !SCHEME.test(target) ? `${target}:${DEFAULT_PORT}` : target;
}
