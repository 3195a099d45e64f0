import { readFileSync } from "node:fs";
import type { Config } from "./config/config.js";
import type { KvStore } from "./oplog/kv-store.js";
import { EmbeddedKvStore } from "./stores/embedded/embedded-kv-store.js";
import { EtcdKvStore } from "./stores/etcd/etcd-kv-store.js";
import type { Logger } from "./telemetry/logger.js";

/** The store that the configuration names. An embedded one is opened; etcd need not be there. */
export async function openStore(config: Config, logger: Logger): Promise<KvStore> {
  if (config.storeKind === "embedded") return EmbeddedKvStore.open({ directory: config.dataDir, logger });
  const { etcdUsername, etcdPasswordFile, etcdCaFile, etcdCertFile, etcdKeyFile } = config;
  const password = etcdPasswordFile && readFileSync(etcdPasswordFile, "utf8").trimEnd();
  const pair = etcdCertFile && etcdKeyFile ? { cert: readFileSync(etcdCertFile), key: readFileSync(etcdKeyFile) } : {};
  return new EtcdKvStore({
    endpoints: config.etcdEndpoints,
    requestTimeoutMs: config.etcdRequestTimeoutMs,
    logger,
    ...(etcdUsername && password ? { username: etcdUsername, password } : {}),
    ...(etcdCaFile ? { tls: { ca: readFileSync(etcdCaFile), ...pair } } : {}),
  });
}
