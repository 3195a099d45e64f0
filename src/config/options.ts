import { endpoint, listenAddress, storeEndpoint, tcpAddressOrOff } from "./addresses.js";
import {
  boolean,
  bytes,
  directory,
  duration,
  file,
  integer,
  type Kind,
  keyPrefix,
  list,
  logName,
  oneOf,
  text,
} from "./kinds.js";

/** One option. Its name is also its path in the YAML file; flag and environment variable follow from it. */
export interface Option<T> {
  /** Like "append.bytes-max". */
  readonly name: string;
  readonly kind: Kind<T>;
  /** As an operator would write it; undefined = not set unless given. */
  readonly default: string | undefined;
  readonly help: string;
  /** Why an empty value is refused, also that of a variable: what it would mean is not what most have in mind. */
  readonly refusesEmpty?: string;
}

const KiB = 1024;
const MiB = 1024 * KiB;
const GiB = 1024 * MiB;
const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const YEAR_MS = 365 * 24 * 60 * MINUTE_MS;

/** Replaced by the name of the machine. */
export const HOSTNAME_DEFAULT = "the host name";

const identity = {
  sidecarId: option(
    "sidecar.id",
    text("NAME", /^[A-Za-z0-9_.-]{1,128}$/, "1 to 128 characters of [A-Za-z0-9_.-]"),
    HOSTNAME_DEFAULT,
    "Name of this sidecar, unique among those that share a store.",
  ),
  listen: option("listen", list(listenAddress), "127.0.0.1:7450", "Where the gRPC API is served."),
  advertise: optional(
    "advertise",
    endpoint,
    "Where others reach this sidecar; told to those who should talk to the primary. Default: the first TCP address " +
      "of --listen.",
  ),
  adminListen: option(
    "admin.listen",
    tcpAddressOrOff,
    "127.0.0.1:7451",
    "Where /metrics, /healthz and /readyz are served over HTTP.",
  ),
  connectionsMax: option(
    "connections-max",
    integer(1, 1_000_000),
    "10000",
    "Most open connections for each address of --listen. Those beyond it are closed at once.",
  ),
  callsMax: option(
    "calls-max",
    integer(1, 1_000_000),
    "10000",
    "Most calls at a time that are answered once. More are refused with RESOURCE_EXHAUSTED.",
  ),
  campaignsMax: option("campaigns-max", integer(1, 100_000), "1000", "Most open Campaign streams."),
  reflection: option("reflection", boolean, "true", "Serve gRPC reflection, so that grpcurl needs no files."),
};

const store = {
  etcdEndpoints: {
    ...option(
      "etcd.endpoints",
      list(storeEndpoint),
      "",
      "Members of the etcd cluster that holds the logs. Without this option the logs are kept in --data-dir, for one " +
        "machine. It must not be empty, nor must its variable.",
    ),
    refusesEmpty: "names no endpoint; without the option the logs are kept in --data-dir, for one machine",
  },
  etcdClusterId: optional(
    "etcd.cluster-id",
    text("HEX", /^[0-9a-f]{1,16}$/, "1 to 16 of 0-9 and a-f, as GetStatus tells it"),
    "Id of the only etcd cluster to be used. Unset: that of whoever answers first, unless the logs there name another.",
  ),
  etcdUsername: optional("etcd.username", text("NAME", /^.+$/, "at least one character"), "User at etcd."),
  etcdPasswordFile: optional("etcd.password-file", file, "File with the password of that user; read at each login."),
  etcdCaFile: optional("etcd.ca-file", file, "Certificates (PEM) that vouch for etcd; needed for https://."),
  etcdCertFile: optional("etcd.cert-file", file, "Certificate (PEM) that this sidecar shows to etcd."),
  etcdKeyFile: optional("etcd.key-file", file, "Private key (PEM) of that certificate."),
  etcdRequestTimeoutMs: option(
    "etcd.request-timeout",
    duration(100, MINUTE_MS),
    "3s",
    "How long one request to etcd may take before its outcome counts as unknown.",
  ),
  dataDir: option("data-dir", directory, "./data", "Where the embedded store keeps its files."),
  keyPrefix: option(
    "key-prefix",
    keyPrefix,
    "/oplog",
    "All keys in the store start with this. Sidecars of one system must agree on it.",
  ),
};

const append = {
  leadership: option(
    "leadership",
    oneOf("auto", "elected"),
    "auto",
    "Who leads a log that nobody has campaigned for or claimed by token: auto = the first sidecar that is asked to append; " +
      "elected = nobody, appends are refused until a master has won.",
  ),
  appendEntriesMax: option("append.entries-max", integer(1, 10_000), "10000", "Most entries in one append."),
  appendBytesMax: option(
    "append.bytes-max",
    bytes(4 * KiB, 1_100_000),
    "1MiB",
    "Most bytes in one append. It must fit one request to etcd, which takes 1.5MiB.",
  ),
  appendQueueBytesMax: option(
    "append.queue-bytes-max",
    bytes(4 * KiB, 16 * GiB),
    "64MiB",
    "Most bytes of appends that are held, over all logs: arriving, waiting, being written. Calls beyond it are refused " +
      "with RESOURCE_EXHAUSTED, streams are paced.",
  ),
  appendQueueAppendsMax: option(
    "append.queue-appends-max",
    integer(1, 10_000_000),
    "100000",
    "Most appends that are held, over all logs.",
  ),
  appendStreamsMax: option("append.streams-max", integer(1, 100_000), "1000", "Most open AppendStream streams."),
  appendWriteDeadlineMs: option(
    "append.write-deadline",
    duration(SECOND_MS, 10 * MINUTE_MS),
    "30s",
    "How long a write is tried again while the store is away. After that its appends end in UNKNOWN.",
  ),
  appendCompression: option("append.compression", oneOf("lz4", "none"), "lz4", "How records are compressed at rest."),
};

const subscribe = {
  subscribeCacheBytesMax: option(
    "subscribe.cache-bytes-max",
    bytes(64 * KiB, 16 * GiB),
    "64MiB",
    "Memory for the newest entries of one log, from which subscribers are served.",
  ),
  subscribeBufferBytesMax: option(
    "subscribe.buffer-bytes-max",
    bytes(64 * KiB, GiB),
    "4MiB",
    "Most bytes on their way to one subscriber. A slower one falls back to reading history.",
  ),
  subscribeBuffersBytesMax: option(
    "subscribe.buffers-bytes-max",
    bytes(64 * KiB, 64 * GiB),
    "256MiB",
    "Most bytes on their way to all subscribers together. Beyond it each gets one message at a time.",
  ),
  subscribeStreamsMax: option(
    "subscribe.streams-max",
    integer(1, 100_000),
    "1000",
    "Most open Subscribe streams, and most open streams of each of WatchStatus, WatchLeader and ScanState.",
  ),
  logsMax: option(
    "logs-max",
    integer(1, 100_000),
    "1000",
    "Most logs that are in use at one time: followed, written, or asked about in the last seconds.",
  ),
  cursorExpiryMs: option(
    "cursor-expiry",
    duration(0, 10 * YEAR_MS),
    "168h",
    "How long the cursor of a consumer may stay where it is while the log goes on, before the leader removes it; 0 = for " +
      "ever, else at least 5m. A log has room for 1,000 cursors.",
  ),
  views: option(
    "views",
    list(logName),
    "",
    "Logs whose state this sidecar keeps in memory, for StandbyService: the last value of each key.",
  ),
  objectLeaseDefaultMs: optional(
    "object-lease-default",
    duration(SECOND_MS, 10 * YEAR_MS),
    "How long an object of a log in --views stays without a lease of its own, while a candidate at this sidecar leads. " +
      "Then it is removed. Unset: nothing is removed.",
  ),
  tailHeadPollMs: option(
    "tail.head-poll",
    duration(50, MINUTE_MS),
    "1s",
    "How often the head of a log is compared with what the watch has delivered.",
  ),
};

const operation = {
  shutdownDeadlineMs: option(
    "shutdown.deadline",
    duration(0, 10 * MINUTE_MS),
    "10s",
    "How long open work may take to finish after SIGTERM before it is cut off.",
  ),
  logLevel: option(
    "log.level",
    oneOf("trace", "debug", "info", "warn", "error"),
    "info",
    "Least severe line logged. SIGHUP reads it again.",
  ),
  logFormat: option("log.format", oneOf("auto", "json", "pretty"), "auto", "auto = pretty on a terminal, else json."),
};

/** All options, as the help groups them. */
export const sections = [
  { title: "Identity and addresses", options: identity },
  { title: "Store", options: store },
  { title: "Appends", options: append },
  { title: "Subscribers and logs", options: subscribe },
  { title: "Operation", options: operation },
] as const;

/** The same by the name of the setting in the program. */
export const optionTable = { ...identity, ...store, ...append, ...subscribe, ...operation };

export type OptionKey = keyof typeof optionTable;
export const optionKeys = Object.keys(optionTable) as OptionKey[];

type ValueOf<O> = O extends Option<infer T> ? T : never;
export type Settings = { readonly [Key in OptionKey]: ValueOf<(typeof optionTable)[Key]> };

export function refusesEmpty(key: OptionKey): string | undefined {
  return (optionTable[key] as Option<unknown>).refusesEmpty;
}

export function flagOf(name: string): string {
  return `--${name.replaceAll(".", "-")}`;
}

export function environmentVariableOf(name: string): string {
  return `OPLOG_${name.replaceAll(/[.-]/g, "_").toUpperCase()}`;
}

function option<T>(name: string, kind: Kind<T>, defaultText: string, help: string): Option<T> {
  return { name, kind, default: defaultText, help };
}

function optional<T>(name: string, kind: Kind<T>, help: string): Option<T | undefined> {
  return { name, kind, default: undefined, help };
}
