import type { EtcdServer } from "../support/etcd.js";
import type { EtcdCluster } from "./etcd-cluster.js";

export interface MemberFault {
  readonly name: string;
  readonly isStop: boolean;
  /** With two of three away, nothing can be written. */
  readonly leavesQuorum: boolean;
  /** `connected` is the member that the sidecar of the leading side talks to. */
  strike(cluster: EtcdCluster, connected: EtcdServer, random: () => number): Promise<Blow>;
}

export interface Blow {
  readonly hitsLeader: boolean;
  heal(): Promise<void>;
}

interface Roles {
  readonly leader: EtcdServer;
  readonly connected: EtcdServer;
  /** Neither of the two, which may be one. */
  readonly others: readonly EtcdServer[];
}

interface Target {
  readonly name: string;
  readonly leavesQuorum: boolean;
  choose(roles: Roles, random: () => number): EtcdServer[];
}

const TARGETS: readonly Target[] = [
  {
    name: "another member",
    leavesQuorum: true,
    choose: ({ others }, random) => [others[Math.floor(random() * others.length)]!],
  },
  { name: "the leader of etcd", leavesQuorum: true, choose: ({ leader }) => [leader] },
  { name: "the member of the leading sidecar", leavesQuorum: true, choose: ({ connected }) => [connected] },
  {
    name: "two members",
    leavesQuorum: false,
    choose({ leader, connected, others }, random) {
      const all = [...new Set([leader, connected, ...others])];
      all.splice(Math.floor(random() * all.length), 1);
      return all;
    },
  },
];

export const MEMBER_FAULTS: readonly MemberFault[] = [...TARGETS.map(killed), ...TARGETS.map(stopped)];

function killed(target: Target): MemberFault {
  return fault(target, "killed", (cluster, members) => cluster.kill(members));
}

function stopped(target: Target): MemberFault {
  return fault(target, "stopped", (cluster, members) => cluster.stop(members));
}

function fault(
  { name, leavesQuorum, choose }: Target,
  deed: "killed" | "stopped",
  act: (cluster: EtcdCluster, members: readonly EtcdServer[]) => Promise<() => Promise<void>>,
): MemberFault {
  return {
    name: `${name} ${deed}`,
    isStop: deed === "stopped",
    leavesQuorum,
    async strike(cluster, connected, random) {
      const leader = await cluster.leader();
      const others = cluster.members.filter((member) => member !== leader && member !== connected);
      const members = choose({ leader, connected, others }, random);
      return { hitsLeader: members.includes(leader), heal: await act(cluster, members) };
    },
  };
}
