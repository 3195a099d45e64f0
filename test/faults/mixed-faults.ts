import type { EtcdServer } from "../support/etcd.js";
import type { EtcdCluster } from "./etcd-cluster.js";
import { inRandomOrder } from "./scale.js";
import type { Side } from "./side.js";

/** Kills and stops of members of etcd, sidecars and masters, several at a time. */
export interface Mix {
  readonly name: string;
  /** A member of etcd that stood still may take leases for run out that its successor has renewed. */
  readonly stopsMember: boolean;
  /** Resolves when every process runs. Members of etcd begin last, and need not have found one another. */
  heal(): Promise<{ readonly membersAreWell: Promise<unknown> }>;
}

type Deed = "killed" | "stopped";
type Part = "sidecar" | "master";

/** One or two members, and one or two sides. */
export async function strikeSome(cluster: EtcdCluster, sides: readonly Side[], random: () => number): Promise<Mix> {
  const members = oneOrTwo(cluster.members, random);
  const hit = oneOrTwo(sides, random);
  const names: string[] = [];
  const healMembers: (() => Promise<void>)[] = [];
  const stopped: { readonly side: Side; readonly parts: readonly Part[] }[] = [];
  let stopsMember = false;
  for (const member of members) {
    const deed = anyOf(random, ["killed", "stopped"] as const);
    stopsMember ||= deed === "stopped";
    healMembers.push(await strikeMember(cluster, member, deed));
    names.push(`etcd ${cluster.members.indexOf(member)} ${deed}`);
  }
  for (const side of hit) {
    const deed = anyOf(random, ["killed", "stopped"] as const);
    const parts = anyOf<readonly Part[]>(random, [["sidecar"], ["master"], ["sidecar", "master"]]);
    for (const part of parts) await strikePart(side, part, deed);
    if (deed === "stopped") stopped.push({ side, parts });
    names.push(`${parts.join(" and ")} ${side.name} ${deed}`);
  }
  return {
    name: names.join(", "),
    stopsMember,
    async heal() {
      for (const { side, parts } of stopped) for (const part of parts) send(side, part, "SIGCONT");
      await Promise.all(hit.map((side) => side.restart()));
      return { membersAreWell: Promise.all(healMembers.map((heal) => heal())) };
    },
  };
}

function strikeMember(cluster: EtcdCluster, member: EtcdServer, deed: Deed): Promise<() => Promise<void>> {
  return deed === "killed" ? cluster.kill([member]) : cluster.stop([member]);
}

async function strikePart(side: Side, part: Part, deed: Deed): Promise<void> {
  if (deed === "stopped") send(side, part, "SIGSTOP");
  else await (part === "sidecar" ? side.oplogd.kill("SIGKILL") : side.master.kill());
}

function send({ oplogd, master }: Side, part: Part, signal: "SIGSTOP" | "SIGCONT"): void {
  if (part === "sidecar") void oplogd.kill(signal);
  else master.signal(signal);
}

function oneOrTwo<T>(items: readonly T[], random: () => number): T[] {
  return inRandomOrder(random, items).slice(0, random() < 0.5 ? 1 : 2);
}

function anyOf<T>(random: () => number, items: readonly T[]): T {
  return items[Math.floor(random() * items.length)]!;
}
