import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";

export interface AdminServerOptions {
  readonly host: string;
  /** 0 = the system chooses. */
  readonly port: number;
  readonly registry: MetricsSource;
  /** Asked on every /readyz; must answer from memory. */
  readonly readiness: () => Readiness;
  /** Told about requests that failed here; the client gets no cause. */
  readonly onError: (error: unknown) => void;
}

export interface MetricsSource {
  readonly contentType: string;
  metrics(): Promise<string>;
}

export interface Readiness {
  readonly ready: boolean;
  /** Why not, for the person on call. Empty when ready. */
  readonly reasons: readonly string[];
}

/** The address is taken, or not one of this machine. */
export class AdminListenError extends Error {
  constructor(host: string, port: number, cause: NodeJS.ErrnoException) {
    const problem = cause.code === "EADDRINUSE" ? "the port is in use" : cause.message;
    super(
      `cannot serve the admin pages on ${host}:${port}: ${problem}; ` +
        "choose another address with --admin-listen or OPLOG_ADMIN_LISTEN, or turn them off with the value off",
      { cause },
    );
    this.name = "AdminListenError";
  }
}

/** Metrics and probes over plain HTTP, for machines. Holds no secrets and changes nothing, whoever asks. */
export class AdminServer {
  /** Listens at once, so that a taken port ends the start; serves until run() has ended, which must be called. */
  static async listen(options: AdminServerOptions): Promise<AdminServer> {
    const server = createServer({ maxHeaderSize: 8192, requestTimeout: 10_000, headersTimeout: 5000 });
    server.maxConnections = 256;
    server.keepAliveTimeout = 5000;
    await new Promise<void>((resolve, reject) => {
      server.once("error", (error) => reject(new AdminListenError(options.host, options.port, error)));
      server.listen({ host: options.host, port: options.port }, resolve);
    });
    server.removeAllListeners("error");
    return new AdminServer(server, options);
  }

  /** As bound. */
  readonly port: number;

  private constructor(
    private readonly server: Server,
    private readonly options: AdminServerOptions,
  ) {
    const address = server.address();
    this.port = typeof address === "object" && address !== null ? address.port : options.port;
    server.on("request", (request: IncomingMessage, response: ServerResponse) => {
      void this.answer(request, response);
    });
  }

  /** Until the signal; rejects when the server itself fails. Requests being answered get a moment to finish. */
  async run(signal: AbortSignal): Promise<void> {
    try {
      await new Promise<void>((resolve, reject) => {
        this.server.once("error", reject);
        signal.addEventListener("abort", () => resolve(), { once: true });
        if (signal.aborted) resolve();
      });
    } finally {
      // A connection that has not sent a request yet counts as busy, so closing the idle ones alone might never end.
      const cutOff = setTimeout(() => this.server.closeAllConnections(), CLOSE_GRACE_MS);
      await new Promise<void>((resolve) => {
        this.server.close(() => resolve());
        this.server.closeIdleConnections();
      });
      clearTimeout(cutOff);
    }
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const path = request.url?.split("?", 1)[0] ?? "/";
      const page = this.pages[path];
      if (page === undefined) return send(response, 404, TEXT, "not found; / lists what there is\n", request);
      if (request.method !== "GET" && request.method !== "HEAD") {
        response.setHeader("allow", "GET, HEAD");
        return send(response, 405, TEXT, "only GET and HEAD\n", request);
      }
      const { status, type, body } = await page();
      send(response, status, type, body, request);
    } catch (error) {
      this.options.onError(error);
      if (response.headersSent) response.destroy();
      else send(response, 500, TEXT, "internal error; the log has the cause\n", request);
    }
  }

  private readonly pages: Readonly<Record<string, () => Page | Promise<Page>>> = Object.assign(Object.create(null), {
    "/": () => ({ status: 200, type: TEXT, body: INDEX }),
    "/healthz": () => ({ status: 200, type: TEXT, body: "ok\n" }),
    "/readyz": () => {
      const { ready, reasons } = this.options.readiness();
      return { status: ready ? 200 : 503, type: JSON_TYPE, body: `${JSON.stringify({ ready, reasons })}\n` };
    },
    "/metrics": async () => {
      const { registry } = this.options;
      return { status: 200, type: registry.contentType, body: await registry.metrics() };
    },
  });
}

const CLOSE_GRACE_MS = 500;

interface Page {
  readonly status: number;
  readonly type: string;
  readonly body: string;
}

const TEXT = "text/plain; charset=utf-8";
const JSON_TYPE = "application/json; charset=utf-8";

const INDEX = `oplogd
/metrics   Prometheus metrics
/healthz   200 while the process is alive
/readyz    200 while the store is reachable and the sidecar is not shutting down, else 503 with the reasons
`;

function send(response: ServerResponse, status: number, type: string, body: string, request: IncomingMessage): void {
  // The body of a refused request is not worth reading to its end.
  if (status === 405) response.setHeader("connection", "close");
  response.writeHead(status, {
    "content-type": type,
    "content-length": Buffer.byteLength(body),
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
  });
  response.end(request.method === "HEAD" ? undefined : body);
}
