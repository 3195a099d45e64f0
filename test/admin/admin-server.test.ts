import { request } from "node:http";
import { connect } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { AdminListenError, AdminServer, type Readiness } from "../../src/admin/admin-server.js";

let readiness: Readiness;
let metrics: () => Promise<string>;
let errors: unknown[];
let server: AdminServer;
let ended: Promise<void>;
let stop: AbortController;

beforeEach(async () => {
  readiness = { ready: true, reasons: [] };
  metrics = async () => "oplog_head 1\n";
  errors = [];
  stop = new AbortController();
  server = await AdminServer.listen({
    host: "127.0.0.1",
    port: 0,
    registry: { contentType: "text/plain; version=0.0.4", metrics: () => metrics() },
    readiness: () => readiness,
    onError: (error) => errors.push(error),
  });
  ended = server.run(stop.signal);
});

afterEach(async () => {
  stop.abort();
  await ended;
});

function get(path: string, init?: RequestInit): Promise<Response> {
  return fetch(`http://127.0.0.1:${server.port}${path}`, init);
}

describe("the admin pages", () => {
  it("serve metrics in the format of the registry", async () => {
    const response = await get("/metrics");
    expect(response.status).toBe(200);
    expect(response.headers.get("content-type")).toBe("text/plain; version=0.0.4");
    expect(await response.text()).toBe("oplog_head 1\n");
  });

  it("tell that the process lives, even when it is not ready", async () => {
    readiness = { ready: false, reasons: ["the store has not answered for 8 s"] };
    expect((await get("/healthz")).status).toBe(200);
  });

  it("tell readiness, and the reasons where there is none", async () => {
    expect((await get("/readyz?verbose")).status).toBe(200);
    readiness = { ready: false, reasons: ["the store has not answered for 8 s", "shutting down"] };
    const response = await get("/readyz");
    expect(response.status).toBe(503);
    expect(await response.json()).toEqual(readiness);
  });

  it("list themselves", async () => {
    const index = await (await get("/")).text();
    for (const path of ["/metrics", "/healthz", "/readyz"]) {
      expect(index).toContain(path);
      expect((await get(path)).status).toBe(200);
    }
  });

  it.each(["/nope", "/metrics/", "/__proto__", "/constructor", "//x"])("answer %s with 404", async (path) => {
    expect((await get(path)).status).toBe(404);
  });

  it.each(["POST", "PUT", "DELETE"])("refuse %s", async (method) => {
    const response = await get("/metrics", { method });
    expect(response.status).toBe(405);
    expect(response.headers.get("allow")).toBe("GET, HEAD");
  });

  it("answer HEAD without a body", async () => {
    const response = await get("/metrics", { method: "HEAD" });
    expect(response.headers.get("content-length")).toBe("13");
    expect(await response.text()).toBe("");
  });

  it("answer a failure with 500, keep its cause inside, and go on", async () => {
    metrics = () => Promise.reject(new Error("secret detail"));
    const response = await get("/metrics");
    expect(response.status).toBe(500);
    expect(await response.text()).not.toContain("secret");
    expect(errors).toEqual([new Error("secret detail")]);
    expect((await get("/healthz")).status).toBe(200);
  });

  it("refuse headers above 8 KiB", async () => {
    const status = await new Promise<number | undefined>((resolve, reject) => {
      const headers = { "x-large": "x".repeat(9000) };
      request({ port: server.port, host: "127.0.0.1", headers }, (response) => {
        response.resume();
        resolve(response.statusCode);
      })
        .on("error", reject)
        .end();
    });
    expect(status).toBe(431);
  });
});

describe("the admin server", () => {
  it("says which option to change when the port is in use", async () => {
    const second = AdminServer.listen({
      host: "127.0.0.1",
      port: server.port,
      registry: { contentType: "", metrics },
      readiness: () => readiness,
      onError: () => {},
    });
    await expect(second).rejects.toThrow(AdminListenError);
    await expect(second).rejects.toThrow(
      `cannot serve the admin pages on 127.0.0.1:${server.port}: the port is in use; ` +
        "choose another address with --admin-listen or OPLOG_ADMIN_LISTEN",
    );
  });

  it("ends although a client holds its connection open", async () => {
    const socket = connect(server.port, "127.0.0.1");
    await new Promise((resolve) => socket.once("connect", resolve));
    const closed = new Promise((resolve) => socket.once("close", resolve));
    socket.on("error", () => {});
    stop.abort();
    await ended;
    await closed;
    await expect(get("/healthz")).rejects.toThrow();
  });

  it("ends at once when it was told to before it ran", async () => {
    const early = await AdminServer.listen({
      host: "127.0.0.1",
      port: 0,
      registry: { contentType: "", metrics },
      readiness: () => readiness,
      onError: () => {},
    });
    await early.run(AbortSignal.abort());
    await expect(fetch(`http://127.0.0.1:${early.port}/healthz`)).rejects.toThrow();
  });
});
