import type { Http2Server, IncomingHttpHeaders } from "node:http2";
import { Server, type ServerCredentials, type ServerOptions } from "@grpc/grpc-js";

const TIMEOUT_HEADER = "grpc-timeout";
const TIMEOUT = /^(\d{1,8})([HMSmun])$/;
/** grpc-js takes deadlines as int32 milliseconds, and ends what is later at once, or much too early. */
const TIMEOUT_MAX = "596H";
const TIMEOUT_MAX_MS = 596 * 3_600_000;
const MS_OF_UNIT: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1000, m: 1, u: 0.001, n: 0.000001 };

/**
 * A gRPC server with a limit of connections at each of its addresses; those beyond the limit are closed at once. Deadlines
 * that are more than 24 days away are taken as 24 days.
 */
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
      const { http2Servers } = this as unknown as { readonly http2Servers: ReadonlyMap<Http2Server, unknown> };
      for (const server of http2Servers.keys()) {
        server.maxConnections = this.connectionsMax;
        // Before grpc-js looks at them: all listeners get the same headers.
        server.prependListener("stream", (_, headers) => limitTimeout(headers));
      }
      callback(error, bound);
    });
  }
}

function limitTimeout(headers: IncomingHttpHeaders): void {
  const [, amount, unit] = TIMEOUT.exec(String(headers[TIMEOUT_HEADER] ?? "")) ?? [];
  if (amount === undefined || unit === undefined) return;
  if (Number(amount) * MS_OF_UNIT[unit]! > TIMEOUT_MAX_MS) headers[TIMEOUT_HEADER] = TIMEOUT_MAX;
}
