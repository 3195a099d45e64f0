import { readFileSync } from "node:fs";
import type { Config } from "./config/config.js";
import { systemClock } from "./oplog/clock.js";
import { storeAnchorKey } from "./oplog/keys.js";
import type { KvStore } from "./oplog/kv-store.js";
import { AnchoredKvStore } from "./stored/anchored-kv-store.js";
import { EmbeddedKvStore } from "./stores/embedded/embedded-kv-store.js";
import { EtcdKvStore } from "./stores/etcd/etcd-kv-store.js";
import type { Logger } from "./telemetry/logger.js";

export interface OpenedStore {
  readonly store: KvStore;
  /**
   * Etcd, which may be replaced under a running sidecar, or have been while it was stopped. A data directory cannot: whoever
   * opens it is alone, and a copy of it is the same to all there is to see.
   */
  readonly anchored?: AnchoredKvStore;
}

/** The store that the configuration names. An embedded one is opened; etcd need not be there. */
export async function openStore(config: Config, logger: Logger): Promise<OpenedStore> {
  if (config.storeKind === "embedded") {
    return { store: await EmbeddedKvStore.open({ directory: config.dataDir, logger }) };
  }
  const { keyPrefix, sidecarId } = config;
  const open = etcdOpener(config, logger);
  const key = storeAnchorKey(keyPrefix);
  const anchored = new AnchoredKvStore({ open, key, sidecarId, clock: systemClock, logger });
  return { store: anchored, anchored };
}

function etcdOpener(config: Config, logger: Logger): () => EtcdKvStore {
  const { etcdUsername, etcdPasswordFile, etcdCaFile, etcdCertFile, etcdKeyFile } = config;
  const password = etcdPasswordFile && readFileSync(etcdPasswordFile, "utf8").trimEnd();
  const pair = etcdCertFile && etcdKeyFile ? { cert: readFileSync(etcdCertFile), key: readFileSync(etcdKeyFile) } : {};
  const options = {
    endpoints: config.etcdEndpoints,
    requestTimeoutMs: config.etcdRequestTimeoutMs,
    logger,
    ...(config.etcdClusterId === undefined ? {} : { clusterId: config.etcdClusterId }),
    ...(etcdUsername && password ? { username: etcdUsername, password } : {}),
    ...(etcdCaFile ? { tls: { ca: readFileSync(etcdCaFile), ...pair } } : {}),
  };
  return () => new EtcdKvStore(options);
}
