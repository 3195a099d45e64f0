import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";

/** A store answers in a fraction of a millisecond (embedded) to seconds (etcd in trouble). */
const STORE_SECONDS = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
const RECORD_ENTRIES = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];

/** What there is of a metric beside its values. */
interface SeriesOfLogs {
  readonly labelNames?: readonly string[];
  get(): Promise<{ readonly values: readonly { readonly labels: Record<string, string | number> }[] }>;
  remove(labels: Record<string, string | number>): void;
}

/** What is exposed without being told of. */
export interface About {
  readonly version: string;
  readonly storeKind: string;
  readonly requests: { readonly bytes: number; readonly requests: number };
  readonly output: { readonly linesDropped: number };
}

/**
 * The table of all metrics: name, help, labels. Base units; no label but those below, of which `log` is bounded by the
 * option logs-max and every other by the program text.
 */
export class Metrics {
  readonly registry = new Registry();

  readonly appends = this.counter("appends_total", "Appends, by outcome: OK or the reason of the error.", [
    "log",
    "outcome",
  ]);
  readonly entriesAppended = this.counter("appended_entries_total", "Entries made durable by this sidecar.", ["log"]);
  readonly bytesAppended = this.counter("appended_bytes_total", "Bytes of those entries, before compression.", ["log"]);
  readonly commitSeconds = this.histogram(
    "commit_duration_seconds",
    "From sending a record to the store until it is known to be durable.",
    STORE_SECONDS,
    ["log"],
  );
  readonly recordEntries = this.histogram("record_entries", "Entries per record.", RECORD_ENTRIES, ["log"]);
  readonly writeRetries = this.counter("write_retries_total", "Records that had to be sent to the store again.", [
    "log",
  ]);
  readonly queueBytes = this.gauge(
    "append_queue_bytes",
    "Bytes of appends that are held: arriving, waiting, being written.",
    [],
    () => this.about.requests.bytes,
  );
  readonly queueAppends = this.gauge(
    "append_queue_appends",
    "Appends that are held.",
    [],
    () => this.about.requests.requests,
  );

  readonly term = this.gauge("term", "Term of the log as last seen.", ["log"]);
  readonly head = this.gauge("head_sequence_id", "Last durable entry as last seen.", ["log"]);
  readonly floor = this.gauge("floor_sequence_id", "First readable entry as last seen.", ["log"]);
  readonly isPrimary = this.gauge("primary", "1 while this sidecar leads the log, else 0.", ["log"]);

  readonly subscribers = this.gauge("subscribers", "Open Subscribe streams.", ["log"]);
  readonly entriesDelivered = this.counter("delivered_entries_total", "Entries sent to subscribers.", ["log"]);
  readonly bytesDelivered = this.counter("delivered_bytes_total", "Bytes of batches sent to subscribers.", ["log"]);
  readonly fellBehind = this.counter(
    "subscriber_fell_behind_total",
    "Moves of a subscriber from live to catching up.",
    ["log"],
  );
  readonly gaps = this.counter("tail_gaps_total", "Holes seen in a watch and read again.", ["log"]);
  readonly watchRestarts = this.counter("tail_watch_restarts_total", "Watches that broke and were begun anew.", [
    "log",
  ]);

  readonly viewApplied = this.gauge("view_applied_sequence_id", "Last entry applied to the view.", ["log"]);
  readonly viewKeys = this.gauge("view_keys", "Keys that the view holds.", ["log"]);
  readonly viewBytes = this.gauge("view_bytes", "Memory for keys and payloads of the view.", ["log"]);
  readonly viewPhase = this.gauge("view_phase", "1 for the phase of the view, 0 for every other.", ["log", "phase"]);
  readonly viewPhaseChanges = this.counter("view_phase_changes_total", "Changes of phase, by the new one.", [
    "log",
    "phase",
  ]);
  readonly viewKeyOrderViolations = this.counter(
    "view_key_order_violations_total",
    "Keys dropped from the view because their key_sequence_id ran backwards.",
    ["log"],
  );

  readonly viewDiverged = this.gauge(
    "view_diverged_consumers",
    "Consumers whose reported state is not that of the view at the same entry.",
    ["log"],
  );

  readonly objectsEvicted = this.counter("evicted_objects_total", "Objects removed because their lease had run out.", [
    "log",
  ]);

  readonly leadershipEnds = this.counter(
    "leadership_ends_total",
    "Candidacies that have ended, by reason, whether they had led or not.",
    ["log", "reason"],
  );
  readonly promotionSeconds = this.histogram(
    "promotion_duration_seconds",
    "Of each promotion: fencing, catching up, setting up object leases.",
    STORE_SECONDS,
    ["log", "stage"],
  );
  readonly handOvers = this.counter(
    "hand_overs_total",
    "Hand-overs by leaders here, by outcome: taken, abandoned, or failed (the leadership went elsewhere, or it is not known).",
    ["log", "outcome"],
  );
  readonly handOverHoldSeconds = this.histogram(
    "hand_over_hold_duration_seconds",
    "Of each hand-over whose target had answered: for how long appends were held back.",
    STORE_SECONDS,
    ["log", "outcome"],
  );

  readonly storeReachable = this.gauge("store_reachable", "1 if the store answered when last asked, else 0.");
  readonly storeOperationSeconds = this.histogram(
    "store_operation_duration_seconds",
    "Calls to the store, by operation (get, page, txn, …) and outcome (ok, or the kind of the failure).",
    STORE_SECONDS,
    ["operation", "outcome"],
  );
  readonly grpcRequests = this.counter("grpc_requests_total", "Finished gRPC calls, by method and status code.", [
    "method",
    "code",
  ]);
  readonly logLinesDropped = this.counter(
    "log_lines_dropped_total",
    "Log lines that were lost because nobody read standard output, or it could not be written.",
    [],
    () => this.about.output.linesDropped,
  );
  private readonly buildInfo = this.gauge("build_info", "Always 1; what runs.", ["version", "node_version", "store"]);

  constructor(private readonly about: About) {
    this.buildInfo.set({ version: about.version, node_version: process.version, store: about.storeKind }, 1);
    collectDefaultMetrics({ register: this.registry });
  }

  /** The series of these logs end. */
  async forget(logs: ReadonlySet<string>): Promise<void> {
    for (const metric of this.registry.getMetricsAsArray() as unknown as SeriesOfLogs[]) {
      if (!metric.labelNames?.includes("log")) continue;
      for (const { labels } of (await metric.get()).values) {
        const { le, ...own } = labels;
        if (own.log !== undefined && logs.has(String(own.log))) metric.remove(own);
      }
    }
  }

  /** `read`: for what is counted elsewhere. */
  private counter<L extends string = never>(
    name: string,
    help: string,
    labelNames: L[] = [],
    read?: () => number,
  ): Counter<L> {
    const counter = { name: `oplog_${name}`, help, labelNames, registers: [this.registry] };
    if (read === undefined) return new Counter(counter);
    return new Counter({
      ...counter,
      collect() {
        this.reset();
        this.inc(read());
      },
    });
  }

  /** `read`: for what stands still just when it matters, so that nobody would tell of it. */
  private gauge<L extends string = never>(
    name: string,
    help: string,
    labelNames: L[] = [],
    read?: () => number,
  ): Gauge<L> {
    const gauge = { name: `oplog_${name}`, help, labelNames, registers: [this.registry] };
    if (read === undefined) return new Gauge(gauge);
    return new Gauge({
      ...gauge,
      collect() {
        this.set(read());
      },
    });
  }

  private histogram<L extends string>(name: string, help: string, buckets: number[], labelNames: L[]): Histogram<L> {
    return new Histogram({ name: `oplog_${name}`, help, buckets, labelNames, registers: [this.registry] });
  }
}
