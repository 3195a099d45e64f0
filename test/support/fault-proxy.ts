import { connect, createServer, type Server, type Socket } from "node:net";

const HOST = "127.0.0.1";

export async function startFaultProxy(targetPort: number): Promise<FaultProxy> {
  const proxy = new FaultProxy(targetPort);
  await proxy.listen(0);
  return proxy;
}

/** A TCP proxy on loopback whose links can be broken in the ways that networks break. */
export class FaultProxy {
  readonly stats = { accepted: 0, toServerBytes: 0, toClientBytes: 0, swallowedBytes: 0 };
  port = 0;
  private readonly server: Server;
  private readonly links = new Set<Link>();
  private cutting: NodeJS.Timeout | undefined;
  readonly faults: Faults = { blackHole: false, swallowReplies: false, delayMs: 0, bytesPerSecond: Infinity };

  constructor(private readonly targetPort: number) {
    this.server = createServer((client) => this.accept(client));
  }

  get endpoint(): string {
    return `http://${HOST}:${this.port}`;
  }

  get openLinks(): number {
    return this.links.size;
  }

  /** Resets every connection. */
  cutAll(): void {
    for (const link of this.links) link.cut();
  }

  /** Resets every connection at this interval; 0 stops that. */
  cutEvery(intervalMs: number): void {
    clearInterval(this.cutting);
    this.cutting = intervalMs === 0 ? undefined : setInterval(() => this.cutAll(), intervalMs);
  }

  /** Holds all bytes both ways, and lets them through when switched off, as TCP does after a partition. */
  blackHole(on: boolean): void {
    this.faults.blackHole = on;
    for (const link of this.links) link.apply();
  }

  /** Requests pass, what the server answers is lost. Switching it off resets the connections that lost something. */
  swallowReplies(on: boolean): void {
    this.faults.swallowReplies = on;
    if (!on) for (const link of this.links) if (link.lostReplies) link.cut();
  }

  delay(delayMs: number): void {
    this.faults.delayMs = delayMs;
  }

  /** Lets no more through than this, each way of each connection. */
  throttle(bytesPerSecond: number): void {
    this.faults.bytesPerSecond = bytesPerSecond;
  }

  /** Resets every connection and accepts no new ones. */
  async refuse(on: boolean): Promise<void> {
    if (on === !this.server.listening) return;
    if (!on) return this.listen(this.port);
    this.cutAll();
    await new Promise((resolve) => this.server.close(resolve));
  }

  async listen(port: number): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.server.once("error", reject);
      this.server.listen(port, HOST, () => {
        this.server.off("error", reject);
        resolve();
      });
    });
    const address = this.server.address();
    if (address !== null && typeof address === "object") this.port = address.port;
  }

  async close(): Promise<void> {
    this.cutEvery(0);
    await this.refuse(true);
  }

  private accept(client: Socket): void {
    this.stats.accepted += 1;
    const link = new Link(client, connect(this.targetPort, HOST), this, () => this.links.delete(link));
    this.links.add(link);
    link.apply();
  }
}

interface Faults {
  blackHole: boolean;
  swallowReplies: boolean;
  delayMs: number;
  bytesPerSecond: number;
}

class Link {
  lostReplies = false;
  private readonly pipes: readonly Pipe[];

  constructor(
    private readonly client: Socket,
    private readonly server: Socket,
    private readonly proxy: FaultProxy,
    closed: () => void,
  ) {
    this.pipes = [
      new Pipe(client, server, proxy.faults, (bytes) => this.passesToServer(bytes)),
      new Pipe(server, client, proxy.faults, (bytes) => this.passesToClient(bytes)),
    ];
    for (const socket of [client, server]) {
      socket.setNoDelay(true);
      // The reset of one side is passed on to the other as the loss that it is.
      socket.on("error", () => this.cut());
      socket.on("close", () => {
        this.cut();
        closed();
      });
    }
  }

  apply(): void {
    for (const pipe of this.pipes) pipe.apply();
  }

  cut(): void {
    for (const socket of [this.client, this.server]) if (!socket.destroyed) socket.resetAndDestroy();
  }

  private passesToServer(bytes: number): boolean {
    this.proxy.stats.toServerBytes += bytes;
    return true;
  }

  private passesToClient(bytes: number): boolean {
    if (this.proxy.faults.swallowReplies) {
      this.lostReplies = true;
      this.proxy.stats.swallowedBytes += bytes;
    }
    // A stream that has lost bytes must not go on with later ones.
    if (this.lostReplies) return false;
    this.proxy.stats.toClientBytes += bytes;
    return true;
  }
}

/** One direction of a link. */
class Pipe {
  /** Sent in this order, whatever becomes of the delay. */
  private sending: Promise<void> = Promise.resolve();
  /** When what has been taken will have gone through. */
  private freeAtMs = 0;

  constructor(
    private readonly from: Socket,
    private readonly to: Socket,
    private readonly faults: Faults,
    private readonly passes: (bytes: number) => boolean,
  ) {
    from.on("data", (chunk: Buffer) => this.take(chunk));
    to.on("drain", () => this.apply());
  }

  apply(): void {
    if (this.faults.blackHole || this.to.writableNeedDrain) this.from.pause();
    else this.from.resume();
  }

  private take(chunk: Buffer): void {
    const nowMs = performance.now();
    this.freeAtMs = Math.max(nowMs, this.freeAtMs) + (chunk.length * 1000) / this.faults.bytesPerSecond;
    const delayMs = this.faults.delayMs + this.freeAtMs - nowMs;
    if (delayMs === 0) {
      this.sending = this.sending.then(() => this.send(chunk));
      return;
    }
    const due = new Promise<void>((resolve) => setTimeout(resolve, delayMs));
    this.sending = this.sending.then(() => due).then(() => this.send(chunk));
  }

  private send(chunk: Buffer): void {
    if (this.to.destroyed || !this.passes(chunk.length)) return;
    this.to.write(chunk);
    this.apply();
  }
}
