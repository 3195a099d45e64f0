import dns from "node:dns";
import { createServer, type Server, type Socket, connect as tcpConnect } from "node:net";
import { afterEach, it, vi } from "vitest";
import { connect } from "../../../src/client/client.js";
import { EtcdKvStore } from "../../../src/stores/etcd/etcd-kv-store.js";
import { aClientOf, anEtcd, anOplogd, atEnd, put } from "../../faults/stage.js";
import { freePort } from "../../support/oplogd.js";
import { waitFor } from "../../support/wait.js";

const NAME = "service.test";
/** One second until the name is asked again, one until the next attempt, and what a busy machine takes. */
const FOUND_MS = 6_000;

afterEach(() => {
  vi.restoreAllMocks();
});

/** The name leads to one of the addresses of this machine; what listens there passes on to the target. */
async function aMovingName(targetPort: number) {
  const port = await freePort();
  let host = "127.0.0.1";
  let standing: { server: Server; sockets: Set<Socket> } | undefined;
  const { lookup } = dns.promises;
  vi.spyOn(dns.promises, "lookup").mockImplementation((async (name: string, options: dns.LookupAllOptions) =>
    name === NAME ? [{ address: host, family: 4 }] : lookup(name, options)) as never);
  const leave = async () => {
    for (const socket of standing?.sockets ?? []) socket.destroy();
    await new Promise((resolve) => (standing === undefined ? resolve(undefined) : standing.server.close(resolve)));
  };
  const moveTo = async (address: string) => {
    await leave();
    host = address;
    const sockets = new Set<Socket>();
    const server = createServer((socket) => {
      const onward = tcpConnect(targetPort, "127.0.0.1");
      for (const each of [socket, onward]) sockets.add(each.on("error", () => undefined));
      socket.pipe(onward).pipe(socket);
    });
    await new Promise<void>((resolve) => server.listen(port, address, resolve));
    standing = { server, sockets };
  };
  atEnd(leave);
  await moveTo("127.0.0.1");
  return { port, moveTo };
}

it("finds etcd again when its name leads to another address", async () => {
  const etcd = await anEtcd();
  const name = await aMovingName(etcd.port);
  const store = new EtcdKvStore({ endpoints: [`http://${NAME}:${name.port}`] });
  atEnd(() => store.close());
  await store.get("/a");
  await name.moveTo("127.0.0.2");
  const isAnswered = () =>
    store.get("/a").then(
      () => true,
      () => false,
    );
  await waitFor(isAnswered, { deadlineMs: FOUND_MS, what: "etcd to be found again" });
});

it("the client finds a sidecar again when its name leads to another address", async () => {
  const oplogd = await anOplogd({});
  const name = await aMovingName(oplogd.port);
  const client = connect(`${NAME}:${name.port}`);
  atEnd(() => client.close());
  await client.append({ log: "orders", entries: [put("before")] });
  await name.moveTo("127.0.0.2");
  const isAnswered = () =>
    client.append({ log: "orders", entries: [put("after")] }, { deadlineMs: 1_000 }).then(
      () => true,
      () => false,
    );
  await waitFor(isAnswered, { deadlineMs: FOUND_MS, what: "the sidecar to be found again" });
});

it("goes to etcd past the proxies of the environment", async () => {
  const etcd = await anEtcd();
  const nowhere = `http://127.0.0.1:${await freePort()}`;
  const names = ["http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
  const env = { ...Object.fromEntries(names.map((name) => [name, nowhere])), no_proxy: "", no_grpc_proxy: "" };
  const oplogd = await anOplogd({ store: { etcd: etcd.endpoint }, env });
  await aClientOf(oplogd).append({ log: "orders", entries: [put("x")] });
});
