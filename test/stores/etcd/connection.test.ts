import dns from "node:dns";
import { createServer, type Server, type Socket, connect as tcpConnect } from "node:net";
import { afterEach, expect, it, vi } from "vitest";
import { connect } from "../../../src/client/client.js";
import { systemClock } from "../../../src/oplog/clock.js";
import { WatchLostError } from "../../../src/oplog/kv-store.js";
import { LeaseKeeper } from "../../../src/promotion/lease-keeper.js";
import { EtcdKvStore } from "../../../src/stores/etcd/etcd-kv-store.js";
import { aClientOf, anEtcd, anOplogd, atEnd, put } from "../../faults/stage.js";
import { freePort } from "../../support/oplogd.js";
import { waitFor, within } from "../../support/wait.js";
import { WatchRecorder } from "../watch-recorder.js";

const NAME = "service.test";
/** One second until the name is asked again, one until the next attempt, and what a busy machine takes. */
const FOUND_MS = 6_000;

afterEach(() => {
  vi.restoreAllMocks();
});

/** Asked after 250 ms, silent for 750 ms; and a slow machine. Keepalives of the connection need 13 s. */
const SILENCE_NOTICED_MS = 4_000;

/** The name leads to one of the addresses of this machine; what listens there passes on to the target. */
async function aMovingName(targetPort: number) {
  const port = await freePort();
  let host = "127.0.0.1";
  let standing: { server: Server; sockets: Set<Socket> } | undefined;
  const silent: NonNullable<typeof standing>[] = [];
  const { lookup } = dns.promises;
  vi.spyOn(dns.promises, "lookup").mockImplementation((async (name: string, options: dns.LookupAllOptions) =>
    name === NAME ? [{ address: host, family: 4 }] : lookup(name, options)) as never);
  const close = async ({ server, sockets }: NonNullable<typeof standing>) => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  };
  const leave = async () => {
    if (standing !== undefined) await close(standing);
    standing = undefined;
  };
  /** What comes to the address from now on is swallowed. */
  const fallSilent = () => {
    if (standing === undefined) return;
    for (const socket of standing.sockets) socket.unpipe().pause();
    standing.server.removeAllListeners("connection").on("connection", (socket: Socket) => {
      silent.at(-1)!.sockets.add(socket.on("error", () => undefined));
    });
    silent.push(standing);
    standing = undefined;
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
  atEnd(async () => {
    await leave();
    await Promise.all(silent.map(close));
  });
  await moveTo("127.0.0.1");
  return { port, moveTo, fallSilent };
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

it("finds etcd at the new address of its name while the old one is silent, and keeps its leases", async () => {
  const etcd = await anEtcd();
  const name = await aMovingName(etcd.port);
  const store = new EtcdKvStore({ endpoints: [`http://${NAME}:${name.port}`] });
  atEnd(() => store.close());
  const { revision } = await store.get("/a");
  const keeper = await LeaseKeeper.grant(store, systemClock, 6_000);
  const kept = keeper.run(() => undefined);
  const watch = await WatchRecorder.start(store, { from: "/", to: "0", startRevision: revision + 1n });
  name.fallSilent();
  await name.moveTo("127.0.0.2");
  const silentMs = performance.now();
  await within(store.get("/a"), { deadlineMs: SILENCE_NOTICED_MS, what: "a read to be answered" });
  expect(await within(watch.ended, { what: "the watch to end" })).toBeInstanceOf(WatchLostError);
  await waitFor(() => keeper.validUntilMs > silentMs + 6_000, { what: "the lease to be renewed" });
  expect(keeper.lost.aborted).toBe(false);
  await keeper.close();
  await kept;
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
