import { join } from "node:path";
import { startEtcd } from "../support/etcd.js";
import type { TempDir } from "../support/temp-dir.js";

export type StoreKind = "embedded" | "etcd";

export interface Store {
  /** What makes oplogd use it. */
  readonly args: readonly string[];
  stop(): Promise<void>;
}

export async function startStore(kind: StoreKind, directory: TempDir): Promise<Store> {
  const dataDir = ["--data-dir", join(directory.path, "data")];
  if (kind === "embedded") return { args: dataDir, stop: async () => {} };
  const etcd = await startEtcd({ binary: { path: "etcd", version: "of this system" } });
  return { args: [...dataDir, "--etcd-endpoints", etcd.endpoint], stop: () => etcd.stop() };
}
