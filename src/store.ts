import { readFileSync } from "node:fs";
import type { Config } from "./config/config.js";
import { systemClock } from "./oplog/clock.js";
import { storeAnchorKey } from "./oplog/keys.js";
import type { KvStore } from "./oplog/kv-store.js";
import { AnchoredKvStore } from "./stored/anchored-kv-store.js";
import { EmbeddedKvStore } from "./stores/embedded/embedded-kv-store.js";
import { EtcdKvStore } from "./stores/etcd/etcd-kv-store.js";
import type { EtcdPassword } from "./stores/etcd/options.js";
import type { Logger } from "./telemetry/logger.js";

export interface OpenedStore {
  readonly store: KvStore;
  /**
   * Etcd, which may be replaced under a running sidecar, or have been while it was stopped. A data directory cannot: whoever
   * opens it is alone, and a copy of it is the same to all there is to see.
   */
  readonly anchored?: AnchoredKvStore;
  /** Logs in anew, with what the files of the configuration hold now. */
  renewCredentials(): void;
}

/** The store that the configuration names. An embedded one is opened; etcd need not be there. */
export async function openStore(config: Config, logger: Logger): Promise<OpenedStore> {
  if (config.storeKind === "embedded") {
    const store = await EmbeddedKvStore.open({ directory: config.dataDir, logger });
    return { store, renewCredentials: () => undefined };
  }
  const { keyPrefix, sidecarId, etcdPasswordFile } = config;
  const password = etcdPasswordFile === undefined ? undefined : new PasswordFile(etcdPasswordFile, logger);
  const open = etcdOpener(config, password, logger);
  const key = storeAnchorKey(keyPrefix);
  const anchored = new AnchoredKvStore({ open, key, sidecarId, clock: systemClock, logger });
  return { store: anchored, anchored, renewCredentials: () => password?.renew() };
}

function etcdOpener(config: Config, password: PasswordFile | undefined, logger: Logger): () => EtcdKvStore {
  const { etcdUsername, etcdCaFile, etcdCertFile, etcdKeyFile } = config;
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

/** Read at each login, so that a password can be changed while this runs; what was read last serves while it cannot be. */
class PasswordFile implements EtcdPassword {
  version = 0;
  private password: string;

  constructor(
    private readonly path: string,
    private readonly logger: Logger,
  ) {
    this.password = readFileSync(path, "utf8").trimEnd();
  }

  read(): string {
    const { path } = this;
    try {
      this.password = readFileSync(path, "utf8").trimEnd();
    } catch (error) {
      this.logger.warn({ event: "password_unreadable", path, err: error }, `cannot read ${path}; using what it held`);
    }
    return this.password;
  }

  renew(): void {
    this.version++;
  }
}
