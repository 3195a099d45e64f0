import type { EtcdServer } from "../support/etcd.js";
import type { Side } from "./side.js";

export interface Fault {
  readonly name: string;
  /** It stands for a while before it is healed; otherwise healing begins at once. */
  readonly lasts: boolean;
  /** Returns what heals it. `leader` is the side that leads. */
  strike(leader: Side, etcd: EtcdServer): Promise<() => Promise<unknown>>;
}

/** What may happen to the side that leads, or to etcd. */
export const FAULTS: readonly Fault[] = [
  kill("sidecar"),
  kill("master"),
  kill("sidecar", "master"),
  stop("sidecar"),
  stop("master"),
  stop("sidecar", "master"),
  {
    name: "etcd behind a black hole",
    lasts: true,
    async strike({ plan: { proxy } }) {
      proxy!.blackHole(true);
      return async () => proxy!.blackHole(false);
    },
  },
  {
    name: "etcd refuses connections",
    lasts: true,
    async strike({ plan: { proxy } }) {
      await proxy!.refuse(true);
      return () => proxy!.refuse(false);
    },
  },
  {
    name: "etcd killed",
    lasts: false,
    async strike(_, etcd) {
      await etcd.kill();
      return () => etcd.restart();
    },
  },
  { name: "nothing", lasts: true, strike: async () => async () => undefined },
];

type Part = "sidecar" | "master";

function kill(...parts: Part[]): Fault {
  return {
    name: `${parts.join(" and ")} killed`,
    lasts: false,
    async strike(leader) {
      const { oplogd, master } = leader;
      await Promise.all(parts.map((part) => (part === "sidecar" ? oplogd.kill("SIGKILL") : master.kill())));
      return () => leader.revive();
    },
  };
}

function stop(...parts: Part[]): Fault {
  const send = async ({ oplogd, master }: Side, signal: "SIGSTOP" | "SIGCONT") => {
    for (const part of parts) {
      if (part === "sidecar") await oplogd.kill(signal);
      else master.signal(signal);
    }
  };
  return {
    name: `${parts.join(" and ")} stopped`,
    lasts: true,
    async strike(leader) {
      await send(leader, "SIGSTOP");
      return () => send(leader, "SIGCONT");
    },
  };
}
