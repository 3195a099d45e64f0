import { type EtcdServer, etcdBinaries, startEtcdCluster } from "../support/etcd.js";
import { waitFor } from "../support/wait.js";
import { atEnd } from "./stage.js";

const SIZE = 3;

/** Members of one etcd cluster that are killed and stopped, and come back. */
export class EtcdCluster {
  private readonly down = new Set<EtcdServer>();

  private constructor(readonly members: readonly EtcdServer[]) {}

  static async start(args: readonly string[]): Promise<EtcdCluster> {
    const [binary] = await etcdBinaries();
    const members = await startEtcdCluster(binary!, SIZE, args);
    atEnd(() => Promise.all(members.map((member) => member.stop())));
    return new EtcdCluster(members);
  }

  /** Of all members, this one first. */
  endpointsFrom(first: number): string[] {
    return this.members.map((_, index) => this.members[(first + index) % SIZE]!.endpoint);
  }

  at(endpoint: string): EtcdServer {
    const member = this.members.find((each) => each.endpoint === endpoint);
    if (member === undefined) throw new Error(`no member has the endpoint ${endpoint}`);
    return member;
  }

  /** Of a member that runs. */
  get endpoint(): string {
    return this.serving.endpoint;
  }

  ask(path: string, body: object): Promise<unknown> {
    return this.serving.ask(path, body);
  }

  /** While all members run. */
  async leader(): Promise<EtcdServer> {
    const leading = async () => {
      const claims = await Promise.all(this.members.map((member) => member.leads()));
      return claims.filter(Boolean).length === 1 ? this.members[claims.indexOf(true)] : undefined;
    };
    return (await waitFor(leading, { what: "one member of etcd to lead" }))!;
  }

  /** Returns what brings them back. */
  async kill(members: readonly EtcdServer[]): Promise<() => Promise<void>> {
    for (const member of members) this.down.add(member);
    await Promise.all(members.map((member) => member.kill()));
    return async () => {
      await Promise.all(members.map((member) => member.restart()));
      for (const member of members) this.down.delete(member);
    };
  }

  /** Returns what lets them go on. */
  async stop(members: readonly EtcdServer[]): Promise<() => Promise<void>> {
    for (const member of members) {
      this.down.add(member);
      member.pause();
    }
    return async () => {
      for (const member of members) member.resume();
      await Promise.all(members.map((member) => member.healthy()));
      for (const member of members) this.down.delete(member);
    };
  }

  private get serving(): EtcdServer {
    return this.members.find((member) => !this.down.has(member))!;
  }
}
