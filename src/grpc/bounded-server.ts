import type { Server as NetServer } from "node:net";
import { Server, type ServerCredentials, type ServerOptions } from "@grpc/grpc-js";

/** A gRPC server with a limit of connections at each of its addresses; those beyond the limit are closed at once. */
export class BoundedServer extends Server {
  constructor(
    options: ServerOptions,
    private readonly connectionsMax: number,
  ) {
    super(options);
  }

  override bindAsync(
    port: string,
    credentials: ServerCredentials,
    callback: (error: Error | null, port: number) => void,
  ): void {
    super.bindAsync(port, credentials, (error, bound) => {
      // What grpc-js listens with it keeps to itself; its version is pinned.
      const { http2Servers } = this as unknown as { readonly http2Servers: ReadonlyMap<NetServer, unknown> };
      for (const server of http2Servers.keys()) server.maxConnections = this.connectionsMax;
      callback(error, bound);
    });
  }
}
