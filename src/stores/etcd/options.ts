export interface EtcdOptions {
  /** Like "http://10.0.0.1:2379"; with "https://" or `tls`, over TLS. */
  readonly endpoints: readonly string[];
  /** A client certificate serves better: tokens expire, and a watch notices only when it breaks. */
  readonly username?: string;
  readonly password?: EtcdPassword;
  /** Contents of PEM files. */
  readonly tls?: EtcdTls;
  /** For one endpoint to accept a connection, before the next is tried. */
  readonly dialTimeoutMs?: number;
  /** For a whole call, unless the call says otherwise. */
  readonly requestTimeoutMs?: number;
  readonly logger?: EtcdLogger;
  /** In hex: no other cluster is taken. Undefined: that of whoever answers first. */
  readonly clusterId?: string;
}

export interface EtcdPassword {
  /** Asked at each login. */
  read(): string;
  /** Another one than at the last login: the next call logs in anew. */
  readonly version: number;
}

export interface EtcdTls {
  readonly ca: Buffer;
  readonly cert?: Buffer;
  readonly key?: Buffer;
}

export interface EtcdLogger {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}
