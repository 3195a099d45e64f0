import { connect, createServer, type Server, type Socket } from "node:net";

const HOST = "127.0.0.1";
/** ":path: /etcdserverpb.Watch/Watch" as HPACK has it, Huffman-coded: how a connection of a watch is told. */
const WATCH_PATH = Buffer.from("60a924882d9dcb6571afc86924ec721a493f", "hex");

interface Link {
  readonly sockets: readonly [Socket, Socket];
  carriesWatch: boolean;
}

/** The way from a sidecar to etcd, on which the connections that carry a watch can be cut or held alone. */
export class EtcdLink {
  readonly cuts = { watch: 0, other: 0 };
  private readonly links = new Set<Link>();
  private cutting: NodeJS.Timeout | undefined;
  private holdsWatches = false;

  private constructor(
    private readonly server: Server,
    private readonly port: number,
  ) {}

  static async start(etcdPort: number): Promise<EtcdLink> {
    const server = createServer((client) => link.accept(client, connect(etcdPort, HOST)));
    await new Promise<void>((resolve) => server.listen(0, HOST, resolve));
    const address = server.address();
    if (address === null || typeof address === "string") throw new Error("no port");
    const link = new EtcdLink(server, address.port);
    return link;
  }

  get endpoint(): string {
    return `http://${HOST}:${this.port}`;
  }

  cutWatches(): void {
    for (const link of this.links) if (link.carriesWatch) this.cut(link);
  }

  /** Keeps back what etcd sends on connections of watches, also new ones, and lets it through when switched off. */
  holdWatches(on: boolean): void {
    this.holdsWatches = on;
    for (const link of this.links) if (link.carriesWatch) this.pass(link);
  }

  cutAll(): void {
    for (const link of this.links) this.cut(link);
  }

  /** Resets connections at this interval until it is asked to do otherwise. */
  cutEvery(intervalMs: number, which: "watches" | "all"): void {
    clearInterval(this.cutting);
    this.cutting = setInterval(() => (which === "all" ? this.cutAll() : this.cutWatches()), intervalMs);
  }

  heal(): void {
    clearInterval(this.cutting);
  }

  async close(): Promise<void> {
    this.heal();
    const closed = new Promise((resolve) => this.server.close(resolve));
    this.cutAll();
    await closed;
  }

  private accept(client: Socket, etcd: Socket): void {
    const link: Link = { sockets: [client, etcd], carriesWatch: false };
    this.links.add(link);
    client.on("data", (chunk: Buffer) => {
      if (link.carriesWatch || !chunk.includes(WATCH_PATH)) return;
      link.carriesWatch = true;
      if (this.holdsWatches) this.pass(link);
    });
    client.pipe(etcd);
    etcd.pipe(client);
    for (const socket of link.sockets) {
      socket.setNoDelay(true);
      // The reset of one side is passed on to the other as the loss that it is.
      socket.on("error", () => this.destroy(link));
      socket.on("close", () => this.destroy(link));
    }
  }

  private pass({ sockets: [client, etcd] }: Link): void {
    etcd.unpipe(client);
    if (!this.holdsWatches) etcd.pipe(client);
  }

  private cut(link: Link): void {
    this.cuts[link.carriesWatch ? "watch" : "other"]++;
    this.destroy(link);
  }

  private destroy(link: Link): void {
    this.links.delete(link);
    for (const socket of link.sockets) if (!socket.destroyed) socket.resetAndDestroy();
  }
}
